"""The sampler, whatever its source does; which GPUs a job may use; RAPL, whose counters turn over. No GPU is needed."""

import json
import threading
import time

import pytest

from groupppo.measure import sensors
from groupppo.measure.sensors import Gpus, Rapl, Sampler, SensorMissing, driver_version
from tests.measure.fake_nvml import Device, FakeNvml

A, B, C = (Device(uuid=f"GPU-{letter * 8}-1") for letter in "abc")


class Counter:
    def __init__(self, fails_at: int = 0):
        self.readings, self.fails_at, self.closed = 0, fails_at, False
        self.read_often = threading.Event()

    def read(self):
        self.readings += 1
        if self.readings == self.fails_at:
            raise OSError("the bus fell over")
        if self.readings >= 4:
            self.read_often.set()
        return [{"device": "a", "energy_joules": self.readings}, {"device": "b"}]

    def close(self):
        self.closed = True


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_it_reads_on_entry_again_and_again_and_once_more_on_exit(tmp_path):
    source, began = Counter(), time.time()
    with Sampler(tmp_path / "x.jsonl", source, interval=0.005) as watch:
        assert source.read_often.wait(20)
        before = source.readings
    written = rows(tmp_path / "x.jsonl")
    assert watch.fault is None
    assert source.closed
    assert source.readings > before
    assert [row["energy_joules"] for row in written if row["device"] == "a"] == list(range(1, source.readings + 1))
    assert began <= written[0]["time"] <= written[-1]["time"] <= time.time()


def test_an_error_in_mid_run_ends_the_readings_keeps_those_before_and_says_why(tmp_path):
    source = Counter(fails_at=3)
    with Sampler(tmp_path / "x.jsonl", source, interval=0.001) as watch:
        watch._thread.join(20)
    assert "the bus fell over" in watch.fault
    assert source.closed
    assert len(rows(tmp_path / "x.jsonl")) == 2 * 2


def test_a_reading_that_never_ends_does_not_keep_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "_PATIENCE", 0.05)
    free = threading.Event()

    class Hanging(Counter):
        def read(self):
            free.wait(30)
            return []

    with Sampler(tmp_path / "x.jsonl", Hanging(), interval=0.01) as watch:
        pass
    free.set()
    assert "had not ended" in watch.fault


@pytest.fixture
def opened(monkeypatch):
    """The GPUs of a job on a machine with these devices, by what CUDA_VISIBLE_DEVICES says."""

    def open_gpus(visible, *devices, count=8, **machine):
        monkeypatch.setattr(sensors, "pynvml", FakeNvml(*devices, **machine))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return Gpus(count)

    return open_gpus


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 8, "abc"),
        ("2,0", 8, "ca"),
        (" 1 , 2 ", 8, "bc"),
        ("GPU-bbbbbbbb-1,0", 8, "ba"),
        ("2,1,0", 2, "cb"),  # a run that uses fewer than the job has is not charged for the others
    ],
)
def test_a_run_is_read_on_the_first_gpus_that_cuda_shows_it_in_its_order(opened, visible, count, expected):
    assert [gpu.uuid[4] for gpu in opened(visible, A, B, C, count=count).devices] == list(expected)


@pytest.mark.parametrize(("visible", "devices", "machine", "reason"), [
    ("", [A], {}, "CUDA_VISIBLE_DEVICES='': no GPU"),
    ("-1", [A], {}, "NVML: Not Found"),
    ("3", [A], {}, "NVML: Invalid Argument"),
    (None, [], {}, "no GPU that NVML knows"),
    (None, [Device(errors={"nvmlDeviceGetName": 15})], {}, "GPU is lost"),
    (None, [A], {"init": 9}, "Driver Not Loaded"),
    (None, [A], {"init": 4}, "Insufficient Permissions"),
])  # fmt: skip
def test_no_driver_no_permission_and_no_gpu_are_reasons(opened, visible, devices, machine, reason):
    with pytest.raises(SensorMissing, match=reason):
        opened(visible, *devices, **machine)


def test_a_reading_has_every_sensor_in_its_unit(opened):
    device = Device(used=5, busy=40, milliwatts=250_500, millijoules=7_200)
    assert opened(None, device).read() == [
        {"device": device.uuid, "memory_used_bytes": 5, "utilisation": 0.4, "power_watts": 250.5, "energy_joules": 7.2}
    ]


def test_a_sensor_that_fails_has_a_reason_and_no_value_until_it_is_read_again(opened):
    device = Device(errors={"nvmlDeviceGetTotalEnergyConsumption": 3, "nvmlDeviceGetPowerUsage": 999})
    gpus = opened(None, device)
    assert set(gpus.read()[0]) == {"device", "memory_used_bytes", "utilisation"}
    del device.errors["nvmlDeviceGetPowerUsage"]
    assert set(gpus.read()[0]) == {"device", "memory_used_bytes", "utilisation", "power_watts"}
    assert gpus.devices[0].missing == {"energy_joules": "Not Supported"}


@pytest.mark.parametrize(
    ("visible", "row"),
    [("MIG-1234", {"device": "MIG-1234", "memory_used_bytes": 1_000}), ("0", {"device": "GPU-0000aaaa"})],
)
def test_a_mig_instance_has_its_memory_and_no_share_of_its_gpu_which_has_no_sensor_of_the_job(opened, visible, row):
    gpus = opened(visible, Device(divided=True), instances=(Device(uuid="MIG-1234"),))
    assert gpus.read() == [row]
    assert len(gpus.devices[0].missing) == 4 - (len(row) - 1)
    assert "other instances" in gpus.devices[0].missing["energy_joules"]
    assert not opened("0", Device(errors={"nvmlDeviceGetMigMode": 3})).devices[0].missing


def test_the_drivers_version_comes_from_nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setattr(sensors, "pynvml", fake)
    assert driver_version() == ("570.86.15", None)
    assert fake.open == 0
    fake.init = 9
    assert driver_version() == (None, "NVML: Driver Not Loaded")


@pytest.fixture
def zone(tmp_path, monkeypatch):
    """Writes a counter as Linux shows it."""
    monkeypatch.setattr(sensors, "POWERCAP", tmp_path)

    def write(name, label, energy, limit=262_143_328_850):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file, value in (("name", label), ("energy_uj", energy), ("max_energy_range_uj", limit)):
            (tmp_path / name / file).write_text(f"{value}\n")

    return write


def test_packages_are_counted_from_the_start_and_through_a_turn(zone):
    zone("intel-rapl:0", "package-0", 900_000, limit=1_000_000)
    zone("intel-rapl:1", "package-1", 10)
    zone("intel-rapl:0:0", "core", 5)  # a part of package-0
    zone("intel-rapl:2", "psys", 5)  # the packages once more
    source = Rapl()
    zone("intel-rapl:0", "package-0", 100_000, limit=1_000_000)
    zone("intel-rapl:1", "package-1", 500_010)
    assert source.read() == [
        {"device": "intel-rapl:0", "energy_joules": 0.2},
        {"device": "intel-rapl:1", "energy_joules": 0.5},
    ]
    zone("intel-rapl:0", "package-0", 400_000, limit=1_000_000)
    assert source.read()[0]["energy_joules"] == 0.5


def test_a_machine_without_counters_or_that_does_not_let_them_be_read_says_so(zone, monkeypatch):
    with pytest.raises(SensorMissing, match="no counter"):
        Rapl()
    zone("intel-rapl:0", "package-0", 1)

    def refused(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(sensors, "_microjoules", refused)
    with pytest.raises(SensorMissing, match="Permission denied"):
        Rapl()
