"""The lock of a Snakemake that was killed is lifted; that of one that lives, or may live, is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from groupppo.takeover import HOLDER, Presence

CODE = """
import os, sys
from pathlib import Path
from groupppo.takeover import Presence
presence = Presence(Path(sys.argv[1]), submits=sys.argv[2] == "slurm")
print("lifted" if presence.lifted else "left", flush=True)
if sys.argv[3] == "waits":
    sys.stdin.read()
if sys.argv[3] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Snakemake's folder with a lock in it."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "0.output.lock").write_text("a\n")
    return tmp_path


def locked(folder: Path) -> bool:
    return (folder / "locks" / "0.output.lock").exists()


def process(folder: Path, executor: str, ending: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(folder), executor, ending]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended(folder: Path, executor: str, ending: str) -> str:
    return process(folder, executor, ending).communicate()[0].strip()


def test_the_lock_of_one_that_was_killed_is_lifted_once(folder: Path) -> None:
    assert ended(folder, "slurm", "killed") == "left"
    assert locked(folder)
    assert ended(folder, "slurm", "returns") == "lifted"
    assert not locked(folder)


def test_a_lock_that_one_which_ended_by_itself_left_is_not_lifted(folder: Path) -> None:
    assert ended(folder, "slurm", "returns") == "left"
    assert ended(folder, "slurm", "returns") == "left"
    assert locked(folder)


@pytest.mark.parametrize("living", ["slurm", "here"])
def test_the_lock_is_left_while_another_one_lives(folder: Path, living: str) -> None:
    ended(folder, "slurm", "killed")
    with process(folder, living, "waits") as other:
        assert other.stdout is not None
        other.stdout.readline()
        (folder / "locks").mkdir(exist_ok=True)
        (folder / "locks" / "0.output.lock").write_text("its own\n")
        assert ended(folder, "slurm", "returns") == "left"
        assert locked(folder)
        other.communicate("")


def test_jobs_of_one_that_ran_them_itself_may_be_alive(folder: Path) -> None:
    ended(folder, "here", "killed")
    assert ended(folder, "slurm", "returns") == "left"
    ended(folder, "slurm", "killed")
    assert ended(folder, "here", "returns") == "left"
    assert locked(folder)


def test_another_host_cannot_know(folder: Path) -> None:
    ended(folder, "slurm", "killed")
    (folder / HOLDER).write_text("elsewhere")
    assert not Presence(folder, submits=True).lifted
    assert locked(folder)
