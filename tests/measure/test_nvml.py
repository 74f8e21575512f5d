"""Sensors of GPUs: which GPUs a job may use, and what a missing, refused or lost one leaves. No GPU is needed."""

import sys

import pytest

from groupppo.measure import nvml
from groupppo.measure.nvml import driver_version, open_gpus
from groupppo.measure.sensors import SensorMissing
from tests.measure.fake_nvml import Device, FakeNvml

A, B, C = (Device(uuid=f"GPU-{letter * 8}-1") for letter in "abc")
SENSORS = {"memory_used_bytes", "utilisation", "power_watts", "energy_joules"}


def names(visible: str | None, *devices: Device, count: int = 8) -> list[str]:
    return [gpu.uuid[4] for gpu in open_gpus(count, visible, FakeNvml(*devices)).devices]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, "abc"),
        ("0", "a"),
        ("2,0", "ca"),
        (" 1 , 2 ", "bc"),
        ("GPU-bbbbbbbb-1", "b"),
        ("GPU-bbb,0", "ba"),
        ("1,7,0", "b"),  # CUDA stops at the first that it does not know
        ("1,-1,0", "b"),
        ("0,GPU-,1", "a"),  # a beginning of several names none
    ],
)
def test_a_job_sees_the_gpus_that_cuda_would_show_it_in_its_order(visible, expected):
    assert "".join(names(visible, A, B, C)) == expected


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "3", "1,1", "GPU-dddd"])
def test_a_list_that_names_no_gpu_says_so(visible):
    with pytest.raises(SensorMissing, match=f"CUDA_VISIBLE_DEVICES='{visible}'"):
        names(visible, A, B, C)


def test_a_run_that_uses_fewer_gpus_than_the_job_has_is_not_charged_for_the_others():
    assert names("2,1,0", A, B, C, count=2) == ["c", "b"]


def test_a_reading_has_every_sensor_in_its_unit():
    device = Device(used=5, busy=40, milliwatts=250_500, millijoules=7_200)
    (row,) = open_gpus(1, None, FakeNvml(device)).read()
    assert row == {
        "device": device.uuid, "memory_used_bytes": 5, "utilisation": 0.4, "power_watts": 250.5, "energy_joules": 7.2,
    }  # fmt: skip


@pytest.mark.parametrize("code", [3, 4, 13])
def test_a_sensor_that_is_not_there_or_not_allowed_has_a_reason_and_no_value(code):
    device = Device(errors={"nvmlDeviceGetTotalEnergyConsumption": code})
    gpus = open_gpus(1, None, FakeNvml(device))
    device.errors["nvmlDeviceGetPowerUsage"] = 999  # once
    first = gpus.read()
    del device.errors["nvmlDeviceGetPowerUsage"]
    second = gpus.read()
    assert set(first[0]) == {"device", *SENSORS} - {"energy_joules", "power_watts"}
    assert set(second[0]) == {"device", *SENSORS} - {"energy_joules"}  # what failed once is tried again
    assert set(gpus.devices[0].missing) == {"energy_joules"}
    assert gpus.devices[0].failures == {"power_watts": 1}


@pytest.mark.parametrize("code", [15, 16, 1])
def test_a_gpu_that_is_lost_is_read_no_more_and_the_others_are(code):
    lost = Device(uuid="GPU-lost")
    gpus = open_gpus(2, None, FakeNvml(lost, B))
    assert [row["device"] for row in gpus.read()] == ["GPU-lost", B.uuid]
    lost.errors["nvmlDeviceGetMemoryInfo"] = code
    gpus.read()
    assert [row["device"] for row in gpus.read()] == [B.uuid]
    assert gpus.devices[0].lost
    assert gpus.devices[1].lost is None


def test_a_mig_instance_has_its_memory_and_no_share_of_its_gpus_energy():
    instance = Device(uuid="MIG-1234", name="NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    fake = FakeNvml(Device(divided=True), instances=(instance,))
    (gpu,) = (gpus := open_gpus(1, "MIG-1234", fake)).devices
    assert gpu.mig
    assert gpus.read() == [{"device": "MIG-1234", "memory_used_bytes": 1_000}]
    assert "other instances" in gpu.missing["energy_joules"]


def test_a_gpu_in_mig_mode_named_by_its_index_has_no_sensor_of_the_job():
    gpus = open_gpus(1, "0", FakeNvml(Device(divided=True)))
    assert set(gpus.devices[0].missing) == SENSORS
    assert gpus.read() == [{"device": "GPU-0000aaaa"}]
    assert not open_gpus(1, "0", FakeNvml(Device(errors={"nvmlDeviceGetMigMode": 3}))).devices[0].mig


@pytest.mark.parametrize(("other", "order", "noted"), [
    ("NVIDIA L4", None, True), ("NVIDIA L4", "PCI_BUS_ID", False), ("NVIDIA H100 80GB HBM3", None, False),
])  # fmt: skip
def test_numbers_that_cuda_may_give_in_another_order_are_noted(monkeypatch, other, order, noted):
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if order:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    notes = open_gpus(1, "0", FakeNvml(A, Device(uuid="GPU-other", name=other))).notes
    assert any("CUDA_DEVICE_ORDER" in note for note in notes) == noted
    assert open_gpus(1, A.uuid, FakeNvml(A, Device(uuid="GPU-other", name=other))).notes == ()


@pytest.mark.parametrize(("fake", "reason"), [
    (FakeNvml(init=9), "Driver Not Loaded"),
    (FakeNvml(init=4), "Insufficient Permissions"),
    (FakeNvml(Device(errors={"nvmlDeviceGetHandleByIndex": 15})), "GPU is lost"),
    (FakeNvml(), "no GPU that NVML knows"),
])  # fmt: skip
def test_no_driver_no_permission_and_no_gpu_are_reasons(monkeypatch, fake, reason):
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    with pytest.raises(SensorMissing, match=reason):
        open_gpus(1, None)


def test_a_machine_without_the_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SensorMissing, match="nvidia-ml-py"):
        nvml.load()


def test_the_installed_package_has_every_name_that_is_used_here():
    import pynvml

    used = [name for name in dir(FakeNvml) if name.lower().startswith("nvml")]
    assert len(used) > 15
    assert [name for name in used if not hasattr(pynvml, name)] == []
    codes = [name for name in used if name.startswith("NVML_ERROR")]
    assert {name: getattr(pynvml, name) for name in codes} == {name: getattr(FakeNvml, name) for name in codes}


def test_the_drivers_version_comes_from_nvml_or_else_from_its_kernel_module(monkeypatch, tmp_path):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert driver_version(tmp_path / "none") == "570.86.15"
    assert fake.open == 0
    fake.init = 9
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\nGCC 12.2")
    assert driver_version(tmp_path / "version") == "550.54.15"
    with pytest.raises(SensorMissing, match="Driver Not Loaded, and no kernel module"):
        driver_version(tmp_path / "none")
