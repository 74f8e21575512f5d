"""One local Slurm for all tests in this folder, and folders in which Snakemake uses this repository's profile."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY, load_benchmark, load_task
from groupppo.models import build_model
from groupppo.tasks.build import build_task
from tests.cluster.local_slurm import DAEMONS, Cluster, missing, running, title_of
from tests.conftest import shared_cache

HERE = Path(__file__).parent
# A look at the queue of this machine costs nothing; the profile spares a real cluster's controller.
QUICK_LOOKS = ("--groupppo-slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")
# No test asserts a time; this is when one that waits gives up, on a machine that is busy with other things.
PATIENCE = 240

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; without its packages every test that asks for it is skipped, and says what is missing."""
    if absent := missing():
        pytest.skip(f"NOT TESTED ON SLURM: {', '.join(absent)} missing; install Debian's slurm-wlm and munge")
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_survives(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no job is left, and no process but the daemons: what a job started ends with it."""
    yield
    if "cluster" in request.fixturenames:
        started: Cluster = request.getfixturevalue("cluster")
        started.run("scancel", "--user", started.run("id", "-un").strip())
        assert eventually(lambda: not started.jobs(states="pending,running,completing"))
        assert eventually(lambda: not strangers(started)), strangers(started)


def strangers(cluster: Cluster) -> list[str]:
    """Command lines of the cluster's processes that are neither its daemons nor their supervisor."""
    titles = [title for title in map(title_of, cluster.processes()) if title and "--supervise" not in title]
    # A child of slurmctld calls itself "slurmctld: slurmscriptd".
    return [title for title in titles if Path(title.split()[0]).name.rstrip(":") not in DAEMONS]


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with the rules of stub.smk and this repository's profiles, found as in a fresh clone."""
    copy_stub(tmp_path)
    return tmp_path


def copy_stub(folder: Path) -> None:
    shutil.copy2(HERE / "stub.smk", folder / "Snakefile")
    copy_workflow(folder)


def copy_workflow(folder: Path) -> None:
    shutil.copy2(HERE / "looks.smk", folder)
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    for link in ("profiles", "slurm"):
        (folder / link).symlink_to((REPOSITORY / link).readlink())


def copy_project(folder: Path) -> None:
    """This repository as a user has it, for tests that change its benchmarks."""
    copy_workflow(folder)
    shutil.copytree(REPOSITORY / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("site.yaml"))
    for name in ("environment.yml", "requirements"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "Snakefile").write_text((REPOSITORY / "Snakefile").read_text() + '\n\ninclude: "looks.smk"\n')


def make_assets(project: Path, benchmark: str) -> None:
    """The task, the model and a start of a benchmark of one cell, made here: small, and a start that learnt nothing."""
    file = project / "benchmarks" / f"{benchmark}.yaml"
    matrix = yaml.safe_load(file.read_text())
    (name,), (task_name,) = matrix["models"], matrix["tasks"]
    assets = project / "results" / benchmark / "assets"
    task = load_task(project / "benchmarks" / "tasks" / f"{task_name}.yaml")
    build_task(replace(task, splits={"train": 60, "dev": 10, "test": 10}), assets / "tasks" / task_name)
    build_model(load_benchmark(file).models[name], assets / "models" / name)
    shutil.copytree(assets / "models" / name, assets / "starts" / task_name / name)


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """`start(FOLDER, ARGUMENTS...)` starts `snakemake --profile slurm` there; none outlives the test.

    With `programs`, a folder of programs that are found before Slurm's.
    """
    with snakemakes(cluster) as starting:
        yield starting


@contextlib.contextmanager
def snakemakes(cluster: Cluster) -> Iterator[Start]:
    """Starts Snakemake in a folder, its output in snakemake.log there, and kills what is left of it in the end.

    One that outlived its test would submit jobs again that the next test cancels.
    """
    started: list[subprocess.Popen[str]] = []

    def starting(folder: Path, *arguments: str, programs: Path | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *QUICK_LOOKS, *arguments]
        variables = cluster.environment | {"XDG_CACHE_HOME": shared_cache(folder), "PYTHONPATH": str(REPOSITORY)}
        if programs is not None:
            variables["PATH"] = f"{programs}:{variables['PATH']}"
        with (folder / "snakemake.log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=log, stderr=log, text=True, preexec_fn=_heed_ctrl_c
            )
        started.append(process)
        return process

    try:
        yield starting
    finally:
        for process in started:
            process.kill()
            process.wait()


def _heed_ctrl_c() -> None:
    """A shell without job control starts what it puts in the background deaf to SIGINT, and children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def said(folder: Path) -> str:
    return (folder / "snakemake.log").read_text()


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether something becomes true before the time is over."""
    until = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < until:
        time.sleep(0.2)
    return true


def attempts(folder: Path, rule: str) -> list[tuple[int, ...]]:
    """Job, MB and minutes of each attempt at a rule of the stub."""
    file = folder / f"{rule}.attempts"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [tuple(map(int, line.split())) for line in lines]
