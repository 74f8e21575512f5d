"""The jobs of a Snakemake that was killed end, and its lock is lifted; that of one that lives, or may live, is not."""

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from groupppo.config import REPOSITORY
from groupppo.slurm import takeover
from groupppo.slurm.takeover import HOLDER, WORKING, Presence

CODE = """
import os, sys
from pathlib import Path
from groupppo.slurm.takeover import Presence
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


def test_the_lock_of_one_that_ran_its_jobs_itself_is_lifted_and_a_cluster_s_only_by_one_that_finds_its_jobs(
    folder: Path,
) -> None:
    ended(folder, "here", "killed")
    assert ended(folder, "here", "returns") == "lifted"
    (folder / "locks").mkdir()
    (folder / "locks" / "0.output.lock").write_text("a\n")
    ended(folder, "slurm", "killed")
    assert ended(folder, "here", "returns") == "left"
    assert locked(folder)
    assert ended(folder, "slurm", "returns") == "lifted"


def test_a_lock_stays_while_a_job_of_the_one_that_was_killed_works(folder: Path) -> None:
    ended(folder, "here", "killed")
    with (folder / WORKING).open("a") as job:
        fcntl.flock(job, fcntl.LOCK_SH)
        assert not Presence(folder, submits=False, patience=0.2).lifted
        assert locked(folder)
    assert Presence(folder, submits=False, patience=0.2).lifted


JOB = """
import os, signal, sys, time
from pathlib import Path
from groupppo.slurm import takeover
takeover._POLL_SECONDS = 0.05
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
takeover.end_with_snakemake(Path(sys.argv[1]))
print("works", os.getpid(), flush=True)
try:
    time.sleep(60)
finally:
    Path(sys.argv[1], "cleaned").touch()
"""
# With a shell between it and its job, as with conda.
MAIN = """
import subprocess, sys
from groupppo.slurm.takeover import lead, lead_none
lead()
if sys.argv[2] == "in a job of Slurm":
    lead_none()
subprocess.run(sys.argv[1], shell=True)
"""


class Chain:
    """A Snakemake, a shell and a job that works."""

    def __init__(self, folder: Path, kind: str = "here"):
        self.folder = folder
        job = f"{shlex.join([sys.executable, '-c', JOB, str(folder)])}; true"
        command = [sys.executable, "-c", MAIN, job, kind]
        self.main = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert self.main.stdout is not None
        said, number = self.main.stdout.readline().split()
        assert said == "works"
        self.job = psutil.Process(int(number))
        self.shell = self.job.parent()

    def job_ends(self, seconds: float = 20.0) -> bool:
        try:
            self.job.wait(seconds)
        except psutil.TimeoutExpired:
            return False
        return (self.folder / "cleaned").exists()

    def close(self) -> None:
        for process in (self.job, self.shell, self.main):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.main.communicate()


@pytest.mark.parametrize("victim", ["main", "shell"])
def test_a_job_ends_when_any_process_is_killed_that_leads_to_it(tmp_path: Path, victim: str) -> None:
    chain = Chain(tmp_path)
    try:
        assert not Presence(tmp_path, submits=False).lifted  # another one in this folder harms nothing
        assert not chain.job_ends(0.3)
        getattr(chain, victim).kill()
        assert chain.job_ends()
    finally:
        chain.close()


@pytest.mark.parametrize("kind", ["in a job of Slurm", "by hand"])
def test_what_slurm_or_a_user_started_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "by hand":
        monkeypatch.delenv(takeover._MAIN, raising=False)
        command = [sys.executable, "-c", JOB, str(tmp_path)]
        shell = subprocess.Popen(["sh", "-c", f"{shlex.join(command)}; true"], cwd=REPOSITORY, stdout=subprocess.PIPE)
        job = psutil.Process(int(shell.stdout.readline().split()[1]))
        shell.kill()
        shell.wait()
    else:
        chain = Chain(tmp_path, kind)
        job = chain.job
        chain.main.kill()
    try:
        with pytest.raises(psutil.TimeoutExpired):
            job.wait(0.5)
    finally:
        job.kill()


def test_a_job_whose_snakemake_is_gone_as_it_starts_does_nothing(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    variables = os.environ | {takeover._MAIN: f"{gone.stdout.strip()} {os.readlink('/proc/self/ns/pid')}"}
    command = [sys.executable, "-c", JOB, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the Snakemake that started this job was killed" in done.stderr
    assert not (tmp_path / "cleaned").exists()


@pytest.mark.parametrize(("of_folder", "of_file"), [(0o755, 0o600), (0o2775, 0o660), (0o1777, 0o666)])
def test_who_may_not_write_in_the_folder_cannot_hold_up_a_start(folder: Path, of_folder: int, of_file: int) -> None:
    """A lock of the kernel can be held by whoever can open its file for reading."""
    folder.chmod(of_folder)
    (folder / WORKING).touch(0o644)  # as earlier versions made it
    before = os.umask(0o022)
    try:
        Presence(folder, submits=False)
        takeover.open_lock(folder / WORKING).close()
    finally:
        os.umask(before)
    assert {(folder / name).stat().st_mode & 0o777 for name in (HOLDER, WORKING)} == {of_file}


def test_another_host_cannot_know(folder: Path) -> None:
    ended(folder, "slurm", "killed")
    (folder / HOLDER).write_text("elsewhere slurm")
    assert not Presence(folder, submits=True).lifted
    assert locked(folder)
