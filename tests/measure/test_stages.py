"""The stage meter: rows, order, counts, failures; its probes, of a process tree and of CUDA's allocators."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from groupppo.measure.stages import AllocatorPeaks, AllocatorProbe, ProcessTreeProbe, StageMeter, Usage
from groupppo.verl import engine
from groupppo.verl.engine import ActorWorker
from groupppo.verl.trainer import GroupPPOTrainer

UNREAD = {"cpu_seconds": None, "peak_bytes": None, "rise_bytes": None}


class FakeProbe:
    """Every stage uses one CPU second more than the last."""

    def __init__(self) -> None:
        self.stages = 0

    def begin(self) -> None:
        self.stages += 1

    def end(self) -> Usage:
        return Usage(cpu_seconds=float(self.stages), peak_bytes=100 * self.stages, rise_bytes=10 * self.stages)


class DeadProbe(FakeProbe):
    def end(self) -> Usage:
        raise ConnectionError("the worker is dead")


@pytest.fixture
def meter(tmp_path: Path) -> StageMeter:
    return StageMeter(tmp_path / "stages.jsonl", FakeProbe())


def rows(meter: StageMeter) -> list[dict]:
    return [json.loads(line) for line in meter.path.read_text().splitlines()]


def test_a_step_writes_its_stages_in_order_and_itself_last(meter: StageMeter) -> None:
    before = time.time()
    for step, flops in ((1, {"adv": 7e12, "ref": 1.0}), (2, None)):
        meter.begin_step(step)
        for stage in ("gen", "adv"):
            with meter.stage(stage):
                pass
        meter.count(tokens=50, endpoints=7, flops=flops)
        meter.end_step()
    assert [(row["step"], row["stage"]) for row in rows(meter)[:4]] == [(1, "gen"), (1, "adv"), (1, "step"), (2, "gen")]
    assert {(row["tokens"], row["endpoints"]) for row in rows(meter)} == {(50, 7)}
    assert [row["flops"] for row in rows(meter)] == [None, 7e12, None, None, None, None]
    gen, adv, step = rows(meter)[:3]
    assert before <= step["began"] <= gen["began"] <= adv["began"] <= time.time()
    assert step | {"seconds": 0, "began": 0, "overhead_seconds": 0} == {
        "step": 1, "stage": "step", "seconds": 0, "cpu_seconds": 3.0, "peak_bytes": 200, "rise_bytes": 20,
        "tokens": 50, "endpoints": 7, "completed": True, "began": 0, "overhead_seconds": 0, "flops": None,
    }  # fmt: skip


@pytest.mark.parametrize(("probe", "unread"), [(FakeProbe(), {}), (DeadProbe(), UNREAD)])
def test_a_stage_that_fails_is_a_row_that_is_not_completed_and_its_error_goes_on(tmp_path, probe, unread) -> None:
    """Its row has no memory where the worker that its probe asks failed with it; a device that failed is not asked."""
    asked: list[str] = []
    meter = StageMeter(tmp_path / "stages.jsonl", probe, synchronise=lambda: asked.append("wait"))
    meter.begin_step(1)
    with pytest.raises(MemoryError), meter.stage("update_actor"):
        raise MemoryError
    meter.end_step(completed=False)
    assert len(asked) == 1
    assert [row["stage"] for row in rows(meter)] == ["update_actor", "step"]
    assert all(row | {"completed": False, **unread} == row for row in rows(meter))


def test_a_probe_that_fails_in_a_stage_that_did_not_is_an_error(tmp_path: Path) -> None:
    meter = StageMeter(tmp_path / "stages.jsonl", DeadProbe())
    meter.begin_step(1)
    with pytest.raises(ConnectionError), meter.stage("update_actor"):
        pass


def test_stages_do_not_nest_and_a_step_that_ends_closes_its_open_one(meter: StageMeter) -> None:
    meter.begin_step(3)
    meter.begin_stage("gen")
    with pytest.raises(RuntimeError, match="adv"):
        meter.begin_stage("adv")
    meter.end_step(completed=False)
    assert [(row["stage"], row["completed"]) for row in rows(meter)] == [("gen", False), ("step", False)]


class Device:
    """A device that goes on working after a call has returned, until somebody waits for it; and a clock."""

    def __init__(self) -> None:
        self.now, self.queued = 0.0, 0.0

    def wait(self) -> None:
        self.now, self.queued = self.now + self.queued, 0.0


@pytest.mark.parametrize("waits", [True, False])
def test_work_that_a_stage_left_on_the_device_is_its_own_and_not_the_next_ones(tmp_path, monkeypatch, waits) -> None:
    device = Device()
    monkeypatch.setattr("groupppo.measure.stages.time.perf_counter", lambda: device.now)
    meter = StageMeter(tmp_path / "stages.jsonl", FakeProbe(), synchronise=device.wait if waits else lambda: None)
    meter.begin_step(1)
    with meter.stage("update_actor"):
        device.queued = 5.0
    with meter.stage("update_weights"):
        device.wait()
    seconds = {row.stage: row.seconds for row in meter.end_step()}
    assert seconds == {"update_actor": 5.0 if waits else 0.0, "update_weights": 0.0 if waits else 5.0, "step": 5.0}


def test_what_measuring_takes_is_stated_beside_the_stage_and_is_not_in_it(tmp_path, monkeypatch) -> None:
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


MB = 2**20
CHILD = """
    import sys
    for line in sys.stdin:
        block = bytearray(b"x") * (int(line) << 20)
        del block
        print("held", flush=True)
"""


@pytest.fixture
def hold():
    """A child process that holds so many megabytes for a moment; it starts when it is first asked."""
    started: list[subprocess.Popen[str]] = []

    def ask(megabytes: int) -> None:
        if not started:
            command = ["env", "MALLOC_MMAP_THRESHOLD_=131072", sys.executable, "-c", textwrap.dedent(CHILD)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        print(megabytes, file=started[0].stdin, flush=True)
        assert started[0].stdout.readline() == "held\n"

    yield ask
    for process in started:
        process.communicate()


def test_memory_freed_before_the_end_of_a_stage_still_counts_in_its_peak_and_not_in_the_next(hold) -> None:
    probe = ProcessTreeProbe()
    usages = []
    hold(1)
    for megabytes in (200, 1):
        probe.begin()
        hold(megabytes)
        usages.append(probe.end())
    during, after = usages
    assert 195 * MB <= during.rise_bytes < 230 * MB  # the kernel counts pages in batches
    assert during.peak_bytes > during.rise_bytes
    assert after.rise_bytes < 30 * MB


def test_a_process_that_starts_within_a_stage_counts_in_full(hold) -> None:
    probe = ProcessTreeProbe()
    probe.begin()
    hold(100)
    assert probe.end().rise_bytes >= 98 * MB


def test_cpu_seconds_are_those_between_the_two_readings() -> None:
    probe, total = ProcessTreeProbe(), 0
    probe.begin()
    while probe.end().cpu_seconds < 0.2:
        total += sum(range(10_000))
    probe.begin()
    assert total > 0
    assert probe.end().cpu_seconds < 0.1


class FakeCuda:
    """torch.cuda: bytes now and at their highest since the last reset."""

    def __init__(self) -> None:
        self.now = self.highest = self.waited = 0

    def allocate(self, size: int) -> None:
        self.highest = max(self.highest, self.now + size)

    def synchronize(self) -> None:
        self.waited += 1

    def reset_peak_memory_stats(self) -> None:
        self.highest = self.now

    def memory_allocated(self) -> int:
        return self.now

    def max_memory_allocated(self) -> int:
        return self.highest

    def max_memory_reserved(self) -> int:
        return self.highest + 10


@pytest.mark.parametrize(("reset", "peaks"), [("reset_peak_memory", (510, 40)), ("read_peak_memory", (510, 510))])
def test_a_stages_peak_is_its_own_where_peaks_are_reset_and_else_an_earlier_stages(monkeypatch, reset, peaks) -> None:
    monkeypatch.setattr(engine, "get_device_name", lambda: "cuda")
    ranks = [FakeCuda(), FakeCuda()]

    def on_each(name: str) -> list[AllocatorPeaks]:
        """A worker's method on every rank, as its worker group calls it."""
        answers = []
        for cuda in ranks:
            monkeypatch.setattr(engine, "get_torch_device", lambda cuda=cuda: cuda)
            worker = SimpleNamespace(read_peak_memory=lambda: ActorWorker.read_peak_memory.__wrapped__(None))
            answers.append(getattr(ActorWorker, name).__wrapped__(worker))
        return answers

    probe = AllocatorProbe(reset=lambda: on_each(reset), read=lambda: on_each("read_peak_memory"))
    usages = []
    for rank, size in enumerate((500, 30)):
        probe.begin()
        ranks[rank].allocate(size)
        usages.append(probe.end())
    assert tuple(usage.peak_bytes for usage in usages) == peaks
    read = ranks[-1].waited  # each reading waits, too
    ActorWorker.synchronise.__wrapped__(None)
    assert ranks[-1].waited == read + 1 > 1
    assert [usage.rise_bytes for usage in usages] == [peak - 10 for peak in peaks]


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
