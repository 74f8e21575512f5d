"""One local Slurm for all tests in this folder, and folders in which Snakemake uses this repository's profile."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from tests.cluster.local_slurm import Cluster, missing, running

HERE = Path(__file__).parent
# A look at the queue of this machine costs nothing; the profile spares a real cluster's controller.
QUICK_LOOKS = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; without its packages every test that asks for it is skipped, and says what is missing."""
    if absent := missing():
        pytest.skip(f"NOT TESTED ON SLURM: {', '.join(absent)} missing; install Debian's slurm-wlm and munge")
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_job_survives(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a job behind would take nodes from the next one."""
    yield
    if "cluster" in request.fixturenames:
        started: Cluster = request.getfixturevalue("cluster")
        started.run("scancel", "--user", started.run("id", "-un").strip())
        assert eventually(lambda: not started.jobs(states="pending,running,completing"))


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with the rules of stub.smk and this repository's profiles, found as in a fresh clone."""
    shutil.copy2(HERE / "stub.smk", tmp_path / "Snakefile")
    copy_workflow(tmp_path)
    return tmp_path


def copy_workflow(folder: Path) -> None:
    shutil.copy2(HERE / "looks.smk", folder)
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    for link in ("profiles", "slurm"):
        (folder / link).symlink_to((REPOSITORY / link).readlink())


def start(
    cluster: Cluster, folder: Path, *arguments: str, looks: tuple[str, ...] = QUICK_LOOKS
) -> subprocess.Popen[str]:
    """`snakemake --profile slurm` in a folder, its output in snakemake.log there."""
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *looks, *arguments]
    variables = cluster.environment | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
    with (folder / "snakemake.log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log, text=True)


def said(folder: Path) -> str:
    return (folder / "snakemake.log").read_text()


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something becomes true before the time is over."""
    until = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < until:
        time.sleep(0.5)
    return true


def attempts(folder: Path, rule: str) -> list[tuple[int, ...]]:
    """Job, MB and minutes of each attempt at a rule of the stub."""
    file = folder / f"{rule}.attempts"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [tuple(map(int, line.split())) for line in lines]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
