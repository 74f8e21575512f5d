"""The executor, with stand-ins for Slurm's programs: what it submits, refuses and reports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SNAKEFILE = """
rule all:
    input: expand("{n}.txt", n=[1, 2, 3])

rule one:
    output: "{n}.txt"
    resources: runtime=1, mem_mb=100
    shell: "touch {output}"
"""
# A job runs at once; its number is that of the submissions so far, of an array those of its tasks.
SBATCH = """
echo "$@" >> calls
number=$(wc -l < calls)
tasks=$(echo "$*" | sed -n 's/.*--array=1-\\([0-9]*\\).*/\\1/p')
for last; do true; done
command=${last#--wrap=}
if [ -e "failing" ]; then rm failing; echo "$number|NODE_FAIL|None|n7" >> states
elif [ -n "$tasks" ]; then
    for task in $(seq $tasks); do
        SLURM_ARRAY_TASK_ID=$task; export SLURM_ARRAY_TASK_ID
        sh -c "$command" > log 2>&1; echo "${number}_$task|COMPLETED|None|n1" >> states
    done
else sh -c "$command" > log 2>&1; echo "$number|COMPLETED|None|n1" >> states
fi
echo $number
"""
PROGRAMS = {
    "sbatch": SBATCH,
    "squeue": 'case "$*" in *--states=all*) cat states;; esac',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    **dict.fromkeys(("scancel", "sacctmgr", "sinfo", "scontrol"), "exit 0"),
    "sacct": "exit 1",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "states").touch()
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> tuple[int, str]:
    options = ("--executor", "groupppo-slurm", "--groupppo-slurm-init-seconds-before-status-checks", "1")
    variables = os.environ | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options, *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_node_that_failed_is_named_and_gets_no_later_job(folder: Path) -> None:
    (folder / "failing").touch()
    code, said = snakemake(folder, "--jobs", "1", "--retries", "1", "1.txt")
    assert code == 0, said
    assert "status is: 'NODE_FAIL'. Reason: Unknown. Later jobs are not sent to n7." in said
    assert ["--exclude=n7" in call for call in (folder / "calls").read_text().splitlines()] == [False, True]


def test_an_option_of_the_stock_executor_in_a_profile_is_refused_with_its_new_name(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "config.yaml").write_text("slurm-array-limit: 7\nslurm-no-requeue: true\n")
    code, said = snakemake(folder, "--profile", "mine", "--jobs", "1", "1.txt")
    assert code == 1
    assert "slurm-array-limit: write groupppo-slurm-array-limit" in said
    assert "slurm-no-requeue: write groupppo-slurm-no-requeue" in said
    assert not (folder / "calls").exists()


@pytest.mark.parametrize(("jobs", "submissions"), [("1", 3), ("2", 2)])
def test_with_fewer_jobs_at_once_than_there_are_an_array_has_those_that_may_run(
    folder: Path, jobs: str, submissions: int
) -> None:
    code, said = snakemake(folder, "--jobs", jobs, "--groupppo-slurm-array-jobs", "all")
    assert code == 0, said
    assert len((folder / "calls").read_text().splitlines()) == submissions
