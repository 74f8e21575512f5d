"""Peaks of the CUDA allocator by stage, through the worker's own methods, on a `torch.cuda` that only counts."""

from types import SimpleNamespace

import pytest

from groupppo.measure.memory import AllocatorPeaks, AllocatorProbe
from groupppo.verl import engine as workers
from groupppo.verl.engine import ActorWorker
from groupppo.verl.trainer import GroupPPOTrainer


class FakeCuda:
    """Bytes now and at their highest since the last reset; work that was given to it is done when it is waited for."""

    def __init__(self) -> None:
        self.now = self.highest = self.reserved = 0
        self.queued: list[int] = []

    def allocate(self, *sizes: int) -> None:
        self.queued += sizes

    def synchronize(self) -> None:
        for size in self.queued:
            self.now += size
            self.highest, self.reserved = max(self.highest, self.now), max(self.reserved, self.now + 10)
        self.queued = []

    def reset_peak_memory_stats(self) -> None:
        self.highest = self.now
        self.reserved = self.now + 10

    def memory_allocated(self) -> int:
        return self.now

    def max_memory_allocated(self) -> int:
        return self.highest

    def max_memory_reserved(self) -> int:
        return self.reserved


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> list[FakeCuda]:
    monkeypatch.setattr(workers, "get_device_name", lambda: "cuda")
    return [FakeCuda(), FakeCuda()]


def on_each(ranks: list[FakeCuda], name: str, monkeypatch: pytest.MonkeyPatch) -> list[AllocatorPeaks]:
    """A worker's method on every rank, as its worker group calls it."""
    answers = []
    for cuda in ranks:
        monkeypatch.setattr(workers, "get_torch_device", lambda cuda=cuda: cuda)
        worker = SimpleNamespace(read_peak_memory=lambda: ActorWorker.read_peak_memory.__wrapped__(None))
        answers.append(getattr(ActorWorker, name).__wrapped__(worker))
    return answers


def test_a_stages_peak_is_its_own_and_not_an_earlier_stages(ranks, monkeypatch) -> None:
    probe = AllocatorProbe(
        reset=lambda: on_each(ranks, "reset_peak_memory", monkeypatch),
        read=lambda: on_each(ranks, "read_peak_memory", monkeypatch),
    )
    probe.begin()
    ranks[0].allocate(500, -400)
    large = probe.end()
    probe.begin()
    ranks[1].allocate(30, -30)
    small = probe.end()
    assert (large.peak_bytes, large.rise_bytes) == (510, 500)
    assert (small.peak_bytes, small.rise_bytes) == (110, 30)


def test_without_a_reset_the_earlier_stages_peak_stays(ranks, monkeypatch) -> None:
    probe = AllocatorProbe(
        reset=lambda: on_each(ranks, "read_peak_memory", monkeypatch),
        read=lambda: on_each(ranks, "read_peak_memory", monkeypatch),
    )
    probe.begin()
    ranks[0].allocate(500, -400)
    probe.end()
    probe.begin()
    assert probe.end().peak_bytes == 510


def test_work_still_queued_when_a_stage_begins_belongs_to_the_stage_before(ranks, monkeypatch) -> None:
    ranks[0].allocate(500, -500)
    before = on_each(ranks, "reset_peak_memory", monkeypatch)
    assert [peaks.peak_allocated for peaks in before] == [0, 0]
    ranks[0].allocate(70)
    monkeypatch.setattr(workers, "get_torch_device", lambda: ranks[0])
    ActorWorker.synchronise.__wrapped__(None)
    assert ranks[0].now == 70


@pytest.mark.parametrize(("device", "calls"), [
    ("cuda", ["synchronise", "reset_peak_memory", "work", "synchronise", "read_peak_memory"]),
    ("cpu", ["reset_peak_memory", "work"]),
])  # fmt: skip
def test_a_stage_on_a_gpu_waits_for_every_rank_before_its_clock_and_one_on_a_cpu_asks_for_nothing(
    tmp_path, device, calls
) -> None:
    asked: list[str] = []

    def call(name: str):
        return lambda: asked.append(name) or [AllocatorPeaks(0, 0, 0)]

    group = SimpleNamespace(**{name: call(name) for name in ("synchronise", "reset_peak_memory", "read_peak_memory")})
    meter = GroupPPOTrainer._meter(SimpleNamespace(run_folder=tmp_path, actor_rollout_wg=group), device)
    meter.begin_step(1)
    with meter.stage("update_actor"):
        asked.append("work")
    meter.end_step()
    assert asked == calls
