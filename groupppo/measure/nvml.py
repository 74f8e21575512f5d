"""NVIDIA GPUs through their management library (NVML, package `nvidia-ml-py`): sensors of the GPUs a job may use.

Units as NVML's reference manual gives them: memory in bytes, power in milliwatts, energy in millijoules since the
driver was loaded, utilisation as the percentage of the last sampling period (1/6 s to 1 s) in which a kernel ran.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groupppo.measure.sensors import SensorMissing

VISIBLE = "CUDA_VISIBLE_DEVICES"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_SHARED = "a MIG instance has no sensor of its own, and the GPU's counts its other instances too"

_READERS: dict[str, Callable[[Any, Any], float]] = {
    "memory_used_bytes": lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used),
    "utilisation": lambda nvml, handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
    "power_watts": lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    "energy_joules": lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
}


@dataclass
class Gpu:
    """A GPU, or a MIG instance of one, and what is known about its sensors.

    Attributes:
        missing: why a sensor is not read, by sensor. failures: readings that failed and were tried again, by sensor.
        lost: why the GPU is read no more; None as long as it is.
    """

    uuid: str
    name: str
    handle: Any
    mig: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    lost: str | None = None


class Gpus:
    """The GPUs of a job as a source of a `Sampler`.

    Args:
        nvml: the module `pynvml`, initialised. devices: what is read.
        notes: what a reader of the numbers should know of how the GPUs were found.
    """

    def __init__(self, nvml: Any, devices: list[Gpu], notes: tuple[str, ...] = ()):
        self.nvml, self.devices, self.notes = nvml, devices, notes

    def read(self) -> list[dict[str, Any]]:
        return [{"device": gpu.uuid, **self._sensors(gpu)} for gpu in self.devices if gpu.lost is None]

    def close(self) -> None:
        self.nvml.nvmlShutdown()

    def _sensors(self, gpu: Gpu) -> dict[str, float]:
        found = {}
        for sensor, reader in _READERS.items():
            if sensor in gpu.missing or gpu.lost is not None:
                continue
            try:
                found[sensor] = reader(self.nvml, gpu.handle)
            except self.nvml.NVMLError as error:
                self._note(gpu, sensor, error)
        return found

    def _note(self, gpu: Gpu, sensor: str, error: Any) -> None:
        nvml = self.nvml
        never = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED, nvml.NVML_ERROR_UNINITIALIZED)
        if error.value in gone:
            gpu.lost = str(error)
        elif error.value in never:
            gpu.missing[sensor] = str(error)
        else:
            gpu.failures[sensor] = gpu.failures.get(sensor, 0) + 1


def load() -> Any:
    """The module `pynvml`, initialised.

    Raises:
        SensorMissing: the package or the library is not installed, there is no driver, or this user may not use it.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise SensorMissing(f"the package nvidia-ml-py cannot be imported: {error}") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise SensorMissing(f"NVML: {error}") from error
    return nvml


def open_gpus(count: int, visible: str | None, nvml: Any = None) -> Gpus:
    """The first `count` GPUs that CUDA would show a process: Ray gives a run the first ones, as it numbers them.

    Args:
        count: GPUs of the run. visible: value of CUDA_VISIBLE_DEVICES, None where it is not set. nvml: as of `load`.

    Raises:
        SensorMissing: as `load`, or `visible` names no GPU that NVML knows.
    """
    nvml = load() if nvml is None else nvml
    try:
        everyone = [_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]
        chosen = everyone if visible is None else _named(nvml, everyone, visible)
    except nvml.NVMLError as error:
        raise SensorMissing(f"NVML: {error}") from error
    if not chosen:
        raise SensorMissing(f"{VISIBLE}={'unset' if visible is None else visible!r}: no GPU that NVML knows")
    notes = []
    by_index = visible is None or any(entry.strip().isdigit() for entry in visible.split(","))
    if by_index and len({gpu.name for gpu in everyone}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        notes.append("GPUs of several kinds are numbered by PCI bus here and by speed in CUDA: set CUDA_DEVICE_ORDER")
    return Gpus(nvml, chosen[:count], tuple(notes))


def _named(nvml: Any, everyone: list[Gpu], visible: str) -> list[Gpu]:
    """What CUDA makes of the list (CUDA C++ Programming Guide, environment variables): indices, UUIDs or their
    beginnings, MIG instances; the first entry that names none ends it, and a GPU named twice leaves none."""
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdigit():
            found = everyone[int(entry) : int(entry) + 1]
        elif entry.startswith("MIG"):
            found = [_gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(entry), instance=True)]
        else:
            found = [gpu for gpu in everyone if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(found) != 1:
            break
        chosen += found
    return chosen if len({gpu.uuid for gpu in chosen}) == len(chosen) else []


def _gpu(nvml: Any, handle: Any, instance: bool = False) -> Gpu:
    gpu = Gpu(nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle), handle, mig=instance)
    if instance:
        gpu.missing = dict.fromkeys(("utilisation", "power_watts", "energy_joules"), _SHARED)
    elif _is_divided(nvml, handle):
        gpu.mig = True
        gpu.missing = dict.fromkeys(_READERS, f"{_SHARED}; name the instance by its UUID in {VISIBLE}")
    return gpu


def _is_divided(nvml: Any, handle: Any) -> bool:
    """Whether the GPU is in MIG mode; one that knows no such mode is not."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return False
        raise


def driver_version(module: Path = _KERNEL_MODULE) -> str:
    """Version of the NVIDIA driver, from NVML, or from its kernel module where a container lacks NVML.

    Raises:
        SensorMissing: neither tells.
    """
    try:
        nvml = load()
    except SensorMissing as reason:
        words = module.read_text(encoding="utf-8").split() if module.is_file() else []
        version = next((word for word in words if word[:1].isdigit() and "." in word), None)
        if version is None:
            raise SensorMissing(f"{reason}, and no kernel module of the driver is loaded") from reason
        return version
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError as error:
        raise SensorMissing(f"NVML: {error}") from error
    finally:
        nvml.nvmlShutdown()
