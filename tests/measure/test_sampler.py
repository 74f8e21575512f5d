"""The sampler: it reads from entry to exit, and whatever its source does, the block it watches goes on."""

import json
import threading
import time

import pytest

from groupppo.measure import sensors as sampler
from groupppo.measure.sensors import Sampler


class Counter:
    def __init__(self, fails_at: int = 0, error: type[Exception] = OSError):
        self.readings, self.fails_at, self.error, self.closed = 0, fails_at, error, False
        self.read_often = threading.Event()

    def read(self):
        self.readings += 1
        if self.readings == self.fails_at:
            raise self.error("the bus fell over")
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


def test_a_block_shorter_than_the_interval_has_its_first_and_its_last_reading(tmp_path):
    source = Counter()
    with Sampler(tmp_path / "x.jsonl", source, interval=60):
        while not source.readings:
            time.sleep(0.001)
    assert source.readings == 2


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError])
def test_an_error_in_mid_run_ends_the_readings_keeps_those_before_and_says_why(tmp_path, error):
    source = Counter(fails_at=3, error=error)
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
    monkeypatch.setattr(sampler, "_PATIENCE", 0.05)
    free = threading.Event()

    class Hanging(Counter):
        def read(self):
            free.wait(30)
            return []

    with Sampler(tmp_path / "x.jsonl", Hanging(), interval=0.01) as watch:
        pass
    free.set()
    assert "had not ended" in watch.fault
