"""Jobs that will not come back are told as ended, and no two jobs of one folder write the same files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.slurm.queue import (
    ABSENT_SECONDS,
    LEAVING_SECONDS,
    PREEMPTED_SECONDS,
    LostJobs,
    Mark,
    Orphans,
    QueuedJob,
    in_queue,
    marked,
    require_programs,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cancelled() -> list[str]:
    return []


@pytest.fixture
def lost(clock: Clock, cancelled: list[str]) -> LostJobs:
    return LostJobs(cancelled.append, clock)


def test_a_job_that_stays_preempted_is_cancelled_and_told_so(lost: LostJobs, clock: Clock, cancelled: list) -> None:
    assert lost.judge({"1": "PREEMPTED"}) == {"1": "PREEMPTED"}
    clock.now = PREEMPTED_SECONDS - 1
    assert lost.judge({"1": "PREEMPTED"}) == {"1": "PREEMPTED"}
    assert cancelled == []
    clock.now = PREEMPTED_SECONDS
    assert lost.judge({"1": "PREEMPTED", "2": "RUNNING"}) == {"1": "CANCELLED", "2": "RUNNING"}
    assert cancelled == ["1"]


def test_a_job_that_slurm_queues_again_in_time_is_left_to_it(lost: LostJobs, clock: Clock, cancelled: list) -> None:
    for second, state in enumerate(("PREEMPTED", "PENDING", "RUNNING", "PREEMPTED", "PENDING")):
        clock.now = second * (PREEMPTED_SECONDS - 1)
        assert lost.judge({"1": state}) == {"1": state}
    assert cancelled == []


def test_a_job_that_the_queue_forgets_is_left_to_its_output(lost: LostJobs, clock: Clock, cancelled: list) -> None:
    lost.judge({"1": "RUNNING", "2": "COMPLETED"})
    clock.now = 10
    assert lost.judge({}) == {}
    clock.now = 10 + ABSENT_SECONDS - 1
    assert lost.judge({}) == {}
    clock.now = 10 + ABSENT_SECONDS
    assert lost.judge({}) == {"1": "UNKNOWN"}  # and not 2, which had ended
    assert cancelled == []


def test_a_job_that_is_absent_for_a_while_only_is_running_as_before(lost: LostJobs, clock: Clock) -> None:
    for seconds, states in ((0, {"1": "RUNNING"}), (10, {}), (ABSENT_SECONDS, {"1": "RUNNING"}), (310, {})):
        clock.now = seconds
        assert lost.judge(states) == states


def test_a_job_that_is_adopted_after_the_queue_forgot_it_is_left_to_its_output(lost: LostJobs, clock: Clock) -> None:
    lost.expect("7")
    assert lost.judge({}) == {}
    clock.now = ABSENT_SECONDS
    assert lost.judge({}) == {"7": "UNKNOWN"}


names = st.lists(st.text(max_size=8), min_size=1, max_size=4, unique=True)


@given(names, names, st.integers(), st.integers())
def test_a_mark_tells_files_from_work_and_is_found_again_in_a_comment(
    files: list[str], others: list[str], work: int, other: int
) -> None:
    mark = marked(files, work)
    assert mark == marked(list(reversed(files)), work)
    assert (mark.outputs == marked(others, work).outputs) == (sorted(files) == sorted(others))
    assert (mark.work == marked(files, other).work) == (work == other)
    assert len({str(mark), str(marked(others, other))}) == (1 if mark == marked(others, other) else 2)


class Queue:
    """Jobs that leave some looks after they are cancelled; with `stuck`, never."""

    def __init__(self, jobs: Sequence[QueuedJob], looks: int = 0, stuck: bool = False):
        self.jobs, self.looks, self.stuck = list(jobs), looks, stuck
        self.cancelled: list[str] = []
        self.slept = 0.0

    def cancel(self, job: str) -> None:
        self.cancelled.append(job)

    def ids(self) -> set[str]:
        self.looks -= 1
        gone = set(self.cancelled) if self.looks < 0 and not self.stuck else set()
        return {job.id for job in self.jobs} - gone

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def orphans(self) -> Orphans:
        return Orphans(self.jobs, self.cancel, self.ids, self.sleep)


MARK = Mark("a" * 12, "b" * 12)


def job(number: str, mark: Mark = MARK, state: str = "RUNNING") -> QueuedJob:
    return QueuedJob(number, "run", state, mark)


def test_a_job_that_does_the_same_is_adopted_once_and_not_cancelled() -> None:
    queue = Queue([job("1"), job("2", Mark("c" * 12, "b" * 12))])
    orphans = queue.orphans()
    assert orphans.claim(MARK) == job("1")
    assert orphans.claim(MARK) is None  # a retry is a new job
    assert queue.cancelled == []


def test_a_job_that_writes_the_same_files_from_something_else_is_gone_before_another_is_submitted() -> None:
    queue = Queue([job("1", Mark(MARK.outputs, "d" * 12))], looks=3)
    assert queue.orphans().claim(MARK) is None
    assert queue.cancelled == ["1"]
    assert queue.ids() == set()
    assert queue.slept > 0


def test_of_two_jobs_that_do_the_same_one_is_adopted_and_the_other_cancelled() -> None:
    queue = Queue([job("1"), job("2")])
    assert queue.orphans().claim(MARK) == job("1")
    assert queue.cancelled == ["2"]


def test_a_job_that_is_ending_is_waited_for_and_not_adopted() -> None:
    queue = Queue([job("1", state="COMPLETING")], looks=2)
    assert queue.orphans().claim(MARK) is None
    assert queue.slept > 0


def test_a_job_that_does_not_leave_keeps_another_from_being_submitted() -> None:
    queue = Queue([job("1", Mark(MARK.outputs, "d" * 12))], stuck=True)
    with pytest.raises(TimeoutError, match="still in the queue: 1"):
        queue.orphans().claim(MARK)
    assert queue.slept == LEAVING_SECONDS


def test_files_are_held_by_the_job_in_the_queue_that_writes_them_until_it_is_claimed() -> None:
    mark = marked(["a", "b"], "work")
    orphans = Queue([job("1", mark)]).orphans()
    assert orphans.hold(["b", "a"])
    assert not orphans.hold(["a"])
    orphans.claim(mark)
    assert not orphans.hold(["a", "b"])


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program of that name which prints some lines."""

    def prints(lines: str) -> None:
        program = tmp_path / "squeue"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return prints


def test_only_marked_jobs_of_this_folder_are_orphans(squeue: Callable[[str], None]) -> None:
    mine = f"5|run-1|PENDING|/here|rule_train_wildcards_a|b {MARK}"
    squeue(f"{mine}\n6|run-1|RUNNING|/elsewhere|rule_train {MARK}\n7|shell|RUNNING|/here|(null)")
    assert in_queue(Path("/here")) == [QueuedJob("5", "run-1", "PENDING", MARK)]


@pytest.mark.parametrize(
    ("account", "there", "missing"),
    [
        (None, [], "sbatch, squeue, scancel, sacct"),
        (None, ["sbatch", "squeue", "scancel"], "sacct"),  # the executor asks it for the account that is not named
        ("mine", ["sbatch", "squeue", "scancel"], "sacctmgr"),
    ],
)
def test_a_program_that_a_submission_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: str | None, there: list[str], missing: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    with pytest.raises(BadInput, match=f"not on PATH = '{missing}'"):
        require_programs(account)
    for name in missing.split(", "):
        (tmp_path / name).touch(mode=0o755)
    require_programs(account)


def test_a_queue_that_does_not_answer_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BadInput, match="squeue = 'slurm_load_jobs error: Unable to contact'"):
        in_queue(tmp_path)
