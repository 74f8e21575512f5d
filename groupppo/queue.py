"""What Snakemake's executor for Slurm does not see by itself: jobs that will never end, and jobs that it forgot."""

import getpass
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# A job that Slurm starts again after a pre-emption leaves that state within seconds.
PREEMPTED_SECONDS = 30
# Longer than a controller takes to restart, and than an accounting database is late.
ABSENT_SECONDS = 300
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "ERROR", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
ENDED |= {"TIMEOUT", "UNKNOWN"}


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


def cancel(job: str) -> None:
    """Cancel a Slurm job; one that is gone already is left alone."""
    subprocess.run(["scancel", "--quiet", job], check=False, capture_output=True, timeout=60)


def forgotten(folder: Path) -> list[str]:
    """Ids of this user's jobs that a Snakemake submitted from a folder and that are queued or running.

    Called before the first submission: they belong to a Snakemake that was killed, or to another one that runs there.
    Empty where there is no Slurm.

    Raises:
        subprocess.CalledProcessError: the queue does not answer.
    """
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format=%i|%Z|%k"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    jobs = (line.split("|", 2) for line in lines)
    return [job for job, place, comment in jobs if Path(place) == folder and comment.startswith(("rule_", "group_"))]
