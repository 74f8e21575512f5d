"""What reads memory at stage borders: the process tree on a CPU, the CUDA allocator of the workers on a GPU."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from groupppo.measure import process_tree
from groupppo.measure.stages import Usage


class ProcessTreeProbe:
    """Resident memory and CPU time of this process and all below it (see process_tree.py for what is summed).

    Args:
        settle: called before a stage is read, to have the training workers hand freed memory back to the system: a
            stage then starts from what is alive, not from what earlier stages once needed.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None):
        self.root, self.settle = os.getpid(), settle
        self._start = process_tree.TreeSnapshot({}, {})

    def begin(self) -> None:
        self.settle()
        self._start = process_tree.begin(self.root)

    def end(self) -> Usage:
        usage = process_tree.end(self.root, self._start)
        return Usage(usage.cpu_seconds, usage.peak_bytes, usage.rise_bytes)


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
