"""Sensors read every second in a thread beside a run, and what their readings say; RAPL, the processors' counters.

What goes wrong is kept as a reason and never stops the run.
"""

import contextlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import numpy as np

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


_POWERCAP = Path("/sys/class/powercap")


def advance(before: int, now: int, limit: int) -> int:
    """What a counter that starts again from 0 at `limit` has counted between two readings, at most one turn apart."""
    return now - before if now >= before else now - before + limit


class Rapl:
    """Energy of the machine's processor packages (Linux powercap, driver `intel_rapl`, AMD's included).

    Counts microjoules of whole packages, whoever uses them. Memory outside the package and everything else on the board
    is not in it. A counter turns over after some 262 kJ, at 300 W in 15 minutes: reading it every second never misses a
    turn.

    Args:
        home: where Linux shows the counters.

    Raises:
        SensorMissing: there are none, or they cannot be read (since Linux 5.10 only by root).
    """

    def __init__(self, home: Path = _POWERCAP):
        zones = [zone for zone in sorted(home.glob("intel-rapl:*")) if _name(zone).startswith("package")]
        if not zones:
            raise SensorMissing(f"{home} has no counter of a processor package")
        try:
            self._limits = {zone: _microjoules(zone / "max_energy_range_uj") for zone in zones}
            self._last = {zone: _microjoules(zone / "energy_uj") for zone in zones}
        except (OSError, ValueError) as error:
            raise SensorMissing(f"the counters of {home} cannot be read: {error}") from error
        self._counted = dict.fromkeys(zones, 0)

    def read(self) -> list[dict[str, Any]]:
        rows = []
        for zone, before in self._last.items():
            now = self._last[zone] = _microjoules(zone / "energy_uj")
            self._counted[zone] += advance(before, now, self._limits[zone])
            rows.append({"device": zone.name, "energy_joules": self._counted[zone] / 1e6})
        return rows

    def close(self) -> None: ...


def _name(zone: Path) -> str:
    file = zone / "name"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _microjoules(file: Path) -> int:
    return int(file.read_text(encoding="utf-8"))


def integrated(times: np.ndarray, watts: np.ndarray) -> np.ndarray:
    """Joules since the first reading, by the trapezoid rule; seconds, watts and result have shape (readings,)."""
    steps = np.diff(times) * (watts[1:] + watts[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])


def joules_between(times: np.ndarray, joules: np.ndarray, begin: float, end: float) -> float | None:
    """Joules of a growing counter between two points in time, read off the lines between its readings.

    Args:
        times, joules: readings, shape (readings,), times increasing.

    Returns:
        None where the readings do not span the time between the points.
    """
    if len(times) < 2 or begin < times[0] or end > times[-1]:
        return None
    first, last = np.interp([begin, end], times, joules)
    return float(last - first)


COUNTER, POWER = "counter", "power"
"""Where energy comes from: NVML's own counter, or its power readings integrated over time."""


@dataclass
class Series:
    """Readings of one device: of each sensor its times, increasing, and values, both of shape (readings,)."""

    sensors: dict[str, tuple[np.ndarray, np.ndarray]]

    def within(self, sensor: str, begin: float, end: float) -> np.ndarray:
        """Values of a sensor read from `begin` to `end`, seconds since the Unix epoch; empty without the sensor."""
        times, values = self.sensors.get(sensor, (np.empty(0), np.empty(0)))
        return values[np.searchsorted(times, begin) : np.searchsorted(times, end, side="right")]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Complete lines: a run, or a disk, that ended in the middle of one leaves it out."""
    raw = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in raw if line.endswith("\n")]


def read_series(file: Path) -> dict[str, Series]:
    """The readings of a sampler's file, by device; empty for a file that is not there."""
    by_device: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in read_lines(file):
        sensors = by_device.setdefault(row["device"], {})
        for sensor in row.keys() - {"device", "time"}:
            sensors.setdefault(sensor, []).append((row["time"], row[sensor]))
    return {
        # A clock that was set back leaves its readings out of order.
        device: Series({sensor: tuple(np.array(sorted(both)).T) for sensor, both in sensors.items()})
        for device, sensors in by_device.items()
    }


def energy_curve(series: Series | None) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Times, joules and their source: the counter where it was read and never fell, else power; None without both."""
    sensors = series.sensors if series else {}
    if "energy_joules" in sensors:
        times, joules = sensors["energy_joules"]
        if len(times) > 1 and (np.diff(joules) >= 0).all():
            return times, joules, COUNTER
    if "power_watts" in sensors:
        times, watts = sensors["power_watts"]
        if len(times) > 1:
            return times, integrated(times, watts), POWER
    return None


def write_stages(
    file: Path,
    stages: list[dict[str, Any]],
    readings: list[Series],
    curves: list[tuple[np.ndarray, np.ndarray, str] | None],
) -> None:
    """One line per step and stage, the whole step among them; null where no reading fell into it."""
    with file.open("w", encoding="utf-8") as out:
        for row in stages:
            begin, end = row["began"], row["began"] + row["seconds"]
            joules = [joules_between(curve[0], curve[1], begin, end) if curve else None for curve in curves]
            busy = np.concatenate([one.within("utilisation", begin, end) for one in readings] or [np.empty(0)])
            used = np.concatenate([one.within("memory_used_bytes", begin, end) for one in readings] or [np.empty(0)])
            known = [one for one in joules if one is not None]
            line = {
                "step": row["step"],
                "stage": row["stage"],
                "energy_joules": sum(known) if known and len(known) == len(joules) else None,
                "gpu_utilisation": float(busy.mean()) if len(busy) else None,
                "gpu_peak_bytes": int(used.max()) if len(used) else None,
                "readings": len(used),
            }
            out.write(json.dumps(line) + "\n")
