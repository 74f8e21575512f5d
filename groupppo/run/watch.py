"""One process of verl after another, until a run ends or has to be ended: it takes too long, or makes no more steps."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from groupppo.config import Train
from groupppo.records.folders import RunFolder
from groupppo.run.family import SharedMemory, end_all, family
from groupppo.run.ray_cluster import ask_for_stacks
from groupppo.verl.endings import ATTEMPTS, DID_NOT_START, SIGNAL, STACKS

START_SECONDS = 1800.0
"""Longest time to the first step, where the benchmark says none: imports, downloads of kernels, the server's start."""
LEAST_SECONDS, TIMES_THE_LONGEST = 600.0, 20.0
"""Later a run may be silent for this long, or for so many times the longest step that it made."""
_POLL_SECONDS = 1.0
# Writing some hundred frames takes milliseconds; files of a shared file system are written more slowly.
_WRITING_SECONDS = 0.2

# What Ray puts before a worker's line, and how Python prints an exception.
_RAY_PREFIX = re.compile(r"^(\x1b\[\d+m)?\([^)]*pid=\d+[^)]*\)(\x1b\[0m)? ")
_ERROR = re.compile(r"^([A-Za-z_][\w.]*(Error|Exception)|([A-Za-z_][\w.]*\.)?(Exception|BadInput|RunFailed))(: |$)")


class Silence:
    """How long a run may make no step, by its steps.jsonl, and whether it did; a limit of 0 is one from its steps."""

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
        limit = self.fixed
        if not limit:
            limit = START_SECONDS if self.longest is None else max(LEAST_SECONDS, TIMES_THE_LONGEST * self.longest)
        return limit if now - self.since > limit else None

    def _size(self) -> int:
        return self.steps.stat().st_size if self.steps.is_file() else 0


@dataclass
class Verl:
    """verl's processes of one run.

    Attributes:
        out: the run's folder, which has its log.txt open as `log`.
        folder: a scratch folder, by which the processes are known.
        variables: their environment; names the file of their stacks.
        train: how long they may take. look: called about once a second.
    """

    out: Path
    folder: Path
    variables: dict[str, str]
    train: Train
    log: TextIO
    look: Callable[[], None]

    def run(self) -> str | None:
        """Train to the end, from the start again where Ray did not start in time; returns why it failed, if it did."""
        for number in range(1, ATTEMPTS + 1):
            cause, code = self._attempt()
            if code != DID_NOT_START:
                break
            print(f"\n==== Ray did not start: attempt {number} of {ATTEMPTS}", file=self.log)
        return cause

    def _attempt(self) -> tuple[str | None, int]:
        self.log.flush()
        start = os.fstat(self.log.fileno()).st_size
        command = [sys.executable, "-m", "groupppo.verl.main", str(self.out)]
        process = subprocess.Popen(command, env=self.variables, stdout=self.log, stderr=subprocess.STDOUT)
        shared = SharedMemory(process, self.folder)
        try:
            cause = self.wait(process, shared)
        finally:
            end_all(self.folder, process)
            code = process.wait()
            shared.remove()
        if cause != "":
            return cause, code
        with RunFolder(self.out).log.open("rb") as file:
            file.seek(start)
            return cause_of(file.read().decode(errors="replace"), code), code

    def wait(self, process: subprocess.Popen[bytes], shared: SharedMemory) -> str | None:
        """None if a run ended well, "" if it ended by an error, else why it has to be ended."""
        until = time.monotonic() + self.train.time_limit_s
        silence = Silence(RunFolder(self.out).steps, self.train.stall_limit_s)
        while True:
            try:
                return None if process.wait(timeout=_POLL_SECONDS) == 0 else ""
            except subprocess.TimeoutExpired:
                self.look()
                shared.look()
            if (limit := silence.broken()) is not None:
                return f"no step was finished for {limit:g} s (train.stall_limit_s){self._place(process)}"
            if time.monotonic() > until:
                limit = self.train.time_limit_s
                return f"not finished within train.time_limit_s = {limit} s{self._place(process)}"

    def _place(self, process: subprocess.Popen[bytes]) -> str:
        """Add the stacks of the run's processes, on all nodes, to its log; names the trainer's place."""
        stacks = Path(self.variables[STACKS])
        ask_for_stacks(self.variables)
        ask(stacks, family(process, self.folder))
        text = stacks.read_text(encoding="utf-8", errors="replace") if stacks.is_file() else ""
        self.log.write(f"\n==== stacks of the run's processes\n{text}\n")
        # The innermost frame comes first.
        match = re.search(r'File "[^"]*groupppo/verl/trainer\.py", line \d+ in (\S+)', text)
        return f", in {match[1]}; log.txt has the stacks of its processes" if match else ""


def ask(file: Path, processes: Iterable[psutil.Process]) -> None:
    """Have processes write their stacks to `file`, one after another, each under a line that names it."""
    for process in processes:
        try:
            if not _answers(process.pid):
                continue
            name = " ".join(process.cmdline())[:200] or process.name()
            with file.open("ab") as out:
                out.write(f"\n==== process {process.pid}: {name}\n".encode())
            process.send_signal(SIGNAL)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue  # it ended in between
        time.sleep(_WRITING_SECONDS)


def _answers(pid: int) -> bool:
    """Whether a process has a handler: without one the signal would end it."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (SIGNAL - 1) & 1)


def cause_of(text: str, code: int) -> str:
    """First and last error of a run's log: verl often answers the one that matters with others."""
    how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    lines = [line for line in (_RAY_PREFIX.sub("", line).strip() for line in text.splitlines()) if line]
    named = [line for line in lines if _ERROR.match(line)]
    if not named:
        return f"{how}, and the log names no error" + (f"; it ends: {lines[-1][:200]}" if lines else "")
    return f"{how}; {named[0]}" + (f"; in the end {named[-1]}" if named[-1] != named[0] else "")
