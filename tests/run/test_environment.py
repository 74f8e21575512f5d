"""What other programs left in the environment does not reach a job, and what a user set for it does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from groupppo.run.environment import for_job, for_run
from tests.conftest import shared_cache

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
