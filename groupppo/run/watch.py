"""Waiting for verl's process: until it ends, or has to be ended because it takes too long or makes no more steps."""

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from groupppo.config import Train

START_SECONDS = 1800.0
"""Longest time to the first step, where the benchmark says none: imports, downloads of kernels, the server's start."""
LEAST_SECONDS, TIMES_THE_LONGEST = 600.0, 20.0
"""Later a run may be silent for this long, or for so many times the longest step that it made."""
_POLL_SECONDS = 1.0

# What Ray puts before a worker's line, and how Python prints an exception.
_RAY_PREFIX = re.compile(r"^(\x1b\[\d+m)?\([^)]*pid=\d+[^)]*\)(\x1b\[0m)? ")
_ERROR = re.compile(r"^([A-Za-z_][\w.]*(Error|Exception)|([A-Za-z_][\w.]*\.)?(Exception|BadInput|RunFailed))(: |$)")


class Silence:
    """How long a run may make no step, and whether it did.

    Args:
        steps: the run's steps.jsonl. limit: seconds; 0 for a limit drawn from the run's own steps.
        clock: seconds, as of time.monotonic.
    """

    def __init__(self, steps: Path, limit: float, clock: Callable[[], float] = time.monotonic):
        self.steps, self.fixed, self.clock = steps, limit, clock
        self.size, self.since = self._size(), clock()
        self.longest: float | None = None

    def broken(self) -> float | None:
        """The limit, if the run has been silent for longer."""
        size, now = self._size(), self.clock()
        if size > self.size:
            # The first row ends the start, which says nothing about steps.
            self.longest = 0.0 if self.longest is None else max(self.longest, now - self.since)
            self.size, self.since = size, now
        limit = self._limit()
        return limit if now - self.since > limit else None

    def _limit(self) -> float:
        if self.fixed:
            return self.fixed
        return START_SECONDS if self.longest is None else max(LEAST_SECONDS, TIMES_THE_LONGEST * self.longest)

    def _size(self) -> int:
        return self.steps.stat().st_size if self.steps.is_file() else 0


def wait(
    process: subprocess.Popen[bytes], train: Train, steps: Path, look: Callable[[], None], stacks: Callable[[], str]
) -> str | None:
    """Wait for a run.

    Args:
        steps: its steps.jsonl. look: called about once a second.
        stacks: called before a run is given up; says where it was.

    Returns:
        None if it ended well, "" if it ended by an error, else why it has to be ended.
    """
    until, silence = time.monotonic() + train.time_limit_s, Silence(steps, train.stall_limit_s)
    while True:
        try:
            return None if process.wait(timeout=_POLL_SECONDS) == 0 else ""
        except subprocess.TimeoutExpired:
            look()
        if (limit := silence.broken()) is not None:
            return f"no step was finished for {limit:g} s (train.stall_limit_s){stacks()}"
        if time.monotonic() > until:
            return f"not finished within train.time_limit_s = {train.time_limit_s} s{stacks()}"


def cause_of(text: str, code: int) -> str:
    """First and last error of a run's log: verl often answers the one that matters with others."""
    how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    lines = [line for line in (_RAY_PREFIX.sub("", line).strip() for line in text.splitlines()) if line]
    named = [line for line in lines if _ERROR.match(line)]
    if not named:
        return f"{how}, and the log names no error" + (f"; it ends: {lines[-1][:200]}" if lines else "")
    return f"{how}; {named[0]}" + (f"; in the end {named[-1]}" if named[-1] != named[0] else "")
