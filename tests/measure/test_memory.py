"""Memory and CPU time: of a process tree, on processes whose use is known, and of the CUDA allocator, on a fake one."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from groupppo.measure import memory
from groupppo.measure.memory import AllocatorPeaks, AllocatorProbe
from groupppo.verl import engine
from groupppo.verl.engine import ActorWorker
from groupppo.verl.trainer import GroupPPOTrainer

MB = 2**20

CHILD = """
    import sys
    def hold(megabytes):
        return bytearray(b"x") * (megabytes << 20)
    for line in sys.stdin:
        megabytes = int(line)
        block = hold(megabytes)
        del block
        print("held", flush=True)
"""


def child() -> subprocess.Popen[str]:
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="131072")
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def hold(process: subprocess.Popen[str], megabytes: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{megabytes}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"


def test_memory_freed_before_the_end_of_a_stage_still_counts_in_its_peak_and_not_in_the_next() -> None:
    with child() as process:
        hold(process, 1)
        start = memory.begin(os.getpid())
        hold(process, 200)
        during = memory.end(os.getpid(), start)
        start = memory.begin(os.getpid())
        hold(process, 1)
        after = memory.end(os.getpid(), start)
        process.stdin.close()
    assert 195 * MB <= during.rise_bytes < 230 * MB  # the kernel counts pages in batches
    assert during.peak_bytes > during.rise_bytes
    assert after.rise_bytes < 30 * MB


def test_a_process_that_starts_within_a_stage_counts_in_full() -> None:
    start = memory.begin(os.getpid())
    with child() as process:
        hold(process, 100)
        usage = memory.end(os.getpid(), start)
        process.stdin.close()
    assert usage.rise_bytes >= 98 * MB


def test_cpu_seconds_are_those_between_the_two_readings() -> None:
    start = memory.begin(os.getpid())
    total = 0
    while memory.end(os.getpid(), start).cpu_seconds < 0.2:
        total += sum(range(10_000))
    idle = memory.end(os.getpid(), memory.begin(os.getpid()))
    assert total > 0
    assert idle.cpu_seconds < 0.1


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
    monkeypatch.setattr(engine, "get_device_name", lambda: "cuda")
    return [FakeCuda(), FakeCuda()]


def on_each(ranks: list[FakeCuda], name: str, monkeypatch: pytest.MonkeyPatch) -> list[AllocatorPeaks]:
    """A worker's method on every rank, as its worker group calls it."""
    answers = []
    for cuda in ranks:
        monkeypatch.setattr(engine, "get_torch_device", lambda cuda=cuda: cuda)
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
    monkeypatch.setattr(engine, "get_torch_device", lambda: ranks[0])
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
