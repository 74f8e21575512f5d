"""What a run used: energy, GPU utilisation and memory, GPU-hours, throughput and MFU, from sensors beside the run.

A number that cannot be had is None, and `missing` says why: a sensor that is not there is never a zero.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
from scipy.integrate import cumulative_trapezoid

from groupppo.measure.mfu import Peak, peak_of
from groupppo.measure.sensors import INTERVAL, Gpu, Gpus, Rapl, Sampler, SensorMissing
from groupppo.records.folders import RunFolder

GPU_FILE, RAPL_FILE, STAGES_FILE = RunFolder.GPU, RunFolder.RAPL, RunFolder.USAGE_STAGES


@dataclass
class Usage:
    """What a run used, as status.json has it.

    Attributes:
        energy_joules: of the run's GPUs, whole boards, start-up included. energy_source: `counter`, `power` or both.
        cpu_energy_joules: of all processor packages of the machine, whoever used them.
        gpu_utilisation: mean over GPUs and time of the share of time in which a kernel ran.
        gpu_peak_bytes: largest memory in use on one GPU, by whatever process. gpu_hours: GPUs held times hours.
        tokens_per_second: prompt and response tokens over the seconds of the steps.
        mfu: over all stages whose operations are counted. mfu_by_stage: of each of them.
        missing: why one of these is None. notes: what a reader of the numbers should know.
    """

    energy_joules: float | None = None
    energy_source: str | None = None
    cpu_energy_joules: float | None = None
    gpu_utilisation: float | None = None
    gpu_peak_bytes: int | None = None
    gpu_hours: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    mfu_by_stage: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


_FIGURES = [one.name for one in fields(Usage) if one.default is None]
_GPU_FIGURES = ("energy_joules", "energy_source", "gpu_utilisation", "gpu_peak_bytes")


class UsageMeter:
    """Reads the sensors of a run while its block runs; nothing it meets stops the run.

    Args:
        folder: the run's. device: "cpu" or "cuda". gpus: that the run uses. interval: seconds between readings.
    """

    def __init__(self, folder: Path, device: str, gpus: int, *, interval: float = INTERVAL):
        self.folder, self.device, self.count, self.interval = folder, device, gpus, interval
        self.gpus: list[Gpu] = []
        self._samplers: dict[str, Sampler] = {}
        self._absent: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "UsageMeter":
        if self.device == "cuda":
            self._start(GPU_FILE, self._open_gpus)
        else:
            self._absent[GPU_FILE] = "the run is on a CPU"
        self._start(RAPL_FILE, Rapl)
        return self

    def _open_gpus(self) -> Gpus:
        source = Gpus(self.count)
        self.gpus = source.devices
        return source

    def _start(self, name: str, opened: Callable[[], Gpus | Rapl]) -> None:
        try:
            sampler = Sampler(self.folder / name, opened(), self.interval)
            self._samplers[name] = self._stack.enter_context(sampler)
        except SensorMissing as error:
            self._absent[name] = str(error)
        except Exception as error:  # a broken driver's library may raise anything
            self._absent[name] = f"{type(error).__name__}: {error}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        self._absent |= {name: sampler.fault for name, sampler in self._samplers.items() if sampler.fault}

    def usage(self, wall_seconds: float, steps: Sequence[dict[str, Any]], gpu_name: str | None = None) -> Usage:
        """What the run used, once the block has been left; writes usage_stages.jsonl where a GPU was read.

        Args:
            wall_seconds: the run held its GPUs. steps: its rows of steps.jsonl. gpu_name: as its worker named the GPU.
        """
        try:
            return self._summary(wall_seconds, steps, gpu_name)
        except Exception as error:  # a run that trained well is not lost for a number about its machine
            return Usage(missing=dict.fromkeys(_FIGURES, f"summing up failed: {type(error).__name__}: {error}"))

    def _summary(self, wall_seconds: float, steps: Sequence[dict[str, Any]], gpu_name: str | None) -> Usage:
        found, stages = Usage(), _read_lines(self.folder / RunFolder.STAGES)
        self._gpu(found, stages)
        self._cpu(found)
        if self.device == "cuda":
            found.gpu_hours = self.count * wall_seconds / 3600
        else:
            found.missing["gpu_hours"] = self._absent[GPU_FILE]
        seconds = sum(row.get("timing_s/step", 0.0) for row in steps)
        if seconds > 0:
            found.tokens_per_second = sum(row["tokens/total"] for row in steps) / seconds
        else:
            found.missing["tokens_per_second"] = "no step was finished"
        self._mfu(found, stages, gpu_name or (self.gpus[0].name if self.gpus else None))
        return found

    def _gpu(self, found: Usage, stages: list[dict[str, Any]]) -> None:
        why = self._absent.get(GPU_FILE)
        if why or len(self.gpus) < self.count:
            why = why or f"NVML knows {len(self.gpus)} of {self.count} GPUs"
            found.missing |= dict.fromkeys(_GPU_FIGURES, why)
            return
        by_device = read_readings(self.folder / GPU_FILE)
        # A sensor whose last reading failed, be it for a lost GPU, has no total.
        readings = [by_device[gpu.uuid].drop(columns=list(gpu.missing), errors="ignore") for gpu in self.gpus]
        curves = [energy_curve(one) for one in readings]
        found.energy_joules = _total(curves)
        if found.energy_joules is None:
            reason = self._why("energy_joules", "power_watts")
            found.missing |= dict.fromkeys(("energy_joules", "energy_source"), reason)
        else:
            found.energy_source = " and ".join(sorted({curve[1] for curve in curves if curve}))
        if all("utilisation" in one for one in readings):
            found.gpu_utilisation = float(np.mean([one["utilisation"].mean() for one in readings]))
        else:
            found.missing["gpu_utilisation"] = self._why("utilisation")
        if all("memory_used_bytes" in one for one in readings):
            found.gpu_peak_bytes = int(max(one["memory_used_bytes"].max() for one in readings))
        else:
            found.missing["gpu_peak_bytes"] = self._why("memory_used_bytes")
        _write_stages(self.folder / STAGES_FILE, stages, readings, curves)

    def _why(self, *sensors: str) -> str:
        reasons = [gpu.missing[sensor] for gpu in self.gpus for sensor in sensors if sensor in gpu.missing]
        return "; ".join(dict.fromkeys(reasons)) or "fewer than two readings succeeded"

    def _cpu(self, found: Usage) -> None:
        why = self._absent.get(RAPL_FILE)
        if not why:
            readings = read_readings(self.folder / RAPL_FILE)
            found.cpu_energy_joules = _total([energy_curve(one) for one in readings.values()])
        if found.cpu_energy_joules is None:
            found.missing["cpu_energy_joules"] = why or "the counters were read once only"

    def _mfu(self, found: Usage, stages: list[dict[str, Any]], name: str | None) -> None:
        peak = peak_of(name) if name else None
        counted = [row for row in stages if row.get("flops") and row["completed"]]
        if peak is None:
            unknown = f"no published dense bfloat16 peak is known for {name}"
            found.missing["mfu"] = unknown if name else self._absent.get(GPU_FILE, "the GPU's name is not known")
        elif not counted:
            found.missing["mfu"] = "the operations of no stage were counted"
        else:
            found.mfu = self._mfu_of(counted, peak)
            for stage in dict.fromkeys(row["stage"] for row in counted):
                found.mfu_by_stage[stage] = self._mfu_of([row for row in counted if row["stage"] == stage], peak)
            found.notes.append(f"MFU against {peak.flops_per_second:.4g} FLOP/s ({peak.source})")

    def _mfu_of(self, rows: Iterable[dict[str, Any]], peak: Peak) -> float:
        flops, seconds = np.sum([(row["flops"], row["seconds"]) for row in rows], axis=0)
        return float(flops / (seconds * self.count * peak.flops_per_second))


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Complete lines: a run, or a disk, that ended in the middle of one leaves it out."""
    raw = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in raw if line.endswith("\n")]


def read_readings(file: Path) -> dict[str, pd.DataFrame]:
    """A sampler's readings by device: one column for each sensor that was ever read, NaN where a reading failed.

    Rows are indexed by time, increasing: a clock that was set back leaves its readings out of order in the file.
    """
    rows = _read_lines(file)
    if not rows:
        return {}
    frame = pd.DataFrame(rows).set_index("time").sort_index(kind="stable")
    return {str(name): one.drop(columns="device").dropna(axis=1, how="all") for name, one in frame.groupby("device")}


Curve = tuple[pd.Series, str]
"""Joules by time, and where they come from."""


def energy_curve(readings: pd.DataFrame) -> Curve | None:
    """By the GPU's counter where it was read twice and never fell, else by the trapezoid rule over its power."""
    counter, watts = (readings.get(name, pd.Series(dtype=float)).dropna() for name in ("energy_joules", "power_watts"))
    if len(counter) > 1 and counter.is_monotonic_increasing:
        return counter, "counter"
    if len(watts) > 1:
        return pd.Series(cumulative_trapezoid(watts, watts.index, initial=0), watts.index), "power"
    return None


def _total(curves: list[Curve | None]) -> float | None:
    """Joules of all devices; the sum over some of them is not the machine's."""
    known = [curve[0] for curve in curves if curve is not None]
    return float(sum(one.iloc[-1] - one.iloc[0] for one in known)) if known and len(known) == len(curves) else None


def joules_between(curve: pd.Series, begin: float, end: float) -> float | None:
    """Joules between two points in time, read off the lines between readings; None where those do not span it."""
    if begin < curve.index[0] or end > curve.index[-1]:
        return None
    first, last = np.interp([begin, end], curve.index, curve)
    return float(last - first)


def _write_stages(
    file: Path, stages: list[dict[str, Any]], readings: list[pd.DataFrame], curves: list[Curve | None]
) -> None:
    """One line per step and stage, the whole step among them; null where no reading fell into it."""
    with file.open("w", encoding="utf-8") as out:
        for row in stages:
            begin, end = row["began"], row["began"] + row["seconds"]
            joules: list[Any] = [joules_between(curve[0], begin, end) if curve else None for curve in curves]
            within = pd.concat([one.loc[begin:end] for one in readings])
            busy, used = (within.get(name, pd.Series()).dropna() for name in ("utilisation", "memory_used_bytes"))
            line = {
                "step": row["step"],
                "stage": row["stage"],
                "energy_joules": sum(joules) if joules and None not in joules else None,
                "gpu_utilisation": float(busy.mean()) if len(busy) else None,
                "gpu_peak_bytes": int(used.max()) if len(used) else None,
                "readings": len(used),
            }
            out.write(json.dumps(line) + "\n")
