"""The stage meter: rows, order, counts and what happens when a stage fails."""

import json
import time
from pathlib import Path

import pytest

from groupppo.measure.stages import StageMeter, Usage


class FakeProbe:
    """Every stage uses one CPU second more than the last."""

    def __init__(self) -> None:
        self.stages = 0

    def begin(self) -> None:
        self.stages += 1

    def end(self) -> Usage:
        return Usage(cpu_seconds=float(self.stages), peak_bytes=100 * self.stages, rise_bytes=10 * self.stages)


@pytest.fixture
def meter(tmp_path: Path) -> StageMeter:
    return StageMeter(tmp_path / "stages.jsonl", FakeProbe())


def rows(meter: StageMeter) -> list[dict]:
    return [json.loads(line) for line in meter.path.read_text().splitlines()]


def test_a_step_writes_its_stages_in_order_and_itself_last(meter: StageMeter) -> None:
    meter.begin_step(1)
    for stage in ("gen", "adv"):
        with meter.stage(stage):
            pass
    meter.count(tokens=50, endpoints=7)
    meter.end_step()
    assert [row["stage"] for row in rows(meter)] == ["gen", "adv", "step"]
    assert {(row["tokens"], row["endpoints"], row["step"]) for row in rows(meter)} == {(50, 7, 1)}
    assert rows(meter)[-1] | {"seconds": 0, "began": 0, "overhead_seconds": 0} == {
        "step": 1, "stage": "step", "seconds": 0, "cpu_seconds": 3.0, "peak_bytes": 200, "rise_bytes": 20,
        "tokens": 50, "endpoints": 7, "completed": True, "began": 0, "overhead_seconds": 0, "flops": None,
    }  # fmt: skip


def test_a_stage_that_fails_is_recorded_as_not_completed_and_its_error_goes_on(meter: StageMeter) -> None:
    meter.begin_step(1)
    with pytest.raises(MemoryError), meter.stage("update_actor"):
        raise MemoryError
    meter.end_step(completed=False)
    assert [(row["stage"], row["completed"]) for row in rows(meter)] == [("update_actor", False), ("step", False)]


class DeadProbe(FakeProbe):
    def end(self) -> Usage:
        raise ConnectionError("the worker is dead")


def test_a_stage_that_fails_with_the_worker_its_probe_asks_is_a_row_without_memory(tmp_path: Path) -> None:
    meter = StageMeter(tmp_path / "stages.jsonl", DeadProbe())
    meter.begin_step(1)
    with pytest.raises(MemoryError), meter.stage("update_actor"):
        raise MemoryError
    meter.end_step(completed=False)
    unread = {"completed": False, "cpu_seconds": None, "peak_bytes": None, "rise_bytes": None}
    assert [row["stage"] for row in rows(meter)] == ["update_actor", "step"]
    assert all(row | unread == row for row in rows(meter))


def test_a_probe_that_fails_in_a_stage_that_did_not_is_an_error(tmp_path: Path) -> None:
    meter = StageMeter(tmp_path / "stages.jsonl", DeadProbe())
    meter.begin_step(1)
    with pytest.raises(ConnectionError), meter.stage("update_actor"):
        pass


def test_a_step_that_ends_with_an_open_stage_closes_it(meter: StageMeter) -> None:
    meter.begin_step(3)
    meter.begin_stage("gen")
    meter.end_step(completed=False)
    assert [(row["stage"], row["completed"]) for row in rows(meter)] == [("gen", False), ("step", False)]


def test_stages_do_not_nest(meter: StageMeter) -> None:
    meter.begin_step(1)
    meter.begin_stage("gen")
    with pytest.raises(RuntimeError, match="adv"):
        meter.begin_stage("adv")


class Device:
    """A device that goes on working after a call has returned, until somebody waits for it; and a clock."""

    def __init__(self) -> None:
        self.now, self.queued = 0.0, 0.0

    def wait(self) -> None:
        self.now, self.queued = self.now + self.queued, 0.0


@pytest.mark.parametrize("waits", [True, False])
def test_work_that_a_stage_left_on_the_device_is_its_own_and_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    device = Device()
    monkeypatch.setattr("groupppo.measure.stages.time.perf_counter", lambda: device.now)
    meter = StageMeter(tmp_path / "stages.jsonl", FakeProbe(), synchronise=device.wait if waits else lambda: None)
    meter.begin_step(1)
    with meter.stage("update_actor"):
        device.queued = 5.0
    with meter.stage("update_weights"):
        device.wait()
    meter.end_step()
    seconds = {row.stage: row.seconds for row in meter.rows}
    assert seconds == {"update_actor": 5.0 if waits else 0.0, "update_weights": 0.0 if waits else 5.0, "step": 5.0}


def test_what_measuring_takes_is_stated_beside_the_stage_and_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Device()

    class SlowProbe(FakeProbe):
        def begin(self) -> None:
            clock.now += 0.25

        def end(self) -> Usage:
            clock.now += 0.5
            return super().end()

    monkeypatch.setattr("groupppo.measure.stages.time.perf_counter", lambda: clock.now)
    meter = StageMeter(tmp_path / "stages.jsonl", SlowProbe())
    meter.begin_step(1)
    with meter.stage("adv"):
        clock.now += 3.0
    stage, step = meter.end_step()
    assert (stage.seconds, stage.overhead_seconds) == (3.0, 0.75)
    assert (step.seconds, step.overhead_seconds) == (3.75, 0.75)


def test_a_device_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    asked: list[str] = []
    meter = StageMeter(tmp_path / "stages.jsonl", FakeProbe(), synchronise=lambda: asked.append("wait"))
    meter.begin_step(1)
    with pytest.raises(MemoryError), meter.stage("update_actor"):
        raise MemoryError
    assert len(asked) == 1
    with meter.stage("adv"):
        pass
    assert len(asked) == 3


def test_operations_are_written_on_the_stages_they_are_counted_for(meter: StageMeter) -> None:
    for step, flops in ((1, {"update_actor": 7e12, "ref": 1.0}), (2, {})):
        meter.begin_step(step)
        for stage in ("gen", "update_actor"):
            with meter.stage(stage):
                pass
        if flops:
            meter.count_flops(flops)
        meter.end_step()
    assert [row["flops"] for row in rows(meter)] == [None, 7e12, None, None, None, None]


def test_stages_say_when_they_began(meter: StageMeter) -> None:
    before = time.time()
    meter.begin_step(1)
    for stage in ("gen", "adv"):
        with meter.stage(stage):
            pass
    gen, adv, step = meter.end_step()
    assert before <= step.began <= gen.began <= adv.began <= time.time()
