"""What a run used, from sensors on devices that only pretend: every number, and every reason why there is none."""

import json
import time
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.measure import sensors
from groupppo.measure.usage import (
    GPU_FILE,
    RAPL_FILE,
    STAGES_FILE,
    Usage,
    UsageMeter,
    energy_curve,
    joules_between,
    read_readings,
)
from tests.measure.fake_nvml import Device, FakeNvml

STEPS = [{"tokens/total": 600, "timing_s/step": 2.0}, {"tokens/total": 400, "timing_s/step": 3.0}]
GPU = ("energy_joules", "energy_source", "gpu_utilisation", "gpu_peak_bytes")
FIGURES = [one.name for one in fields(Usage) if one.default is None]


@pytest.fixture(autouse=True)
def no_powercap(tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "POWERCAP", tmp_path / "none")


def wait_for(file: Path, lines: int) -> None:
    give_up = time.monotonic() + 20
    while not file.is_file() or len(file.read_text().splitlines()) < lines:
        assert time.monotonic() < give_up
        time.sleep(0.002)


@pytest.fixture
def run_with(tmp_path, monkeypatch):
    """A run that lasts for some readings of these devices."""

    def run(*devices: Device, gpus: int | None = None, readings: int = 4) -> UsageMeter:
        fake = FakeNvml(*devices)
        monkeypatch.setattr(sensors, "pynvml", fake)
        with UsageMeter(tmp_path, "cuda", gpus or len(devices), interval=0.002) as meter:
            wait_for(tmp_path / GPU_FILE, readings * len(devices))
        assert fake.open == 0
        return meter

    return run


def write(file: Path, device: str, **sensors: list[float]) -> None:
    """Readings of one a second from second 100 on."""
    columns = pd.DataFrame({"device": device, **sensors})
    rows = columns.assign(time=100.0 + columns.index).to_dict("records")
    with file.open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def write_stages(folder: Path, *rows: dict) -> None:
    whole = ({"step": 1, "completed": True, "flops": None} | row for row in rows)
    (folder / "stages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))


@pytest.fixture
def ended(tmp_path, run_with):
    """A run on two GPUs whose readings are replaced by what a test writes."""
    meter = run_with(Device(uuid="GPU-a"), Device(uuid="GPU-b"))
    (tmp_path / GPU_FILE).write_text("")
    return tmp_path / GPU_FILE, meter


def test_energy_is_the_counters_difference_over_all_gpus_of_the_run(ended):
    file, meter = ended
    write(file, "GPU-a", energy_joules=[1000, 1300, 1600], utilisation=[0.0, 0.5, 1.0], memory_used_bytes=[1, 9, 2])
    write(file, "GPU-b", energy_joules=[50, 60, 70], utilisation=[0.1, 0.1, 0.1], memory_used_bytes=[3, 3, 3])
    usage = meter.usage(1800.0, STEPS)
    assert (usage.energy_joules, usage.energy_source) == (620.0, "counter")
    assert usage.gpu_utilisation == pytest.approx(0.3)
    assert usage.gpu_peak_bytes == 9
    assert usage.gpu_hours == 1.0
    assert usage.tokens_per_second == 200.0


def test_a_gpu_without_a_counter_has_its_power_integrated_and_says_so(ended):
    file, meter = ended
    write(file, "GPU-a", power_watts=[100, 300, 100])
    write(file, "GPU-b", energy_joules=[50, 60, 70], power_watts=[0, 0, 0])
    usage = meter.usage(60.0, STEPS)
    assert (usage.energy_joules, usage.energy_source) == (420.0, "counter and power")


def test_stages_get_the_energy_of_their_own_time(ended):
    file, meter = ended
    write(file, "GPU-a", energy_joules=[0, 100, 400, 500], utilisation=[0, 1, 1, 0], memory_used_bytes=[1, 8, 4, 1])
    write(file, "GPU-b", energy_joules=[0, 10, 20, 30], utilisation=[0, 0, 0, 0], memory_used_bytes=[1, 1, 1, 1])
    write_stages(
        file.parent,
        {"stage": "gen", "began": 100.0, "seconds": 1.0},
        {"stage": "update_actor", "began": 100.9, "seconds": 1.3},
        {"stage": "adv", "began": 102.25, "seconds": 0.5},
        {"stage": "late", "began": 102.5, "seconds": 9.0},
    )
    meter.usage(60.0, STEPS)
    rows = {row["stage"]: row for row in map(json.loads, (file.parent / STAGES_FILE).read_text().splitlines())}
    assert rows["gen"] == {
        "step": 1, "stage": "gen", "energy_joules": 110.0, "gpu_utilisation": 0.25, "gpu_peak_bytes": 8, "readings": 4,
    }  # fmt: skip
    assert rows["update_actor"]["energy_joules"] == pytest.approx(10 + 300 + 20 + 13)
    assert (rows["update_actor"]["gpu_utilisation"], rows["update_actor"]["gpu_peak_bytes"]) == (0.5, 8)
    # Shorter than the time between readings: energy is read off the line between them, the rest is not known.
    assert rows["adv"]["energy_joules"] == pytest.approx(55.0)
    assert (rows["adv"]["gpu_utilisation"], rows["adv"]["gpu_peak_bytes"], rows["adv"]["readings"]) == (None, None, 0)
    assert rows["late"]["energy_joules"] is None


@given(st.lists(st.floats(0.01, 10.0), min_size=3, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_parts_of_a_time_use_what_the_whole_uses(steps, first, second):
    times = np.cumsum(steps)
    curve = pd.Series(np.cumsum(np.square(steps)), times)
    ends = [times[0], *sorted(times[0] + share * (times[-1] - times[0]) for share in (first, second)), times[-1]]
    ends = np.clip(ends, times[0], times[-1])
    parts = [joules_between(curve, *part) for part in pairwise(ends)]
    assert sum(parts) == pytest.approx(curve.iloc[-1] - curve.iloc[0])
    assert all(part >= 0 for part in parts)
    assert joules_between(curve, times[0] - 0.1, times[1]) is None


def test_a_clock_that_was_set_back_leaves_a_counter_that_fell_and_so_no_energy(tmp_path):
    for times, known in (((10, 11, 5), False), ((10, 11, 12), True)):
        rows = [{"time": at, "device": "a", "energy_joules": 1.0 + number} for number, at in enumerate(times)]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"time": 13')
        readings = read_readings(tmp_path / "x.jsonl")["a"]
        assert list(readings.index) == sorted(times)
        assert (energy_curve(readings) is not None) == known


def test_a_gpu_lost_in_mid_run_leaves_no_total_and_the_reason(run_with):
    def lose(device):
        device.millijoules += 1
        if device.millijoules > 2:
            readers = ("MemoryInfo", "UtilizationRates", "PowerUsage", "TotalEnergyConsumption")
            device.errors = {f"nvmlDeviceGet{reader}": 15 for reader in readers}

    lost, well = Device(uuid="GPU-lost", after_reading=lose), Device(uuid="GPU-well")
    usage = run_with(lost, well, readings=6).usage(60.0, STEPS)
    assert all(getattr(usage, figure) is None for figure in GPU)
    assert {usage.missing[figure] for figure in GPU} == {"GPU is lost"}
    assert usage.gpu_hours is not None


def test_a_sensor_that_is_refused_leaves_its_number_out_and_one_that_stumbled_keeps_it(run_with):
    def stumble(device):
        device.millijoules += 1
        stumbled = {"nvmlDeviceGetUtilizationRates": 999} if device.millijoules == 2 else {}
        device.errors = {"nvmlDeviceGetMemoryInfo": 4, **stumbled}

    usage = run_with(Device(errors={"nvmlDeviceGetMemoryInfo": 4}, after_reading=stumble)).usage(60.0, STEPS)
    assert (usage.gpu_peak_bytes, usage.missing["gpu_peak_bytes"]) == (None, "Insufficient Permissions")
    assert usage.gpu_utilisation == 0.5
    assert usage.energy_joules > 0
    assert set(usage.missing) == {"gpu_peak_bytes", "cpu_energy_joules", "mfu"}


def test_a_run_on_more_gpus_than_can_be_read_has_no_total(run_with):
    usage = run_with(Device(), gpus=2).usage(60.0, STEPS)
    assert {usage.missing[figure] for figure in GPU} == {"NVML knows 1 of 2 GPUs"}


class Broken(FakeNvml):
    def nvmlDeviceGetCount(self):  # noqa: N802
        raise OSError("symbol lookup error")


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (FakeNvml(), "CUDA_VISIBLE_DEVICES='unset': no GPU that NVML knows"),
        (FakeNvml(init=9), "NVML: Driver Not Loaded"),
        (Broken(), "OSError: symbol lookup error"),
    ],
)
def test_a_machine_whose_gpus_cannot_be_read_runs_all_the_same(tmp_path, monkeypatch, nvml, reason):
    monkeypatch.setattr(sensors, "pynvml", nvml)
    with UsageMeter(tmp_path, "cuda", 2) as meter:
        pass
    usage = meter.usage(7200.0, STEPS)
    assert {(getattr(usage, figure), usage.missing[figure]) for figure in GPU} == {(None, reason)}
    assert usage.gpu_hours == 4.0
    assert not (tmp_path / GPU_FILE).exists()


def test_a_run_on_a_cpu_has_no_gpu_numbers_and_its_processors_energy_where_there_is_a_counter(tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "POWERCAP", tmp_path / "powercap")
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for file, value in (("name", "package-0"), ("energy_uj", 5_000_000), ("max_energy_range_uj", 10_000_000)):
        (zone / file).write_text(f"{value}\n")
    with UsageMeter(tmp_path, "cpu", 1, interval=0.002) as meter:
        wait_for(tmp_path / RAPL_FILE, 1)
        turned_over = tmp_path / "energy_uj"
        turned_over.write_text("1000000\n")
        turned_over.replace(zone / "energy_uj")  # a counter is never read half written
    usage = meter.usage(60.0, STEPS)
    assert usage.cpu_energy_joules == pytest.approx(6.0)
    assert {usage.missing[figure] for figure in (*GPU, "gpu_hours", "mfu")} == {"the run is on a CPU"}
    for readings, total in (
        ([0.0, 4.0], 10.0),
        ([0.0], None),
    ):  # the sum over some of the packages is not the machine's
        (tmp_path / RAPL_FILE).unlink()
        write(tmp_path / RAPL_FILE, "a", energy_joules=[0.0, 6.0])
        write(tmp_path / RAPL_FILE, "b", energy_joules=readings)
        assert meter.usage(60.0, STEPS).cpu_energy_joules == total


def test_mfu_is_taken_over_the_time_of_the_stages_that_are_counted(tmp_path, run_with):
    meter = run_with(Device(name="NVIDIA A100-SXM4-80GB"), Device(uuid="GPU-2"))
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


def test_a_log_that_cannot_be_summed_up_costs_the_numbers_and_not_the_run(tmp_path, run_with):
    meter = run_with(Device())
    (tmp_path / "stages.jsonl").write_text("{\n")
    usage = meter.usage(60.0, STEPS)
    assert all(reason.startswith("summing up failed: JSONDecodeError") for reason in usage.missing.values())
    assert set(usage.missing) == set(FIGURES)


@pytest.mark.parametrize("divided", [False, True])
def test_every_number_is_there_or_has_its_reason(run_with, divided):
    usage = run_with(Device(divided=divided)).usage(60.0, [])
    for figure in FIGURES:
        assert (getattr(usage, figure) is None) == (figure in usage.missing)
        assert usage.missing.get(figure, "a reason")
