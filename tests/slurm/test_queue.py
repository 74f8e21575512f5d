"""Jobs that will not come back are ended, and no two jobs of one folder write the same files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.slurm import queue
from groupppo.slurm.queue import (
    ABSENT_SECONDS,
    LEAVING_SECONDS,
    PREEMPTED_SECONDS,
    EarlierJobs,
    LostJobs,
    Mark,
    QueuedJob,
    Seen,
    in_queue,
    marked,
    programs_for,
    require_programs,
    states,
)


@pytest.mark.parametrize(
    ("looks", "ends", "cancelled"),
    [
        # A job that stays pre-empted is cancelled for good; one that Slurm queues again in time is left to it.
        (
            [(0, "PREEMPTED"), (PREEMPTED_SECONDS - 1, "PREEMPTED"), (PREEMPTED_SECONDS, "PREEMPTED")],
            "CANCELLED",
            ["1"],
        ),
        ([(0, "PREEMPTED"), (29, "PENDING"), (58, "RUNNING"), (87, "PREEMPTED"), (116, "PREEMPTED")], "PREEMPTED", []),
        # One that the queue forgets, or never knew, is left to its output; one that is absent for a while is not.
        ([(0, "RUNNING"), (10, None), (ABSENT_SECONDS + 9, None)], "absent", []),
        ([(0, "RUNNING"), (10, None), (ABSENT_SECONDS + 10, None)], "UNKNOWN", []),
        ([(0, None), (ABSENT_SECONDS, None)], "UNKNOWN", []),
        ([(0, "RUNNING"), (10, None), (ABSENT_SECONDS, "RUNNING"), (310, None)], "absent", []),
    ],
)
def test_a_job_that_will_not_come_back_is_ended_and_any_other_is_left(
    monkeypatch: pytest.MonkeyPatch, looks: list[tuple[float, str | None]], ends: str, cancelled: list[str]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(queue, "cancel", calls.append)
    times = iter([second for second, _ in looks])
    lost = LostJobs(lambda: next(times))
    judged = [lost.judge("1", state) for _, state in looks]
    assert judged[-1] == ends
    assert calls == cancelled


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

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.jobs, self.looks, self.stuck = list[QueuedJob](), 0, False
        self.cancelled: list[str] = []
        self.slept = 0.0
        monkeypatch.setattr(queue, "require_programs", lambda names: None)
        monkeypatch.setattr(queue, "in_queue", self.there)
        monkeypatch.setattr(queue, "cancel", self.cancelled.append)
        monkeypatch.setattr(queue.time, "sleep", self.sleep)

    def there(self, folder: Path) -> list[QueuedJob]:
        gone = self.cancelled if not self.stuck and self.slept >= self.looks else []
        return [job for job in self.jobs if job.id not in gone]

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def earlier(self, *jobs: QueuedJob) -> EarlierJobs:
        self.jobs += jobs
        return EarlierJobs(Path("/here"), programs=())


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(monkeypatch)


MARK = Mark("a" * 12, "b" * 12)


def job(number: str, mark: Mark = MARK, state: str = "RUNNING") -> QueuedJob:
    return QueuedJob(number, "run", state, mark)


@pytest.mark.parametrize("others", [[], [job("2")], [job("2", Mark("c" * 12, "b" * 12))]])
def test_a_job_that_does_the_same_is_adopted_once_and_another_like_it_cancelled(
    slurm: Queue, others: list[QueuedJob]
) -> None:
    earlier = slurm.earlier(job("1"), *others)
    assert earlier.claim(MARK) == job("1")
    assert earlier.claim(MARK) is None  # a retry is a new job
    assert slurm.cancelled == [each.id for each in others if each.mark == MARK]


@pytest.mark.parametrize("there", [job("1", Mark(MARK.outputs, "d" * 12)), job("1", state="COMPLETING")])
def test_a_job_that_writes_the_same_files_and_does_not_do_the_same_is_gone_before_another_is_submitted(
    slurm: Queue, there: QueuedJob
) -> None:
    slurm.looks = 3
    assert slurm.earlier(there).claim(MARK) is None
    assert slurm.cancelled == ["1"]
    assert slurm.there(Path()) == []
    assert slurm.slept == 3


def test_a_job_that_does_not_leave_keeps_another_from_being_submitted(slurm: Queue) -> None:
    slurm.stuck = True
    with pytest.raises(TimeoutError, match="still in the queue: 1"):
        slurm.earlier(job("1", Mark(MARK.outputs, "d" * 12))).claim(MARK)
    assert slurm.slept == LEAVING_SECONDS


def test_files_are_held_by_the_job_in_the_queue_that_writes_them_until_it_is_claimed(slurm: Queue) -> None:
    mark = marked(["a", "b"], "work")
    earlier = slurm.earlier(job("1", mark))
    assert earlier.hold(["b", "a"])
    assert not earlier.hold(["a"])
    earlier.claim(mark)
    assert not earlier.hold(["a", "b"])


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_the_jobs_of_a_folder_are_those_with_a_mark_and_a_task_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Mark("c" * 12, "d" * 12)
    lines = [
        f"5|run-1|PENDING|/here|rule_train_wildcards_a|b {MARK}",
        f"6|run-1|RUNNING|/elsewhere|rule_train {MARK}",
        "7|shell|RUNNING|/here|(null)",
        f"8_2|run-2|RUNNING|/here|rule_train {MARK}{second}",
        f"8_3|run-2|RUNNING|/here|rule_train {MARK}{second}",  # an array of somebody else's making
    ]
    program(tmp_path, monkeypatch, "squeue", "cat <<'END'\n" + "\n".join(lines) + "\nEND")
    jobs = [QueuedJob("5", "run-1", "PENDING", MARK), QueuedJob("8_2", "run-2", "RUNNING", second)]
    assert in_queue(Path("/here")) == jobs


def test_states_are_those_of_the_program_that_is_asked_and_none_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path,
        monkeypatch,
        "sacct",
        "echo '1|CANCELLED by 0|None|None assigned'; echo '2_3|RUNNING|a|b|n1'; echo warning",
    )
    program(tmp_path, monkeypatch, "squeue", "echo no >&2; exit 1")
    assert states("sacct", ["run"]) == {"1": Seen("CANCELLED"), "2_3": Seen("RUNNING", "a|b", "n1")}
    assert states("squeue", ["run"]) is None


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
        require_programs(programs_for(account))
    for name in missing.split(", "):
        (tmp_path / name).touch(mode=0o755)
    require_programs(programs_for(account))


def test_a_queue_that_does_not_answer_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    with pytest.raises(BadInput, match="squeue = 'slurm_load_jobs error: Unable to contact'"):
        in_queue(tmp_path)
