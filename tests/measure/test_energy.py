"""Energy: counters that turn over, power integrated over time, and joules between two points in time."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.measure.sensors import Rapl, SensorMissing, advance, integrated, joules_between


@given(
    start=st.integers(0, 999),
    spent=st.lists(st.integers(0, 999), min_size=1),
)
def test_a_counter_that_turns_over_loses_nothing_if_read_once_a_turn(start, spent):
    readings = np.mod(start + np.concatenate([[0], np.cumsum(spent)]), 1000).tolist()
    counted = [advance(before, now, 1000) for before, now in pairwise(readings)]
    assert sum(counted) == sum(spent)


def test_without_the_turn_a_counter_that_turned_over_is_wrong():
    assert advance(990, 5, 1000) == 15
    assert 5 - 990 != 15


def zone(home, name, label, energy, limit=262_143_328_850):
    (home / name).mkdir(parents=True, exist_ok=True)
    for file, value in (("name", label), ("energy_uj", energy), ("max_energy_range_uj", limit)):
        (home / name / file).write_text(f"{value}\n")


def test_packages_are_counted_from_the_start_and_through_a_turn(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 900_000, limit=1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 10)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)  # a part of package-0
    zone(tmp_path, "intel-rapl:2", "psys", 5)  # the packages once more
    source = Rapl(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 100_000, limit=1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 500_010)
    assert source.read() == [
        {"device": "intel-rapl:0", "energy_joules": 0.2},
        {"device": "intel-rapl:1", "energy_joules": 0.5},
    ]
    zone(tmp_path, "intel-rapl:0", "package-0", 400_000, limit=1_000_000)
    assert source.read()[0]["energy_joules"] == 0.5


@pytest.mark.parametrize("home", ["none", "empty"])
def test_a_machine_without_counters_says_so(tmp_path, home):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SensorMissing, match="no counter"):
        Rapl(tmp_path / home)


def test_counters_that_may_not_be_read_say_so(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)

    def refused(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("groupppo.measure.sensors._microjoules", refused)
    with pytest.raises(SensorMissing, match="Permission denied"):
        Rapl(tmp_path)


def test_constant_power_gives_power_times_time_and_a_ramp_its_mean():
    times = np.array([0.0, 1.0, 3.0])
    assert integrated(times, np.array([100.0, 100.0, 100.0])).tolist() == [0.0, 100.0, 300.0]
    assert integrated(times, np.array([0.0, 100.0, 300.0])).tolist() == [0.0, 50.0, 450.0]


@given(st.lists(st.floats(0.01, 10.0), min_size=3, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_parts_of_a_time_use_what_the_whole_uses(steps, first, second):
    times = np.cumsum(steps)
    joules = np.cumsum(np.square(steps))
    begin, end = sorted(times[0] + share * (times[-1] - times[0]) for share in (first, second))
    begin, end = max(begin, times[0]), min(end, times[-1])
    parts = [joules_between(times, joules, *part) for part in ((times[0], begin), (begin, end), (end, times[-1]))]
    assert sum(parts) == pytest.approx(joules[-1] - joules[0])
    assert all(part >= 0 for part in parts)


def test_a_time_outside_the_readings_has_no_energy():
    times, joules = np.array([1.0, 2.0]), np.array([0.0, 10.0])
    assert joules_between(times, joules, 1.25, 1.75) == pytest.approx(5.0)
    assert joules_between(times, joules, 0.5, 1.5) is None
    assert joules_between(times, joules, 1.5, 2.5) is None
    assert joules_between(times[:1], joules[:1], 1.0, 1.0) is None
