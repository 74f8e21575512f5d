"""What a run used: energy, GPU utilisation and memory, GPU-hours, throughput and MFU, from sensors beside the run.

A number that cannot be had is None, and `missing` says why: a sensor that is not there is never a zero.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from groupppo.measure.mfu import peak_of, utilisation
from groupppo.measure.nvml import VISIBLE, Gpu, Gpus, open_gpus
from groupppo.measure.sensors import (
    INTERVAL,
    Rapl,
    Sampler,
    SensorMissing,
    energy_curve,
    read_lines,
    read_series,
    write_stages,
)
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


_GPU_FIGURES = ("energy_joules", "energy_source", "gpu_utilisation", "gpu_peak_bytes")


class UsageMeter:
    """Reads the sensors of a run while its block runs; nothing it meets stops the run.

    Args:
        folder: the run's. device: "cpu" or "cuda". gpus: that the run uses. interval: seconds between readings.
        nvml, powercap: stand in for the machine's own in a test.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        gpus: int,
        *,
        interval: float = INTERVAL,
        nvml: Any = None,
        powercap: Any = None,
    ):
        self.folder, self.device, self.count, self.interval = folder, device, gpus, interval
        self.gpus: Gpus | None = None
        self.samplers: dict[str, Sampler] = {}
        self.absent: dict[str, str] = {}
        self._given = (nvml, powercap)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "UsageMeter":
        nvml, powercap = self._given
        if self.device == "cuda":
            try:
                self.gpus = open_gpus(self.count, os.environ.get(VISIBLE), nvml)
                self._start(GPU_FILE, self.gpus)
            except Exception as error:  # a broken driver's library may raise anything
                self.absent[GPU_FILE] = _told(error)
        else:
            self.absent[GPU_FILE] = "the run is on a CPU"
        try:
            self._start(RAPL_FILE, Rapl() if powercap is None else Rapl(powercap))
        except Exception as error:
            self.absent[RAPL_FILE] = _told(error)
        return self

    def _start(self, name: str, source: Any) -> None:
        self.samplers[name] = self._stack.enter_context(Sampler(self.folder / name, source, self.interval))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def usage(self, wall_seconds: float, steps: Sequence[dict[str, Any]], gpu_name: str | None = None) -> Usage:
        """What the run used, once the block has been left; writes usage_stages.jsonl where a GPU was read.

        Args:
            wall_seconds: the run held its GPUs. steps: its rows of steps.jsonl. gpu_name: as its worker named the GPU.
        """
        try:
            return self._summary(wall_seconds, steps, gpu_name)
        except Exception as error:  # a run that trained well is not lost for a number about its machine
            why = f"summing up failed: {_told(error)}"
            figures = [one.name for one in fields(Usage) if one.default is None]
            return Usage(missing=dict.fromkeys(figures, why))

    def _summary(self, wall_seconds: float, steps: Sequence[dict[str, Any]], gpu_name: str | None) -> Usage:
        found, stages = Usage(), read_lines(self.folder / RunFolder.STAGES)
        self._gpu(found, stages)
        self._cpu(found)
        if self.device == "cuda":
            found.gpu_hours = self.count * wall_seconds / 3600
        else:
            found.missing["gpu_hours"] = self.absent[GPU_FILE]
        seconds = sum(row.get("timing_s/step", 0.0) for row in steps)
        if seconds > 0:
            found.tokens_per_second = sum(row["tokens/total"] for row in steps) / seconds
        else:
            found.missing["tokens_per_second"] = "no step was finished"
        name = gpu_name or (self.gpus.devices[0].name if self.gpus else None)
        self._mfu(found, stages, name)
        return found

    def _gpu(self, found: Usage, stages: list[dict[str, Any]]) -> None:
        why = self.absent.get(GPU_FILE) or self.samplers[GPU_FILE].fault
        devices = self.gpus.devices if self.gpus else []
        if self.gpus is None or why or len(devices) < self.count:
            found.missing |= dict.fromkeys(_GPU_FIGURES, why or f"NVML knows {len(devices)} of {self.count} GPUs")
            return
        found.notes += self.gpus.notes
        found.notes += [
            f"GPU {place}: {number} readings of {sensor} failed"
            for place, gpu in enumerate(devices)
            for sensor, number in gpu.failures.items()
        ]
        series = read_series(self.folder / GPU_FILE)
        curves = [energy_curve(series.get(gpu.uuid)) for gpu in devices]
        lost = _lost(devices)
        if lost or any(curve is None for curve in curves):
            why = lost or _why(devices, ("energy_joules", "power_watts"))
            found.missing |= dict.fromkeys(("energy_joules", "energy_source"), why)
        else:
            whole = [curve for curve in curves if curve is not None]
            found.energy_joules = float(sum(joules[-1] - joules[0] for _, joules, _ in whole))
            found.energy_source = " and ".join(sorted({source for _, _, source in whole}))
        everyone = [reading for reading in series.values() if reading.sensors]
        for figure, sensor in (("gpu_utilisation", "utilisation"), ("gpu_peak_bytes", "memory_used_bytes")):
            values = [reading.sensors[sensor][1] for reading in everyone if sensor in reading.sensors]
            if lost or len(values) < len(devices):
                found.missing[figure] = lost or _why(devices, (sensor,))
            elif sensor == "utilisation":
                found.gpu_utilisation = float(np.mean([np.mean(one) for one in values]))
            else:
                found.gpu_peak_bytes = int(max(one.max() for one in values))
        write_stages(self.folder / STAGES_FILE, stages, everyone, curves)

    def _cpu(self, found: Usage) -> None:
        why = self.absent.get(RAPL_FILE) or self.samplers[RAPL_FILE].fault
        curves = [] if why else [energy_curve(one) for one in read_series(self.folder / RAPL_FILE).values()]
        known = [curve for curve in curves if curve is not None]
        # The sum over some of the packages is not the machine's.
        if known and len(known) == len(curves):
            found.cpu_energy_joules = float(sum(joules[-1] - joules[0] for _, joules, _ in known))
        else:
            found.missing["cpu_energy_joules"] = why or "the counters were read once only"

    def _mfu(self, found: Usage, stages: list[dict[str, Any]], name: str | None) -> None:
        peak = peak_of(name) if name else None
        counted = [row for row in stages if row.get("flops") and row["completed"]]
        if peak is None:
            unknown = f"no published dense bfloat16 peak is known for {name}"
            found.missing["mfu"] = unknown if name else self.absent.get(GPU_FILE, "the GPU's name is not known")
            return
        if not counted:
            found.missing["mfu"] = "the operations of no stage were counted"
            return
        for stage in dict.fromkeys(row["stage"] for row in counted):
            found.mfu_by_stage[stage] = _share([row for row in counted if row["stage"] == stage], self.count, peak)
        found.mfu = _share(counted, self.count, peak)
        found.notes.append(f"MFU against {peak.flops_per_second:.4g} FLOP/s ({peak.source})")


def _share(rows: Iterable[dict[str, Any]], gpus: int, peak: Any) -> float:
    both = [(row["flops"], row["seconds"]) for row in rows]
    return utilisation(sum(flops for flops, _ in both), sum(seconds for _, seconds in both), gpus, peak)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, SensorMissing) else f"{type(error).__name__}: {error}"


def _lost(devices: Iterable[Gpu]) -> str:
    # By place, not UUID: this goes into what is published of a run.
    gone = [(place, gpu.lost) for place, gpu in enumerate(devices) if gpu.lost]
    return "; ".join(f"GPU {place} was lost during the run: {why}" for place, why in gone)


def _why(devices: Iterable[Gpu], sensors: tuple[str, ...]) -> str:
    reasons = [gpu.missing[sensor] for gpu in devices for sensor in sensors if sensor in gpu.missing]
    return "; ".join(dict.fromkeys(reasons)) or "fewer than two readings succeeded"
