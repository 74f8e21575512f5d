"""CPU seconds and resident memory of a process tree, read from Linux's /proc.

What is summed: the process given and all its descendants (for a training run: the trainer's process, Ray's daemons, the
training worker and the rollout server on this machine). Memory is resident memory (RSS), which counts a page shared by
several processes once in each. The kernel keeps every process's high-water mark; writing "5" to `clear_refs` resets it
(proc(5)), so a peak between two points in time is exact for each process, and the sum of the peaks is an upper bound of
the tree's peak, for the processes need not peak at the same moment.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

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


@dataclass(frozen=True)
class TreeUsage:
    """What a tree used between two points in time.

    Attributes:
        cpu_seconds: user and system time of all processes alive at the end.
        peak_bytes: sum over processes of the largest resident memory in between.
        rise_bytes: sum over processes of that peak minus resident memory at the start (never below zero); a process
            that started in between counts in full.
    """

    cpu_seconds: float
    peak_bytes: int
    rise_bytes: int


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


def end(root: int, start: TreeSnapshot) -> TreeUsage:
    """What the tree used since `start`."""
    cpu_seconds, peak_bytes, rise_bytes = 0.0, 0, 0
    for pid in _descendants(root):
        try:
            cpu_seconds += _cpu_seconds(pid) - start.cpu_seconds.get(pid, 0.0)
            peak = _status_bytes(pid)["VmHWM"]
        except (FileNotFoundError, ProcessLookupError):
            continue
        peak_bytes += peak
        rise_bytes += max(0, peak - start.resident_bytes.get(pid, 0))
    return TreeUsage(cpu_seconds, peak_bytes, rise_bytes)


def _descendants(root: int) -> list[int]:
    """`root` and every process below it."""
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
