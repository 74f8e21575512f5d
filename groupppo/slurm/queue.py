"""The Slurm queue: the states of jobs, and the jobs that an earlier Snakemake left in it."""

import getpass
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from groupppo.errors import BadInput

# A job that Slurm starts again after a pre-emption leaves that state within seconds.
PREEMPTED_SECONDS = 30
# Longer than a controller takes to restart, and than an accounting database is late.
ABSENT_SECONDS = 300
# Longer than Slurm gives a job that is cancelled before it kills it (KillWait is 30 s), its epilog included.
LEAVING_SECONDS = 120
FAILED = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "ERROR", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
_HERE = "nothing was submitted or removed. Without `--profile slurm` the runs are made on this machine."
_MARK = r"\[([0-9a-f]{12})-([0-9a-f]{12})\]"
_ABSENT = "absent"


class LostJobs:
    """End jobs that will not come back, for which an executor would wait for ever.

    A job that stays PREEMPTED, as it does under PreemptMode=CANCEL and under --no-requeue, is cancelled for good and
    becomes CANCELLED, which is retried. One that the queue does not know becomes UNKNOWN: its output decides.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._since: dict[str, tuple[str, float]] = {}

    def judge(self, job: str, state: str | None) -> str:
        """The state to act on of a job that has not ended, from the one that the queue shows."""
        now, state = self._clock(), state or _ABSENT
        before, since = self._since.get(job, (state, now))
        since = since if before == state else now
        self._since[job] = state, since
        if state == "PREEMPTED" and now - since >= PREEMPTED_SECONDS:
            cancel(job)
            return "CANCELLED"
        return "UNKNOWN" if state == _ABSENT and now - since >= ABSENT_SECONDS else state


@dataclass(frozen=True)
class Mark:
    """Two hashes in a job's comment, `[outputs-work]`, by which a later Snakemake recognises the job."""

    outputs: str
    work: str

    def __str__(self) -> str:
        return f"[{self.outputs}-{self.work}]"


@dataclass(frozen=True)
class QueuedJob:
    """A job or a task of an array in the queue: id, run id of the Snakemake that submitted it, Slurm's state, mark."""

    id: str
    run: str
    state: str
    mark: Mark


def marked(outputs: Iterable[str], work: object) -> Mark:
    """The mark of a job that writes these files, from all that decides what is in them, whose `repr` says so."""
    parts = ("\n".join(sorted(outputs)), repr(work))
    return Mark(*(hashlib.sha256(part.encode()).hexdigest()[:12] for part in parts))


def cancel(job: str) -> None:
    """Cancel a Slurm job; one that is gone already is left alone."""
    subprocess.run(["scancel", "--quiet", job], check=False, capture_output=True, timeout=60)


def cancel_run(run: str) -> None:
    """Cancel all jobs that the Snakemake with a run id submitted."""
    command = ["scancel", "--quiet", "--user", getpass.getuser(), f"--name={run}"]
    subprocess.run(command, check=False, capture_output=True, timeout=60)


def in_queue(folder: Path) -> list[QueuedJob]:
    """This user's jobs that a Snakemake submitted from a folder; BadInput where the queue does not answer."""
    command = ["squeue", "--array", "--noheader", "--user", getpass.getuser(), "--format=%i|%j|%T|%Z|%k"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        message = str(getattr(error, "stderr", None) or error).strip()
        hint = f"wait until Slurm's controller answers `squeue`; {_HERE}"
        raise BadInput("Slurm", "squeue", message, hint) from error
    jobs = []
    for line in done.stdout.splitlines():
        job, run, state, place, comment = line.split("|", 4)
        marks = re.findall(_MARK, comment)
        task = int(job.partition("_")[2] or 1)  # tasks of an array count from 1, and all have the marks of all
        if Path(place) == folder and task <= len(marks):
            jobs.append(QueuedJob(job, run, state, Mark(*marks[task - 1])))
    return jobs


class EarlierJobs:
    """A folder's jobs that were in the queue when Snakemake started: of one that was killed, or of another there."""

    def __init__(self, folder: Path, programs: Sequence[str]):
        self.problem: BadInput | None = None  # why the queue could not be asked
        self._folder = folder
        self._jobs: dict[str, list[QueuedJob]] = {}
        try:
            require_programs(programs)
            for job in in_queue(folder):
                self._jobs.setdefault(job.mark.outputs, []).append(job)
        except BadInput as problem:
            self.problem = problem

    def hold(self, outputs: Iterable[str]) -> bool:
        """Whether one of them, claimed by nobody yet, writes these files."""
        return marked(outputs, None).outputs in self._jobs

    def claim(self, mark: Mark) -> QueuedJob | None:
        """The job to adopt instead of submitting another; None if there is none.

        A job that writes the same files from anything else is cancelled; this returns once it has left, or raises
        TimeoutError after two minutes.
        """
        same_files = self._jobs.pop(mark.outputs, [])
        adopted = next((job for job in same_files if job.mark == mark and job.state != "COMPLETING"), None)
        leaving = {job.id for job in same_files if job is not adopted}
        for job in leaving:
            cancel(job)
        for _ in range(LEAVING_SECONDS):
            if not leaving or not leaving & {job.id for job in in_queue(self._folder)}:
                return adopted
            time.sleep(1)
        raise TimeoutError(f"cancelled, and still in the queue: {', '.join(sorted(leaving))}")


_at_start: dict[Path, EarlierJobs] = {}


def at_start(folder: Path, programs: Sequence[str] = ("sbatch", "squeue", "scancel")) -> EarlierJobs:
    """The jobs of a folder that were in the queue when this process asked first; it asks once."""
    if folder not in _at_start:
        _at_start[folder] = EarlierJobs(folder, programs)
    return _at_start[folder]


def programs_for(account: str | None) -> list[str]:
    """What a submission calls; Snakemake's executor asks sacct for an account where none is named."""
    return ["sbatch", "squeue", "scancel", "sacct" if account is None else "sacctmgr"]


def require_programs(names: Sequence[str]) -> None:
    """Raise BadInput where a program is not on PATH."""
    if missing := [name for name in names if shutil.which(name) is None]:
        hint = "run this on the cluster's login node, where Slurm's programs are"
        if missing == ["sacct"]:
            hint = "name your `account` in benchmarks/site.yaml, or install sacct"
        raise BadInput("Slurm", "not on PATH", ", ".join(missing), f"{hint}; {_HERE}")


@dataclass(frozen=True)
class Seen:
    """A job as the queue shows it: its state, the reason of that and its nodes, empty where unknown."""

    state: str
    reason: str = ""
    nodes: str = ""


def states(program: str, runs: Iterable[str]) -> dict[str, Seen] | None:
    """Each job of some Snakemakes, by their run ids, as "squeue" or "sacct" has it; None where it does not answer.

    A task of an array is `JOB_TASK`.
    """
    names = ",".join(runs)
    if program == "squeue":
        command = ["squeue", "--array", "--states=all", "--noheader", "--format=%i|%T|%r|%N", f"--name={names}"]
    else:
        start = f"{datetime.now() - timedelta(days=2):%Y-%m-%dT%H:00}"
        command = ["sacct", "--allocations", "--array", "--parsable2", "--clusters=all", "--noheader"]
        command += ["--format=JobID,State,Reason,NodeList", f"--starttime={start}", "--endtime=now", f"--name={names}"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    jobs = {}
    for line in done.stdout.splitlines():
        job, _, rest = line.partition("|")
        state, _, rest = rest.partition("|")
        reason, _, nodes = rest.rpartition("|")
        if state:
            state = state.split()[0]  # of sacct's "CANCELLED by 1000"
            jobs[job] = Seen(state, *("" if text.startswith("None") else text for text in (reason, nodes)))
    return jobs
