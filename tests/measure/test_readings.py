"""Readings of a sampler's file: in the order of time, and sums only over everything that was read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.measure.sensors import energy_curve, read_series
from groupppo.measure.usage import RAPL_FILE, UsageMeter


def write(file: Path, rows: list[tuple[float, str, float]]) -> None:
    texts = [json.dumps({"time": at, "device": device, "energy_joules": joules}) for at, device, joules in rows]
    file.write_text("".join(f"{text}\n" for text in texts))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True), st.integers(-5, 35), st.integers(0, 20))
def test_within_a_stage_are_the_readings_of_its_time_both_ends_included(tmp_path_factory, times, begin, length):
    file = tmp_path_factory.mktemp("readings") / "x.jsonl"
    write(file, [(at, "a", 10.0 * at) for at in times])
    found = read_series(file)["a"].within("energy_joules", begin, begin + length)
    assert found.tolist() == [10.0 * at for at in sorted(times) if begin <= at <= begin + length]


def test_a_clock_that_was_set_back_leaves_a_counter_that_fell_and_so_no_energy(tmp_path):
    write(tmp_path / "x.jsonl", [(10, "a", 1.0), (11, "a", 2.0), (5, "a", 3.0)])
    series = read_series(tmp_path / "x.jsonl")["a"]
    assert series.sensors["energy_joules"][0].tolist() == [5, 10, 11]
    assert energy_curve(series) is None
    write(tmp_path / "x.jsonl", [(10, "a", 1.0), (11, "a", 2.0), (12, "a", 3.0)])
    assert energy_curve(read_series(tmp_path / "x.jsonl")["a"]) is not None


@pytest.mark.parametrize(("second", "joules"), [([(1, "b", 0.0), (2, "b", 4.0)], 7.0), ([(1, "b", 0.0)], None)])
def test_a_package_that_was_read_once_leaves_no_total_of_the_others(tmp_path, second, joules):
    for name in ("stages.jsonl", RAPL_FILE):
        (tmp_path / name).write_text("")
    with UsageMeter(tmp_path, "cpu", 0, powercap=tmp_path) as meter:
        pass
    meter.absent.pop(RAPL_FILE)
    meter.samplers[RAPL_FILE] = type("Ended", (), {"fault": None})()
    write(tmp_path / RAPL_FILE, [(1, "a", 0.0), (2, "a", 3.0), *second])
    usage = meter.usage(1.0, [])
    assert usage.cpu_energy_joules == joules
    assert ("cpu_energy_joules" in usage.missing) is (joules is None)
