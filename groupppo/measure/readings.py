"""Readings that a sampler wrote, as series by device, and what they say about each stage of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groupppo.measure.energy import integrated, joules_between

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
