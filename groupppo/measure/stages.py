"""Stage measurement: seconds, CPU seconds and peak memory of each stage of a training step.

    meter = StageMeter(path, probe)
    with meter.step(1):
        with meter.stage("gen"): ...
        meter.count(tokens=6400, endpoints=420)

One JSON line per (step, stage) is written when the step ends, and also when it ends by an exception, so that a step
that ran out of memory is data.

A GPU works on after the call that gave it work has returned: before a clock is read, `synchronise` waits for it. What
measuring itself takes, that wait included, is `overhead_seconds` of the row: the wait at the end is part of `seconds`,
the readings of the probe are not.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

WHOLE_STEP = "step"


@dataclass(frozen=True)
class Usage:
    """Memory in bytes; which memory is the probe's to say."""

    cpu_seconds: float
    peak_bytes: int
    rise_bytes: int


class Probe(Protocol):
    """Reads the machine at the start and end of a stage."""

    def begin(self) -> None: ...

    def end(self) -> Usage: ...


@dataclass
class StageRow:
    """A line of stages.jsonl; memory in bytes.

    Attributes:
        began: seconds since the Unix epoch. flops: operations of the stage (groupppo/measure/mfu.py), None where they
            are not counted. completed: whether the stage ended by itself.
    """

    step: int
    stage: str
    seconds: float
    cpu_seconds: float | None
    peak_bytes: int | None
    rise_bytes: int | None
    tokens: int = 0
    endpoints: int = 0
    completed: bool = True
    began: float = 0.0
    overhead_seconds: float = 0.0
    flops: float | None = None


class StageMeter:
    """Measures stages one after another; stages do not nest.

    Args:
        path: `stages.jsonl`, appended to.
        probe: what reads memory and CPU time.
        synchronise: called before a stage's clock is read; waits for what was given to devices.
    """

    def __init__(self, path: Path, probe: Probe, synchronise: Callable[[], object] = lambda: None):
        self.path, self.probe, self.synchronise = path, probe, synchronise
        self.rows: list[StageRow] = []
        self._step: int | None = None
        self._step_began = (0.0, 0.0)
        self._open: StageRow | None = None
        self._open_since = 0.0
        self._counts = {"tokens": 0, "endpoints": 0}
        self._flops: Mapping[str, float | None] = {}

    def begin_step(self, step: int) -> None:
        self._step, self.rows, self._counts, self._flops = step, [], {"tokens": 0, "endpoints": 0}, {}
        self._step_began = (time.time(), time.perf_counter())

    def count(self, *, tokens: int, endpoints: int) -> None:
        """Valid response tokens and endpoints of the step's batch; written on every row of the step."""
        self._counts = {"tokens": tokens, "endpoints": endpoints}

    def count_flops(self, flops: Mapping[str, float | None]) -> None:
        """Operations of the step's stages; those that are not named have none that are counted."""
        self._flops = flops

    def begin_stage(self, stage: str) -> None:
        if self._open is not None or self._step is None:
            raise RuntimeError(f"stage {stage!r} opened while {self._open.stage if self._open else 'no step'} is open")
        entered = time.perf_counter()
        self.synchronise()
        self.probe.begin()
        self._open_since = time.perf_counter()
        self._open = StageRow(
            self._step, stage, 0.0, 0.0, 0, 0, began=time.time(), overhead_seconds=self._open_since - entered
        )

    def end_stage(self, completed: bool = True) -> None:
        if self._open is None or self._step is None:
            raise RuntimeError("no stage is open")
        row, self._open = self._open, None
        asked = time.perf_counter()
        if completed:  # a device that failed may never answer
            self.synchronise()
        ended = time.perf_counter()
        row.seconds, row.completed = ended - self._open_since, completed
        self.rows.append(row)
        try:
            usage = self.probe.end()
        except Exception:
            if completed:
                raise
            # The stage's own error is on its way to the caller; this one must not take its place.
            logger.warning(
                "%s: stage %s of step %d failed, and its memory cannot be read: null in its row",
                self.path,
                row.stage,
                row.step,
                exc_info=True,
            )
            row.cpu_seconds = row.peak_bytes = row.rise_bytes = None
        else:
            row.cpu_seconds, row.peak_bytes, row.rise_bytes = usage.cpu_seconds, usage.peak_bytes, usage.rise_bytes
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
        if self._open is not None:
            self.end_stage(completed=False)
        began, since = self._step_began
        cpu, peaks, rises = (
            [getattr(row, name) for row in self.rows] for name in ("cpu_seconds", "peak_bytes", "rise_bytes")
        )
        unread = None in cpu
        whole = StageRow(
            self._step,
            WHOLE_STEP,
            seconds=time.perf_counter() - since,
            cpu_seconds=None if unread else sum(cpu),
            peak_bytes=None if unread else max(peaks, default=0),
            rise_bytes=None if unread else max(rises, default=0),
            completed=completed,
            began=began,
            overhead_seconds=sum(row.overhead_seconds for row in self.rows),
        )
        for row in self.rows:
            row.flops = self._flops.get(row.stage)
        self.rows.append(whole)
        for row in self.rows:
            row.tokens, row.endpoints = self._counts["tokens"], self._counts["endpoints"]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in self.rows)
        self._step = None
        return self.rows

    @property
    def in_step(self) -> bool:
        return self._step is not None
