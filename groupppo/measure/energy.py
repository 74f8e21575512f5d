"""Energy: RAPL counters of the processors, and joules between two points in time from a file of readings."""

from pathlib import Path
from typing import Any

import numpy as np

from groupppo.measure.sampler import SensorMissing

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
