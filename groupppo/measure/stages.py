"""Seconds, CPU seconds and peak memory of each stage of a training step: one JSON line per stage, and one per step.

A GPU works on after the call that gave it work has returned: before a clock is read, `synchronise` waits for it. What
measuring itself takes, that wait included, is `overhead_seconds` of the row: the wait at the end is part of `seconds`,
the readings of the probe are not.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

WHOLE_STEP = "step"
# For readers of a report.
DEFINITION = (
    "Memory is resident memory of the run's process tree on its machine: trainer, Ray's daemons, training worker and "
    "rollout server, summed over processes, a page shared by several of them counted in each. The peak of a stage is "
    "the sum of the processes' own peaks within that stage, the rise is that peak minus what each process held when "
    "the stage began, after the training worker handed freed memory back to the system. The processes need not peak at "
    "the same moment, so both are upper bounds."
)


@dataclass(frozen=True)
class Usage:
    """Memory in bytes; which memory is the probe's to say."""

    cpu_seconds: float
    peak_bytes: int
    rise_bytes: int


class ProcessTreeProbe:
    """Resident memory (RSS) and CPU time of this process and all below it, by Linux's /proc.

    Writing "5" to `clear_refs` resets a process's high-water mark (proc(5)), so that its peak within a stage is exact.

    Args:
        settle: called before a stage is read, to have the training workers hand freed memory back to the system: a
            stage then starts from what is alive, not from what earlier stages once needed.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None):
        self.settle = settle
        self._start: dict[int, tuple[float, int]] = {}

    def begin(self) -> None:
        """Raises OSError where the kernel does not let this user reset a high-water mark."""
        self.settle()
        self._start = {}
        for process in _tree():
            with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
                self._start[process.pid] = (_cpu_seconds(process), _resident_bytes(process, "VmRSS"))

    def end(self) -> Usage:
        """A process that started within the stage counts in full; a rise is never below zero."""
        cpu_seconds, peak_bytes, rise_bytes = 0.0, 0, 0
        for process in _tree():
            with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
                spent, peak = _cpu_seconds(process), _resident_bytes(process, "VmHWM")
                before, held = self._start.get(process.pid, (0.0, 0))
                cpu_seconds += spent - before
                peak_bytes += peak
                rise_bytes += max(0, peak - held)
        return Usage(cpu_seconds, peak_bytes, rise_bytes)


def _tree() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _resident_bytes(process: psutil.Process, key: str) -> int:
    """VmRSS or VmHWM, which psutil does not read; zero for a zombie, which has no memory."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


@dataclass(frozen=True)
class AllocatorPeaks:
    """One rank's CUDA allocator: bytes allocated now, and the largest since the last reset."""

    allocated: int
    peak_allocated: int
    peak_reserved: int


class AllocatorProbe:
    """Largest bytes reserved by the CUDA allocators, over ranks; CPU time of this node's process tree.

    `peak_bytes` is the largest `max_memory_reserved` of a rank, `rise_bytes` the largest rise of allocated bytes above
    what the rank held at the start of the stage: a run fits or does not fit by its fullest device.

    Args:
        reset, read: ask every rank for its state, `reset` after a new peak was begun.
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


@dataclass
class StageRow:
    """A line of stages.jsonl; memory in bytes, None where it could not be read.

    Attributes:
        began: seconds since the Unix epoch. flops: operations of the stage (groupppo/measure/mfu.py), None where they
            are not counted. completed: whether the stage ended by itself.
    """

    step: int
    stage: str
    seconds: float = 0.0
    cpu_seconds: float | None = 0.0
    peak_bytes: int | None = 0
    rise_bytes: int | None = 0
    tokens: int = 0
    endpoints: int = 0
    completed: bool = True
    began: float = 0.0
    overhead_seconds: float = 0.0
    flops: float | None = None


class StageMeter:
    """Measures stages one after another; stages do not nest.

    Rows are written when a step ends, also by an exception: a step that ran out of memory is data.

    Args:
        path: `stages.jsonl`, appended to.
        probe: what reads memory and CPU time.
        synchronise: called before a stage's clock is read; waits for what was given to devices.
    """

    def __init__(
        self, path: Path, probe: "ProcessTreeProbe | AllocatorProbe", synchronise: Callable[[], object] = lambda: None
    ):
        self.path, self.probe, self.synchronise = path, probe, synchronise
        self.rows: list[StageRow] = []
        self._step: StageRow | None = None
        self._stage: StageRow | None = None
        self._step_since = self._stage_since = 0.0
        self._flops: Mapping[str, float | None] = {}

    @property
    def in_step(self) -> bool:
        return self._step is not None

    def begin_step(self, step: int) -> None:
        self.rows, self._flops = [], {}
        self._step, self._step_since = StageRow(step, WHOLE_STEP, began=time.time()), time.perf_counter()

    def count(self, *, tokens: int, endpoints: int, flops: Mapping[str, float | None] | None = None) -> None:
        """Valid response tokens and endpoints of the step's batch, for every row of it; operations by stage."""
        if self._step is None:
            raise RuntimeError("no step is open")
        self._step.tokens, self._step.endpoints, self._flops = tokens, endpoints, flops or {}

    def begin_stage(self, stage: str) -> None:
        if self._stage is not None or self._step is None:
            raise RuntimeError(
                f"stage {stage!r} opened while {self._stage.stage if self._stage else 'no step'} is open"
            )
        entered = time.perf_counter()
        self.synchronise()
        self.probe.begin()
        self._stage_since = time.perf_counter()
        overhead = self._stage_since - entered
        self._stage = StageRow(self._step.step, stage, began=time.time(), overhead_seconds=overhead)

    def end_stage(self, completed: bool = True) -> None:
        if self._stage is None:
            raise RuntimeError("no stage is open")
        row, self._stage = self._stage, None
        asked = time.perf_counter()
        if completed:  # a device that failed may never answer
            self.synchronise()
        row.seconds, row.completed = time.perf_counter() - self._stage_since, completed
        self.rows.append(row)
        try:
            usage = self.probe.end()
            row.cpu_seconds, row.peak_bytes, row.rise_bytes = usage.cpu_seconds, usage.peak_bytes, usage.rise_bytes
        except Exception:
            if completed:
                raise
            # The stage's own error is on its way to the caller; this one must not take its place.
            where = f"{self.path}: stage {row.stage} of step {row.step}"
            logger.warning("%s failed, and its memory cannot be read: null in its row", where, exc_info=True)
            row.cpu_seconds = row.peak_bytes = row.rise_bytes = None
        row.overhead_seconds += time.perf_counter() - asked

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.begin_stage(name)
        try:
            yield
        except BaseException:
            self.end_stage(completed=False)
            raise
        self.end_stage()

    def end_step(self, completed: bool = True) -> list[StageRow]:
        """Close the step, write its rows, the whole step last, and return them."""
        if self._step is None:
            raise RuntimeError("no step is open")
        if self._stage is not None:
            self.end_stage(completed=False)
        whole, self._step = self._step, None
        whole.seconds, whole.completed = time.perf_counter() - self._step_since, completed
        whole.overhead_seconds = sum(row.overhead_seconds for row in self.rows)
        for name, over in (("cpu_seconds", sum), ("peak_bytes", max), ("rise_bytes", max)):
            values = [getattr(row, name) for row in self.rows]
            setattr(whole, name, None if None in values else over(values or [0]))
        for row in self.rows:
            row.tokens, row.endpoints, row.flops = whole.tokens, whole.endpoints, self._flops.get(row.stage)
        self.rows.append(whole)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in self.rows)
        return self.rows
