"""Sensors beside a run, read every second in a thread: NVIDIA GPUs (NVML) and processor packages (RAPL).

What goes wrong is kept as a reason and never stops the run.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import pynvml
except ModuleNotFoundError:  # next to torch alone: `driver_version` says so, and a run, which reads more, has it
    pynvml = None

INTERVAL = 1.0
"""Seconds between readings."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
POWERCAP = Path("/sys/class/powercap")
_PATIENCE = 5.0
"""Seconds that a reading may take once the run has ended: a driver that hangs must not keep the results back."""
_SHARED = "a MIG instance has no sensor of its own, and the GPU's counts its other instances too"


class SensorMissing(Exception):
    """There is nothing to read; the message says why."""


class Sampler:
    """Appends one JSON line per device and reading to a file, from when the block is entered to when it is left.

    A line is a row of the source with `time`, seconds since the Unix epoch when the reading began. The first reading
    is taken on entry and the last one on exit, so that counters span the whole block.

    Args:
        path: written anew. interval: seconds between readings.
        source: devices that are read together, and at the end closed; a sensor that could not be read has no key.

    Attributes:
        fault: why readings ended early; None when they did not.
    """

    def __init__(self, path: Path, source: "Gpus | Rapl", interval: float = INTERVAL):
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
        due, last = time.monotonic(), False
        try:
            with contextlib.closing(self.source), self.path.open("w", encoding="utf-8") as file:
                while not last:
                    last, now = self._stop.is_set(), time.time()
                    file.writelines(json.dumps({"time": now, **row}) + "\n" for row in self.source.read())
                    file.flush()
                    # A reading that took longer than the interval is not made up for.
                    due = max(due + self.interval, time.monotonic())
                    self._stop.wait(due - time.monotonic())
        except Exception as error:  # whatever a driver's library raises: the run it watches must go on
            self.fault = f"readings ended early: {type(error).__name__}: {error}"


# NVML gives power in milliwatts, energy in millijoules since the driver was loaded, and as utilisation the percentage
# of its last sampling period (1/6 s to 1 s) in which a kernel ran.
_SENSORS: dict[str, Callable[[Any], float]] = {
    "memory_used_bytes": lambda handle: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
    "utilisation": lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
    "power_watts": lambda handle: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    "energy_joules": lambda handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
}


@dataclass
class Gpu:
    """A GPU, or a MIG instance of one.

    Attributes:
        sensors: that are its own. missing: why one has no value as of the last reading, by sensor.
    """

    uuid: str
    name: str
    handle: Any
    sensors: tuple[str, ...]
    missing: dict[str, str]


class Gpus:
    """The first `count` GPUs that CUDA would show a process: Ray gives a run the first ones, as it numbers them.

    Raises:
        SensorMissing: there is no driver, this user may not use it, or CUDA_VISIBLE_DEVICES names no GPU of its.
    """

    def __init__(self, count: int):
        try:
            pynvml.nvmlInit()
            self.devices = [_gpu(name) for name in _visible()[:count]]
        except pynvml.NVMLError as error:
            raise SensorMissing(f"NVML: {error}") from error
        if not self.devices:
            visible = os.environ.get(VISIBLE)
            raise SensorMissing(f"{VISIBLE}={'unset' if visible is None else visible!r}: no GPU that NVML knows")

    def read(self) -> list[dict[str, Any]]:
        return [{"device": gpu.uuid, **_values(gpu)} for gpu in self.devices]

    def close(self) -> None:
        pynvml.nvmlShutdown()


def _visible() -> list[str]:
    """The GPUs that CUDA would show a process, as CUDA_VISIBLE_DEVICES names them, all of the machine's by default."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return [name for name in map(str.strip, visible.split(",")) if name]


def visible_gpus() -> dict[str, str]:
    """UUIDs of the GPUs that CUDA would show this process, by their names in CUDA_VISIBLE_DEVICES or their indices.

    Raises:
        SensorMissing: as `Gpus`.
    """
    gpus = Gpus(10_000)
    names = _visible()  # while NVML is open: it is asked how many there are
    gpus.close()
    return dict(zip(names, (gpu.uuid for gpu in gpus.devices), strict=True))


def _gpu(name: str) -> Gpu:
    """By what CUDA_VISIBLE_DEVICES says: an index, or the UUID of a GPU or a MIG instance."""
    by_index = pynvml.nvmlDeviceGetHandleByIndex
    handle = by_index(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
    own, reason, divided = tuple(_SENSORS), _SHARED, False
    with contextlib.suppress(pynvml.NVMLError):  # a GPU that knows no MIG mode
        divided = bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    if name.startswith("MIG"):
        own = ("memory_used_bytes",)
    elif divided:
        own, reason = (), f"{_SHARED}; name the instance by its UUID in {VISIBLE}"
    missing = dict.fromkeys(_SENSORS.keys() - set(own), reason)
    return Gpu(pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), handle, own, missing)


def _values(gpu: Gpu) -> dict[str, float]:
    found = {}
    for sensor in gpu.sensors:
        try:
            found[sensor] = _SENSORS[sensor](gpu.handle)
            gpu.missing.pop(sensor, None)
        except pynvml.NVMLError as error:
            gpu.missing[sensor] = str(error)
    return found


def driver_version() -> tuple[str | None, str | None]:
    """Version of the NVIDIA driver, or why NVML does not tell."""
    if pynvml is None:
        return None, "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        version = str(pynvml.nvmlSystemGetDriverVersion())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    return version, None


class Rapl:
    """Energy of the machine's processor packages (Linux powercap, driver `intel_rapl`, AMD's included).

    Counts whole packages, whoever uses them, and nothing else on the board. A counter turns over after some 262 kJ, at
    300 W in 15 minutes: reading it every second never misses a turn.

    Raises:
        SensorMissing: there are no counters, or they cannot be read (since Linux 5.10 only by root).
    """

    def __init__(self) -> None:
        names = sorted(POWERCAP.glob("intel-rapl:*/name"))
        zones = [file.parent for file in names if file.read_text(encoding="utf-8").startswith("package")]
        if not zones:
            raise SensorMissing(f"{POWERCAP} has no counter of a processor package")
        try:
            self._limits = {zone: _microjoules(zone / "max_energy_range_uj") for zone in zones}
            self._last = {zone: _microjoules(zone / "energy_uj") for zone in zones}
        except (OSError, ValueError) as error:
            raise SensorMissing(f"the counters of {POWERCAP} cannot be read: {error}") from error
        self._counted = dict.fromkeys(zones, 0)

    def read(self) -> list[dict[str, Any]]:
        rows = []
        for zone, before in self._last.items():
            now = self._last[zone] = _microjoules(zone / "energy_uj")
            self._counted[zone] += (now - before) % self._limits[zone]
            rows.append({"device": zone.name, "energy_joules": self._counted[zone] / 1e6})
        return rows

    def close(self) -> None: ...


def _microjoules(file: Path) -> int:
    return int(file.read_text(encoding="utf-8"))
