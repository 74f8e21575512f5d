"""A machine's NVML without a machine: devices that count joules, and errors where a test wants them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

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


_ANSWERS: dict[str, Callable[[Device], Any]] = {
    "nvmlDeviceGetUUID": lambda device: device.uuid,
    "nvmlDeviceGetName": lambda device: device.name,
    "nvmlDeviceGetMigMode": lambda device: [int(device.divided), 0],
    "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(used=device.used),
    "nvmlDeviceGetUtilizationRates": lambda device: SimpleNamespace(gpu=device.busy),
    "nvmlDeviceGetPowerUsage": lambda device: device.milliwatts,
    "nvmlDeviceGetTotalEnergyConsumption": lambda device: device.millijoules,
}


class FakeNvml:
    """Stands for the module `pynvml`, with its own errors."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *devices: Device, init: int = 0, instances: tuple[Device, ...] = ()):
        self.devices, self.init, self.instances = devices, init, instances
        self.open = 0

    def __getattr__(self, name: str) -> Callable[[Device], Any]:
        assert hasattr(pynvml, name)  # the installed package has every name that is used
        return partial(self._answer, name)

    def _answer(self, name: str, device: Device) -> Any:
        self._require_open()
        if name in device.errors:
            raise pynvml.NVMLError(device.errors[name])
        value = _ANSWERS[name](device)
        if name == "nvmlDeviceGetTotalEnergyConsumption":
            device.after_reading(device)
        return value

    def _require_open(self) -> None:
        """As the driver does, which knows nothing before it is asked to begin and after it was told to end."""
        if self.open <= 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)

    def nvmlInit(self) -> None:  # noqa: N802  the library's names, here and below
        if self.init:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._require_open()
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._require_open()
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        self._require_open()
        if index >= len(self.devices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:  # noqa: N802
        self._require_open()
        for device in (*self.devices, *self.instances):
            if device.uuid == uuid:
                return device
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
