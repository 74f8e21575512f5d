"""Stage measurement: seconds, CPU seconds and peak memory of each stage of a training step.

    meter = StageMeter(path, probe)
    with meter.step(1):
        with meter.stage("gen"): ...
        meter.count(tokens=6400, endpoints=420)

One JSON line per (step, stage) is written when the step ends, and also when it ends by an exception, so that a step
that ran out of memory is data.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

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
    step: int
    stage: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    rise_bytes: int
    tokens: int = 0
    endpoints: int = 0
    completed: bool = True


class StageMeter:
    """Measures stages one after another; stages do not nest.

    Args:
        path: `stages.jsonl`, appended to.
        probe: what reads memory and CPU time.
    """

    def __init__(self, path: Path, probe: Probe):
        self.path, self.probe = path, probe
        self.rows: list[StageRow] = []
        self._step: int | None = None
        self._step_began = 0.0
        self._open: tuple[str, float] | None = None
        self._counts = {"tokens": 0, "endpoints": 0}

    def begin_step(self, step: int) -> None:
        self._step, self.rows, self._counts = step, [], {"tokens": 0, "endpoints": 0}
        self._step_began = time.perf_counter()

    def count(self, *, tokens: int, endpoints: int) -> None:
        """Valid response tokens and endpoints of the step's batch; written on every row of the step."""
        self._counts = {"tokens": tokens, "endpoints": endpoints}

    def begin_stage(self, stage: str) -> None:
        if self._open is not None or self._step is None:
            raise RuntimeError(f"stage {stage!r} opened while {self._open or 'no step'} is open")
        self.probe.begin()
        self._open = (stage, time.perf_counter())

    def end_stage(self, completed: bool = True) -> None:
        if self._open is None or self._step is None:
            raise RuntimeError("no stage is open")
        (stage, began), self._open = self._open, None
        seconds = time.perf_counter() - began
        self.rows.append(StageRow(self._step, stage, seconds, **asdict(self.probe.end()), completed=completed))

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
        seconds = time.perf_counter() - self._step_began
        peak = max((row.peak_bytes for row in self.rows), default=0)
        rise = max((row.rise_bytes for row in self.rows), default=0)
        cpu = sum(row.cpu_seconds for row in self.rows)
        self.rows.append(StageRow(self._step, WHOLE_STEP, seconds, cpu, peak, rise, completed=completed))
        for row in self.rows:
            row.tokens, row.endpoints = self._counts["tokens"], self._counts["endpoints"]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in self.rows)
        self._step = None
        return self.rows

    @property
    def in_step(self) -> bool:
        return self._step is not None
