"""The stage meter: rows, order, counts and what happens when a stage fails."""

import json
from pathlib import Path

import pytest

from groupppo.measure.probes import AllocatorPeaks, AllocatorProbe
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
    assert rows(meter)[-1] | {"seconds": 0} == {
        "step": 1, "stage": "step", "seconds": 0, "cpu_seconds": 3.0, "peak_bytes": 200, "rise_bytes": 20,
        "tokens": 50, "endpoints": 7, "completed": True,
    }  # fmt: skip


def test_stages_sum_to_no_more_than_the_step(meter: StageMeter) -> None:
    meter.begin_step(1)
    for stage in ("gen", "adv", "update_actor"):
        with meter.stage(stage):
            sum(range(1000))
    *stages, step = meter.end_step()
    assert sum(row.seconds for row in stages) <= step.seconds


def test_a_stage_that_fails_is_recorded_as_not_completed_and_its_error_goes_on(meter: StageMeter) -> None:
    meter.begin_step(1)
    with pytest.raises(MemoryError), meter.stage("update_actor"):
        raise MemoryError
    meter.end_step(completed=False)
    assert [(row["stage"], row["completed"]) for row in rows(meter)] == [("update_actor", False), ("step", False)]


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


def test_a_stage_outside_a_step_is_an_error(meter: StageMeter) -> None:
    with pytest.raises(RuntimeError, match="no step"):
        meter.begin_stage("gen")


def test_the_allocator_probe_reports_the_fullest_rank_and_the_largest_rise() -> None:
    before = [AllocatorPeaks(100, 100, 300), AllocatorPeaks(150, 150, 300)]
    after = [AllocatorPeaks(100, 180, 400), AllocatorPeaks(150, 190, 350)]
    probe = AllocatorProbe(reset=lambda: before, read=lambda: after)
    probe.begin()
    usage = probe.end()
    assert (usage.peak_bytes, usage.rise_bytes) == (400, 80)
