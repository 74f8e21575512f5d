"""What Snakemake's executor for Slurm does not see: jobs that will never end, and jobs of one that was killed."""

import getpass
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from groupppo.errors import BadInput

# A job that Slurm starts again after a pre-emption leaves that state within seconds.
PREEMPTED_SECONDS = 30
# Longer than a controller takes to restart, and than an accounting database is late.
ABSENT_SECONDS = 300
# Longer than Slurm gives a job that is cancelled before it kills it (KillWait is 30 s), its epilog included.
LEAVING_SECONDS = 120
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "ERROR", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
ENDED |= {"TIMEOUT", "UNKNOWN"}
_HERE = "nothing was submitted or removed. Without `--profile slurm` the runs are made on this machine."
_MARK = re.compile(r"\[([0-9a-f]{12})-([0-9a-f]{12})\]$")


class LostJobs:
    """Turns the states that a queue tells into ones that end a job which will not come back.

    The executor (snakemake_executor_plugin_slurm/__init__.py:1474, 1497) waits without end for a job that stays
    PREEMPTED, as it does under PreemptMode=CANCEL and under --no-requeue, and for one the queue no longer knows. The
    first becomes CANCELLED, which is retried, after it is cancelled for good; the second UNKNOWN, whose output decides.

    Args:
        cancel: cancels a job by its id. clock: seconds that only grow.
    """

    def __init__(self, cancel: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._cancel, self._clock = cancel, clock
        self._since: dict[str, tuple[str, float]] = {}

    def expect(self, job: str) -> None:
        """Count a job as seen, so that its absence is noticed though the queue may have forgotten it already."""
        self._since[job] = ("RUNNING", self._clock())

    def judge(self, states: Mapping[str, str]) -> dict[str, str]:
        """States by job id, as the queue tells them now, to states that the executor can act on."""
        now = self._clock()
        for job, (state, _) in list(self._since.items()):
            if job not in states and state != "absent":
                self._since[job] = ("absent", now)
        for job, state in states.items():
            if self._since.get(job, ("", 0.0))[0] != state:
                self._since[job] = (state, now)
        judged = dict(states)
        for job, (state, since) in list(self._since.items()):
            if state in ENDED:
                del self._since[job]
            elif state == "PREEMPTED" and now - since >= PREEMPTED_SECONDS:
                self._cancel(job)
                judged[job] = "CANCELLED"
            elif state == "absent" and now - since >= ABSENT_SECONDS:
                judged[job] = "UNKNOWN"
        return judged


@dataclass(frozen=True)
class Mark:
    """Two hashes in a job's comment, `[outputs-work]`, by which a later Snakemake knows it again."""

    outputs: str
    work: str

    def __str__(self) -> str:
        return f"[{self.outputs}-{self.work}]"


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue: its id, the run id of the Snakemake that submitted it, Slurm's state and its mark."""

    id: str
    run: str
    state: str
    mark: Mark


def marked(outputs: Iterable[str], work: object) -> Mark:
    """The mark of a job.

    Args:
        outputs: the files it writes; two jobs with one of them in common must not run at once.
        work: all that decides what is in them, with a `repr` that says so.
    """
    parts = ("\n".join(sorted(outputs)), repr(work))
    return Mark(*(hashlib.sha256(part.encode()).hexdigest()[:12] for part in parts))


class Orphans:
    """Jobs that were in the queue when Snakemake started: of one that was killed, or of another one in this folder.

    Args:
        jobs: those of this folder. cancel: cancels a job by its id. queued: ids in the queue now.
    """

    def __init__(
        self,
        jobs: Iterable[QueuedJob],
        cancel: Callable[[str], None],
        queued: Callable[[], Collection[str]],
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._jobs: dict[str, list[QueuedJob]] = {}
        self._cancel, self._queued, self._sleep = cancel, queued, sleep
        for job in jobs:
            self._jobs.setdefault(job.mark.outputs, []).append(job)

    def hold(self, outputs: Iterable[str]) -> bool:
        """Whether one of them, claimed by nobody yet, writes these files."""
        return marked(outputs, None).outputs in self._jobs

    def claim(self, mark: Mark) -> QueuedJob | None:
        """The job to wait for in the place of submitting one; None when its outputs are nobody's.

        A job that writes the same files from anything else is cancelled; this returns once it has left the queue.

        Raises:
            TimeoutError: it has not left after two minutes.
            BadInput: the queue does not answer.
        """
        same_files = self._jobs.pop(mark.outputs, [])
        adopted = next((job for job in same_files if job.mark == mark and job.state != "COMPLETING"), None)
        leaving = {job.id for job in same_files if job is not adopted}
        for job in leaving:
            self._cancel(job)
        until = LEAVING_SECONDS
        while leaving & set(self._queued()):
            if until <= 0:
                raise TimeoutError(f"cancelled, and still in the queue: {', '.join(sorted(leaving))}")
            self._sleep(1)
            until -= 1
        return adopted


def cancel(job: str) -> None:
    """Cancel a Slurm job; one that is gone already is left alone."""
    subprocess.run(["scancel", "--quiet", job], check=False, capture_output=True, timeout=60)


def cancel_run(run: str) -> None:
    """Cancel all jobs that the Snakemake with a run id submitted."""
    command = ["scancel", "--quiet", "--user", getpass.getuser(), f"--name={run}"]
    subprocess.run(command, check=False, capture_output=True, timeout=60)


def require_programs(account: str | None) -> None:
    """Look for what a submission calls; Snakemake's executor asks sacct for an account where none is named.

    Raises:
        BadInput: a program is not on PATH.
    """
    wanted = ("sbatch", "squeue", "scancel", "sacct" if account is None else "sacctmgr")
    if missing := [name for name in wanted if shutil.which(name) is None]:
        hint = "run this on the cluster's login node, where Slurm's programs are"
        if missing == ["sacct"]:
            hint = "name your `account` in benchmarks/site.yaml, or install sacct"
        raise BadInput("Slurm", "not on PATH", ", ".join(missing), f"{hint}; {_HERE}")


def in_queue(folder: Path) -> list[QueuedJob]:
    """This user's jobs that a Snakemake submitted from a folder and that have not ended.

    Raises:
        BadInput: the queue does not answer.
    """
    found = []
    for job, run, state, place, comment in _squeue("%i|%j|%T|%Z|%k"):
        mark = _MARK.search(comment)
        if mark is not None and Path(place) == folder:
            found.append(QueuedJob(job, run, state, Mark(*mark.groups())))
    return found


def queued_ids() -> set[str]:
    """Ids of all jobs of this user that have not ended.

    Raises:
        BadInput: the queue does not answer.
    """
    return {job for (job,) in _squeue("%i")}


def _squeue(form: str) -> list[list[str]]:
    command = ["squeue", "--noheader", "--user", getpass.getuser(), f"--format={form}"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        hint = f"wait until Slurm's controller answers `squeue`; {_HERE}"
        raise BadInput("Slurm", "squeue", said, hint) from error
    return [line.split("|", form.count("|")) for line in done.stdout.splitlines()]
