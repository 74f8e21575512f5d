"""What a run used, from sensors on devices that only pretend: every number, and every reason why there is none."""

import json
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from groupppo.measure.usage import GPU_FILE, RAPL_FILE, STAGES_FILE, Usage, UsageMeter
from tests.measure.fake_nvml import Device, FakeNvml

STEPS = [{"tokens/total": 600, "timing_s/step": 2.0}, {"tokens/total": 400, "timing_s/step": 3.0}]
GPU = ("energy_joules", "energy_source", "gpu_utilisation", "gpu_peak_bytes")


def wait_for(file: Path, lines: int) -> None:
    give_up = time.monotonic() + 20
    while not file.is_file() or len(file.read_text().splitlines()) < lines:
        assert time.monotonic() < give_up
        time.sleep(0.002)


def run_with(folder: Path, nvml: FakeNvml, *, gpus: int = 1, readings: int = 4) -> UsageMeter:
    """A run that lasts for some readings, on this NVML, on a machine without RAPL."""
    with UsageMeter(folder, "cuda", gpus, interval=0.002, nvml=nvml, powercap=folder / "none") as meter:
        wait_for(folder / GPU_FILE, readings * gpus)
    return meter


def write_readings(folder: Path, device: str, **sensors: list[float]) -> None:
    """Replace the readings by one a second from second 100 on."""
    count = len(next(iter(sensors.values())))
    rows = [
        {"time": 100.0 + i, "device": device} | {name: values[i] for name, values in sensors.items()}
        for i in range(count)
    ]
    with (folder / GPU_FILE).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_stages(folder: Path, *rows: dict) -> None:
    whole = ({"step": 1, "completed": True, "flops": None} | row for row in rows)
    (folder / "stages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))


@pytest.fixture
def ended(tmp_path):
    """A run on two GPUs whose readings are replaced by what a test writes."""
    pair = FakeNvml(Device(uuid="GPU-a"), Device(uuid="GPU-b"))
    meter = run_with(tmp_path, pair, gpus=2)
    assert pair.open == -1  # nvml was given, so only the closing is seen
    (tmp_path / GPU_FILE).write_text("")
    return tmp_path, meter


def test_energy_is_the_counters_difference_over_all_gpus_of_the_run(ended):
    folder, meter = ended
    write_readings(
        folder, "GPU-a", energy_joules=[1000, 1300, 1600], utilisation=[0.0, 0.5, 1.0], memory_used_bytes=[1, 9, 2]
    )
    write_readings(
        folder, "GPU-b", energy_joules=[50, 60, 70], utilisation=[0.1, 0.1, 0.1], memory_used_bytes=[3, 3, 3]
    )
    usage = meter.usage(1800.0, STEPS)
    assert (usage.energy_joules, usage.energy_source) == (620.0, "counter")
    assert usage.gpu_utilisation == pytest.approx(0.3)
    assert usage.gpu_peak_bytes == 9
    assert usage.gpu_hours == 1.0
    assert usage.tokens_per_second == 200.0


def test_a_gpu_without_a_counter_has_its_power_integrated_and_says_so(ended):
    folder, meter = ended
    write_readings(folder, "GPU-a", power_watts=[100, 300, 100])
    write_readings(folder, "GPU-b", energy_joules=[50, 60, 70], power_watts=[0, 0, 0])
    usage = meter.usage(60.0, STEPS)
    assert (usage.energy_joules, usage.energy_source) == (420.0, "counter and power")


def test_stages_get_the_energy_of_their_own_time(ended):
    folder, meter = ended
    write_readings(
        folder, "GPU-a", energy_joules=[0, 100, 400, 500], utilisation=[0, 1, 1, 0], memory_used_bytes=[1, 8, 4, 1]
    )
    write_readings(
        folder, "GPU-b", energy_joules=[0, 10, 20, 30], utilisation=[0, 0, 0, 0], memory_used_bytes=[1, 1, 1, 1]
    )
    write_stages(
        folder,
        {"stage": "gen", "began": 100.0, "seconds": 1.0},
        {"stage": "update_actor", "began": 100.9, "seconds": 1.3},
        {"stage": "adv", "began": 102.25, "seconds": 0.5},
        {"stage": "late", "began": 102.5, "seconds": 9.0},
    )
    meter.usage(60.0, STEPS)
    rows = {row["stage"]: row for row in map(json.loads, (folder / STAGES_FILE).read_text().splitlines())}
    assert rows["gen"]["energy_joules"] == pytest.approx(110.0)
    assert rows["update_actor"]["energy_joules"] == pytest.approx(10 + 300 + 20 + 13)
    assert (rows["update_actor"]["gpu_utilisation"], rows["update_actor"]["gpu_peak_bytes"]) == (0.5, 8)
    # Shorter than the time between readings: energy is read off the line between them, the rest is not known.
    assert rows["adv"]["energy_joules"] == pytest.approx(55.0)
    assert (rows["adv"]["gpu_utilisation"], rows["adv"]["gpu_peak_bytes"], rows["adv"]["readings"]) == (None, None, 0)
    assert rows["late"]["energy_joules"] is None


def test_a_live_run_is_read_from_its_beginning_to_its_end(tmp_path):
    def work(device):
        device.millijoules += 2_000
        device.used += 1

    device = Device(after_reading=work)
    usage = run_with(tmp_path, FakeNvml(device)).usage(60.0, STEPS)
    readings = len((tmp_path / GPU_FILE).read_text().splitlines())
    assert readings >= 4
    assert usage.energy_joules == pytest.approx(2.0 * (readings - 1))
    assert usage.gpu_peak_bytes == 1_000 + readings - 1
    assert set(usage.missing) == {"cpu_energy_joules", "mfu"}


def test_a_gpu_lost_in_mid_run_leaves_no_total_and_the_reason(tmp_path):
    def lose(device):
        if device.millijoules > 2:
            device.errors["nvmlDeviceGetMemoryInfo"] = FakeNvml.NVML_ERROR_GPU_IS_LOST
        device.millijoules += 1

    pair = FakeNvml(Device(uuid="GPU-lost", after_reading=lose), Device(uuid="GPU-well"))
    usage = run_with(tmp_path, pair, gpus=2, readings=6).usage(60.0, STEPS)
    assert all(getattr(usage, figure) is None for figure in GPU)
    assert {usage.missing[figure] for figure in GPU} == {"GPU 0 was lost during the run: GPU is lost"}
    assert usage.gpu_hours is not None


def test_a_sensor_that_is_refused_leaves_its_number_out_and_keeps_the_others(tmp_path):
    refused = dict.fromkeys(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"), 4)
    usage = run_with(tmp_path, FakeNvml(Device(errors=refused))).usage(60.0, STEPS)
    assert (usage.energy_joules, usage.missing["energy_joules"]) == (None, "Insufficient Permissions")
    assert (usage.gpu_utilisation, usage.gpu_peak_bytes) == (0.5, 1_000)


def test_readings_that_failed_now_and_then_are_noted(tmp_path):
    def stumble(device):
        device.millijoules += 1
        device.errors = {"nvmlDeviceGetUtilizationRates": 999} if device.millijoules == 2 else {}

    usage = run_with(tmp_path, FakeNvml(Device(after_reading=stumble))).usage(60.0, STEPS)
    assert usage.notes == ["GPU 0: 1 readings of utilisation failed"]
    assert usage.gpu_utilisation == 0.5


@pytest.mark.parametrize("broken", [FakeNvml(), None])
def test_a_machine_whose_gpus_cannot_be_read_runs_all_the_same(tmp_path, monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(init=9))
    with UsageMeter(tmp_path, "cuda", 2, nvml=broken, powercap=tmp_path / "none") as meter:
        ran = True
    usage = meter.usage(7200.0, STEPS)
    assert ran
    assert all(getattr(usage, figure) is None and usage.missing[figure] for figure in GPU)
    assert usage.gpu_hours == 4.0
    assert not (tmp_path / GPU_FILE).exists()


def test_a_run_on_more_gpus_than_can_be_read_has_no_total(tmp_path):
    with UsageMeter(tmp_path, "cuda", 2, interval=0.002, nvml=FakeNvml(Device()), powercap=tmp_path / "none") as meter:
        wait_for(tmp_path / GPU_FILE, 3)
    usage = meter.usage(60.0, STEPS)
    assert {usage.missing[figure] for figure in GPU} == {"NVML knows 1 of 2 GPUs"}


def test_a_library_that_fails_in_its_own_way_runs_all_the_same(tmp_path):
    class Broken(FakeNvml):
        def nvmlDeviceGetCount(self):  # noqa: N802
            raise OSError("symbol lookup error")

    with UsageMeter(tmp_path, "cuda", 1, nvml=Broken(), powercap=tmp_path / "none") as meter:
        pass
    assert meter.usage(60.0, STEPS).missing["energy_joules"] == "OSError: symbol lookup error"


def test_a_run_on_a_cpu_has_no_gpu_numbers_and_its_processors_energy_where_there_is_a_counter(tmp_path):
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for file, value in (("name", "package-0"), ("energy_uj", 5_000_000), ("max_energy_range_uj", 10_000_000)):
        (zone / file).write_text(f"{value}\n")
    with UsageMeter(tmp_path, "cpu", 1, interval=0.002, powercap=tmp_path / "powercap") as meter:
        wait_for(tmp_path / RAPL_FILE, 1)
        turned_over = tmp_path / "energy_uj"
        turned_over.write_text("1000000\n")
        turned_over.replace(zone / "energy_uj")  # a counter is never read half written
    usage = meter.usage(60.0, STEPS)
    assert usage.cpu_energy_joules == pytest.approx(6.0)
    assert {usage.missing[figure] for figure in (*GPU, "gpu_hours", "mfu")} == {"the run is on a CPU"}


def test_mfu_is_taken_over_the_time_of_the_stages_that_are_counted(tmp_path):
    meter = run_with(tmp_path, FakeNvml(Device(name="NVIDIA A100-SXM4-80GB"), Device(uuid="GPU-2")), gpus=2)
    write_stages(
        tmp_path,
        {"stage": "gen", "began": 0.0, "seconds": 50.0},
        {"stage": "old_log_prob", "began": 0.0, "seconds": 1.0, "flops": 312e12},
        {"stage": "update_actor", "began": 0.0, "seconds": 4.0, "flops": 312e12},
        {"stage": "update_actor", "began": 0.0, "seconds": 1.0, "flops": 900e12, "completed": False},
    )
    usage = meter.usage(60.0, STEPS)
    assert usage.mfu_by_stage == {"old_log_prob": pytest.approx(0.5), "update_actor": pytest.approx(0.125)}
    assert usage.mfu == pytest.approx(2 * 312 / (5.0 * 2 * 312))
    assert any("A100 datasheet" in note for note in usage.notes)
    assert meter.usage(60.0, STEPS, "NVIDIA A10G").missing["mfu"].endswith("NVIDIA A10G")


def test_a_log_that_cannot_be_summed_up_costs_the_numbers_and_not_the_run(tmp_path):
    meter = run_with(tmp_path, FakeNvml(Device()))
    (tmp_path / "stages.jsonl").write_text("{\n")
    usage = meter.usage(60.0, STEPS)
    assert all(reason.startswith("summing up failed: JSONDecodeError") for reason in usage.missing.values())
    assert set(usage.missing) == {one.name for one in fields(Usage) if one.default is None}


def test_every_number_is_there_or_has_its_reason(tmp_path):
    for meter in (run_with(tmp_path, FakeNvml(Device())), run_with(tmp_path, FakeNvml(Device(divided=True)))):
        usage = meter.usage(60.0, [])
        for figure in (one.name for one in fields(Usage) if one.default is None):
            assert (getattr(usage, figure) is None) == (figure in usage.missing)
            assert usage.missing.get(figure, "a reason")
