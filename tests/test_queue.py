"""Jobs that will not come back are told as ended; jobs that will are left alone."""

import pytest

from groupppo.queue import ABSENT_SECONDS, PREEMPTED_SECONDS, LostJobs


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
