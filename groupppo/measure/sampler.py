"""Sensors read every second in a thread beside a run; what goes wrong is kept as a reason and never stops the run."""

import contextlib
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

INTERVAL = 1.0
"""Seconds between readings."""
_PATIENCE = 5.0
"""Seconds that a reading may take once the run has ended: a driver that hangs must not keep the results back."""


class SensorMissing(Exception):
    """There is nothing to read; the message says why."""


class Source(Protocol):
    """Devices that are read together."""

    def read(self) -> list[dict[str, Any]]:
        """One row per device: `device`, and its sensors; a sensor that could not be read has no key."""

    def close(self) -> None: ...


class Sampler:
    """Appends one JSON line per device and reading to a file, from when the block is entered to when it is left.

        with Sampler(folder / "gpu.jsonl", gpus) as sampler:
            ...

    A line is a row of the source with `time`, seconds since the Unix epoch when the reading began. The first reading
    is taken on entry and the last one on exit, so that counters span the whole block.

    Args:
        path: written anew. source: read and, at the end, closed. interval: seconds between readings.

    Attributes:
        fault: why readings ended early; None when they did not.
    """

    def __init__(self, path: Path, source: Source, interval: float = INTERVAL):
        self.path, self.source, self.interval = path, source, interval
        self.fault: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sampler {path.name}", daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE + self.interval)
        if self._thread.is_alive():
            self.fault = f"a reading had not ended {_PATIENCE:g} s after the run"

    def _run(self) -> None:
        try:
            with contextlib.closing(self.source), self.path.open("w", encoding="utf-8") as file:
                self._read_until_stopped(file)
        except Exception as error:  # whatever a driver's library raises: the run it watches must go on
            self.fault = f"readings ended early: {type(error).__name__}: {error}"

    def _read_until_stopped(self, file: TextIO) -> None:
        due = time.monotonic()
        while True:
            last = self._stop.is_set()
            now = time.time()
            file.writelines(json.dumps({"time": now, **row}) + "\n" for row in self.source.read())
            file.flush()
            if last:
                return
            # A reading that took longer than the interval is not made up for.
            due = max(due + self.interval, time.monotonic())
            self._stop.wait(due - time.monotonic())
