"""What other programs left in the environment does not reach a job, and what a user set for it does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure import sensors
from groupppo.run.environment import for_job, for_run, given_gpus
from tests.conftest import shared_cache
from tests.measure.fake_nvml import Device, FakeNvml

OF_OTHERS = {
    "RAY_ADDRESS": "10.0.0.1:6379",
    "RAY_NAMESPACE": "theirs",
    "VERL_USE_MODELSCOPE": "True",
    "VLLM_CPU_KVCACHE_SPACE": "x",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "3",
    "TORCHELASTIC_RUN_ID": "x",
    "ACCELERATE_USE_FSDP": "1",
    "PMIX_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "8",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
}
OF_THE_USER = {
    "PATH": "/bin",
    "PYTHONPATH": "/mine",
    "HF_HOME": "/models",
    "WANDB_MODE": "online",
    "SLURM_JOB_ID": "7",  # by which a run finds the nodes of its job
    "NCCL_SOCKET_IFNAME": "ib0",
    "VERL_USE_EXTERNAL_MODULES": "mine",
    "http_proxy": "http://proxy:3128",
}
DEVICES = {"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1", "ASCEND_RT_VISIBLE_DEVICES": "1"}
THREADS = {"OMP_NUM_THREADS": "8", "OMP_PROC_BIND": "true", "MKL_NUM_THREADS": "8"}


def test_a_job_sees_what_the_user_set_and_nothing_of_other_programs() -> None:
    assert for_job(OF_OTHERS | OF_THE_USER | DEVICES | THREADS) == OF_THE_USER | DEVICES | THREADS


def test_a_run_on_a_cpu_sees_no_devices_and_one_on_gpus_those_it_was_given_and_neither_anybodys_threads() -> None:
    everything = OF_OTHERS | OF_THE_USER | DEVICES | THREADS
    assert for_run(everything, "cpu") == OF_THE_USER
    # Slurm sets the variables of all makers of GPUs, and verl refuses two of them together.
    assert for_run(everything, "cuda") == OF_THE_USER | {"CUDA_VISIBLE_DEVICES": "1"}


WORKFLOW = """
include: "{repository}/Snakefile"

rule seen:
    output: "seen"
    shell: "env > seen"
"""


def test_the_jobs_of_the_workflow_inherit_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "workflow.smk").write_text(WORKFLOW.format(repository=REPOSITORY))
    for name in ("benchmarks", "results"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", "workflow.smk", "--cores", "1", "seen"]
    variables = os.environ | OF_OTHERS | {"XDG_CACHE_HOME": shared_cache(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(snakemake, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines() if "=" in line)
    assert not seen.keys() & OF_OTHERS.keys()
    assert seen["PATH"] == os.environ["PATH"]


# ---- which GPUs a job gets

JOB = """
import os, sys
from groupppo.measure import sensors
from groupppo.run import environment
from tests.measure.fake_nvml import Device, FakeNvml
machine, count, holds = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "holds"
sensors.pynvml = FakeNvml(*(Device(uuid=f"GPU-{machine}-{index}") for index in range(4)))
if not holds:
    import socket
    environment._lease = lambda uuid: socket.socket()
with environment.given_gpus(count):
    print("has", os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"], flush=True)
    sys.stdin.read()
print("left", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
"""


class Jobs:
    """Processes on one machine of four GPUs, each of which asks for some and keeps them until it is told to end."""

    def __init__(self, machine: str):
        self.machine = machine
        self.all: list[subprocess.Popen[str]] = []

    def start(
        self, count: int, *, visible: str | None = None, holds: bool = True, **more: str
    ) -> subprocess.Popen[str]:
        given = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        none = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID")
        kept = {name: value for name, value in os.environ.items() if name not in none}
        command = [sys.executable, "-c", JOB, self.machine, str(count), "holds" if holds else "does not"]
        job = subprocess.Popen(
            command, cwd=REPOSITORY, env=kept | given | more, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.all.append(job)
        return job


def line(job: subprocess.Popen[str]) -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


def devices(job: subprocess.Popen[str]) -> set[str]:
    word, names, order = line(job).split()
    assert (word, order) == ("has", "PCI_BUS_ID")
    return set(names.split(","))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    machine = Jobs(f"{os.getpid()}-{tmp_path.name}")
    yield machine
    for job in machine.all:
        job.kill()
        job.communicate()


def test_runs_side_by_side_never_share_a_gpu_and_a_killed_one_gives_its_own_back(jobs: Jobs) -> None:
    running = [jobs.start(count) for count in (1, 1, 2)]
    held = [devices(job) for job in running]
    assert [len(names) for names in held] == [1, 1, 2]
    assert set.union(*held) == {"0", "1", "2", "3"}
    late = jobs.start(2)
    assert line(late).startswith("waiting for 2 GPU(s): 0 held by process ")
    running[2].kill()
    assert devices(late) == held[2]
    output, _ = late.communicate("")
    assert output.strip() == "left None"
    again = jobs.start(2)
    assert devices(again) == held[2]


LAUNCHER = """
import os, subprocess, sys
from groupppo.run.family import marked, scratch
with scratch() as folder:
    print(subprocess.Popen(["sleep", "600"], env=os.environ | marked(folder)).pid, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_launcher_left_is_ended_before_a_gpu_is_used(jobs: Jobs) -> None:
    command = [sys.executable, "-c", LAUNCHER]
    launcher = subprocess.Popen(command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    jobs.all.append(launcher)
    worker = psutil.Process(int(line(launcher)))
    devices(jobs.start(1))
    assert worker.is_running()  # of a launcher that lives
    launcher.kill()
    launcher.wait()
    devices(jobs.start(1))
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_runs_that_hold_nothing_would_share_a_gpu(jobs: Jobs) -> None:
    first, second = (jobs.start(1, holds=False) for _ in range(2))
    assert devices(first) == devices(second) == {"0"}


def test_what_a_user_names_is_shared_out_and_what_slurm_gives_stands(jobs: Jobs) -> None:
    named = f"3,GPU-{jobs.machine}-1"
    first, second = (jobs.start(1, visible=named) for _ in range(2))
    assert devices(first) | devices(second) == set(named.split(","))
    other_name = jobs.start(1, visible="1,0")  # the second of those under its index
    assert devices(other_name) == {"0"}
    slurm = jobs.start(2, visible="0,1", SLURM_JOB_ID="7", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert devices(slurm) == {"0", "1"}
    whole_node = jobs.start(1, visible="0,1,2,3", SLURM_JOB_ID="7")
    assert devices(whole_node) == {"2"}


@pytest.mark.parametrize(("count", "visible"), [(5, None), (3, "0,1"), (2, "1,1"), (1, ""), (1, "GPU-none")])
def test_gpus_that_are_not_there_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None
) -> None:
    monkeypatch.setattr(sensors, "pynvml", FakeNvml(*(Device(uuid=f"GPU-{index}") for index in range(4))))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(BadInput, match=f"run on a machine with {count} GPU") as error, given_gpus(count):
        pass
    assert error.value.key == "CUDA_VISIBLE_DEVICES"


# ---- where the repository and its environment are


@pytest.mark.parametrize(
    ("name", "taken"),
    [("a b", False), ("it's", False), ("$(x)", False), ("a:b", False), ("a#b", False), ("é_1.2+@%=,~-", True)],
)
def test_make_refuses_a_path_that_cannot_work_before_it_installs_anything(
    tmp_path: Path, name: str, taken: bool
) -> None:
    for part in ("Makefile", "requirements/cpu.lock", "requirements/install.sh", "pyproject.toml"):
        (tmp_path / name / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / part, tmp_path / name / part)
    # In the place of Python and pip: whoever asks them to install leaves this file.
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch '{tmp_path}/asked'\nexit 7\n")
    python.chmod(0o755)
    alone = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", f"PYTHON={python}"], cwd=tmp_path / name, env=alone, capture_output=True, text=True)
    assert done.returncode != 0
    assert (tmp_path / "asked").exists() == taken
    told = f"the path of this folder, {tmp_path / name}, holds a blank or another character"
    assert (told in done.stderr) != taken
    assert taken or (len(done.stderr.splitlines()), done.stdout) == (1, "")


def test_a_plan_is_refused_where_snakemake_could_not_start_its_scripts(tmp_path: Path) -> None:
    """By an environment that is this one in all but its path."""
    told = {}
    for name in ("a b", "ab"):
        (tmp_path / name / "bin").mkdir(parents=True)
        shutil.copy2(Path(sys.prefix, "pyvenv.cfg"), tmp_path / name)
        (tmp_path / name / "lib").symlink_to(Path(sys.prefix, "lib"))
        python = tmp_path / name / "bin" / "python"
        python.symlink_to(os.path.realpath(sys.executable))
        snakemake = [str(python), "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--dry-run"]
        variables = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(snakemake, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
        told[name] = f"environment: its Python = {str(python)!r}" in done.stdout + done.stderr
    assert told == {"a b": True, "ab": False}
