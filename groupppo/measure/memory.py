"""Memory and CPU time at stage borders: of the process tree, read from Linux's /proc, and of the CUDA allocators.

What is summed: the process given and all its descendants. Memory is resident memory (RSS), which counts a page that
several processes share once in each. The kernel keeps every process's high-water mark; writing "5" to `clear_refs`
resets it (proc(5)), so a peak between two points in time is exact for each process. The processes need not peak at the
same moment: the sum of their peaks is an upper bound of the tree's.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from groupppo.measure.stages import Usage

# For readers of a report.
DEFINITION = (
    "Memory is resident memory of the run's process tree on its machine: trainer, Ray's daemons, training worker and "
    "rollout server, summed over processes, a page shared by several of them counted in each. The peak of a stage is "
    "the sum of the processes' own peaks within that stage, the rise is that peak minus what each process held when "
    "the stage began, after the training worker handed freed memory back to the system. The processes need not peak at "
    "the same moment, so both are upper bounds."
)

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class TreeSnapshot:
    """CPU seconds used so far and resident bytes now, by process id."""

    cpu_seconds: dict[int, float]
    resident_bytes: dict[int, int]


def begin(root: int) -> TreeSnapshot:
    """Reset the high-water marks of the tree under `root` and read its state.

    Raises:
        OSError: the kernel does not let this user reset a high-water mark of one of its processes.
    """
    cpu, resident = {}, {}
    for pid in _descendants(root):
        try:
            (_PROC / str(pid) / "clear_refs").write_text("5")
            cpu[pid] = _cpu_seconds(pid)
            resident[pid] = _status_bytes(pid)["VmRSS"]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended between listing and reading
    return TreeSnapshot(cpu, resident)


def end(root: int, start: TreeSnapshot) -> Usage:
    """What the tree used since `start`: CPU time of all processes alive now, and sums over them.

    A process that started in between counts in full; a rise is never below zero.
    """
    cpu_seconds, peak_bytes, rise_bytes = 0.0, 0, 0
    for pid in _descendants(root):
        try:
            cpu_seconds += _cpu_seconds(pid) - start.cpu_seconds.get(pid, 0.0)
            peak = _status_bytes(pid)["VmHWM"]
        except (FileNotFoundError, ProcessLookupError):
            continue
        peak_bytes += peak
        rise_bytes += max(0, peak - start.resident_bytes.get(pid, 0))
    return Usage(cpu_seconds, peak_bytes, rise_bytes)


def _descendants(root: int) -> list[int]:
    return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]


def _cpu_seconds(pid: int) -> float:
    # The command name, in parentheses, may itself hold spaces and parentheses: fields are counted after the last one.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _status_bytes(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM in bytes; zero for a zombie, which has no memory."""
    values = {"VmRSS": 0, "VmHWM": 0}
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in values:
            values[key] = int(rest.split()[0]) * 1024
    return values


class ProcessTreeProbe:
    """Resident memory and CPU time of this process and all below it.

    Args:
        settle: called before a stage is read, to have the training workers hand freed memory back to the system: a
            stage then starts from what is alive, not from what earlier stages once needed.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None):
        self.root, self.settle = os.getpid(), settle
        self._start = TreeSnapshot({}, {})

    def begin(self) -> None:
        self.settle()
        self._start = begin(self.root)

    def end(self) -> Usage:
        return end(self.root, self._start)


@dataclass(frozen=True)
class AllocatorPeaks:
    """One rank's CUDA allocator: bytes allocated now, and the largest since the last reset."""

    allocated: int
    peak_allocated: int
    peak_reserved: int


class AllocatorProbe:
    """Largest bytes reserved by the CUDA allocators, over ranks; CPU time of this node's process tree.

    `peak_bytes` is the largest `max_memory_reserved` of a rank, `rise_bytes` the largest rise of allocated bytes above
    what the rank held at the start of the stage. One rank's number is reported, not the sum: a run fits or does not fit
    by its fullest device.

    Args:
        reset: resets the peaks of every rank and returns their state.
        read: reads every rank.
    """

    def __init__(self, reset: Callable[[], list[AllocatorPeaks]], read: Callable[[], list[AllocatorPeaks]]):
        self.reset, self.read = reset, read
        self._tree = ProcessTreeProbe()
        self._start: list[AllocatorPeaks] = []

    def begin(self) -> None:
        self._tree.begin()
        self._start = self.reset()

    def end(self) -> Usage:
        ranks = self.read()
        rises = (rank.peak_allocated - start.allocated for rank, start in zip(ranks, self._start, strict=True))
        peak = max(rank.peak_reserved for rank in ranks)
        return Usage(self._tree.end().cpu_seconds, peak, max(0, *rises))
