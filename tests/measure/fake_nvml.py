"""A machine's NVML without a machine: devices that count joules, and errors where a test wants them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml


@dataclass
class Device:
    """A GPU whose readings are what a test sets; `errors` maps a function's name to the code that it answers."""

    uuid: str = "GPU-0000aaaa"
    name: str = "NVIDIA H100 80GB HBM3"
    used: int = 1_000
    busy: int = 50
    milliwatts: int = 300_000
    millijoules: int = 0
    divided: bool = False
    errors: dict[str, int] = field(default_factory=dict)
    after_reading: Callable[["Device"], None] = lambda device: None


class FakeNvml:
    """Stands for the module `pynvml`, with its own errors."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *devices: Device, init: int = 0, instances: tuple[Device, ...] = ()):
        self.devices, self.init, self.instances = devices, init, instances
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802  the library's names, here and below
        if self.init:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        if index >= len(self.devices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._answer(self.devices[index], "nvmlDeviceGetHandleByIndex", self.devices[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:  # noqa: N802
        for device in (*self.devices, *self.instances):
            if device.uuid == uuid:
                return device
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, device: Device) -> str:  # noqa: N802
        return device.uuid

    def nvmlDeviceGetName(self, device: Device) -> str:  # noqa: N802
        return device.name

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:  # noqa: N802
        return self._answer(device, "nvmlDeviceGetMigMode", [int(device.divided), 0])

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> SimpleNamespace:  # noqa: N802
        return self._answer(device, "nvmlDeviceGetMemoryInfo", SimpleNamespace(used=device.used))

    def nvmlDeviceGetUtilizationRates(self, device: Device) -> SimpleNamespace:  # noqa: N802
        return self._answer(device, "nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=device.busy))

    def nvmlDeviceGetPowerUsage(self, device: Device) -> int:  # noqa: N802
        return self._answer(device, "nvmlDeviceGetPowerUsage", device.milliwatts)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Device) -> int:  # noqa: N802
        joules = self._answer(device, "nvmlDeviceGetTotalEnergyConsumption", device.millijoules)
        device.after_reading(device)
        return joules

    def _answer(self, device: Device, function: str, value):
        if function in device.errors:
            raise pynvml.NVMLError(device.errors[function])
        return value
