"""The sampler, whatever its source does; energy from its readings; RAPL, whose counters turn over."""

import json
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.measure import sensors
from groupppo.measure.sensors import (
    Rapl,
    Sampler,
    SensorMissing,
    advance,
    energy_curve,
    integrated,
    joules_between,
    read_series,
)
from groupppo.measure.usage import RAPL_FILE, UsageMeter


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
    times = [row["time"] for row in written]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= time.time()


def test_an_error_in_mid_run_ends_the_readings_keeps_those_before_and_says_why(tmp_path):
    source = Counter(fails_at=3)
    with Sampler(tmp_path / "x.jsonl", source, interval=0.001) as watch:
        watch._thread.join(20)
        reached = True
    assert reached
    assert "the bus fell over" in watch.fault
    assert source.closed
    assert len(rows(tmp_path / "x.jsonl")) == 2 * 2


def test_a_file_that_cannot_be_written_is_a_fault_and_no_error(tmp_path):
    with Sampler(tmp_path / "none" / "x.jsonl", Counter(), interval=0.001) as watch:
        watch._thread.join(20)
    assert "FileNotFoundError" in watch.fault


def test_an_error_of_the_block_goes_on_and_the_thread_ends(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), Sampler(tmp_path / "x.jsonl", Counter(), 0.001) as watch:
        raise RuntimeError("of the run")
    assert not watch._thread.is_alive()


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


@given(
    start=st.integers(0, 999),
    spent=st.lists(st.integers(0, 999), min_size=1),
)
def test_a_counter_that_turns_over_loses_nothing_if_read_once_a_turn(start, spent):
    readings = np.mod(start + np.concatenate([[0], np.cumsum(spent)]), 1000).tolist()
    counted = [advance(before, now, 1000) for before, now in pairwise(readings)]
    assert sum(counted) == sum(spent)


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
