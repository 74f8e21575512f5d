"""The judge of expressions: the same answer to the same question, whatever the machine and others do meanwhile."""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from groupppo.errors import RunFailed
from groupppo.tasks import judge
from groupppo.tasks.judge import DIFFERENT, EQUAL, LONGEST_ANSWER, TIMEOUT, UNPARSED, Judge

ENDLESS = "9^{9^{9^{9^{9}}}}"


@pytest.fixture(scope="module")
def hurried() -> Iterator[Judge]:
    """A judge that gives a question one second of CPU time."""
    hurried = Judge(seconds=1.0)
    assert hurried.ask("3", "6/2") == EQUAL
    yield hurried
    hurried.close()


def server(asked: Judge) -> int:
    assert asked._process is not None
    return asked._process.pid


def test_a_number_too_large_to_compute_is_a_timeout_and_the_next_answer_is_judged(hurried: Judge) -> None:
    before = server(hurried)
    assert hurried.ask("3", ENDLESS) == TIMEOUT
    assert hurried.ask("3", "4") == DIFFERENT
    assert hurried.ask("3", "1+" * LONGEST_ANSWER + "1") == UNPARSED
    assert server(hurried) == before
    environment = Path(f"/proc/{before}/environ").read_bytes().split(b"\0")
    assert b"PYTHONHASHSEED=0" in environment  # texts have the same hashes in every judge


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGKILL])
def test_time_spent_waiting_is_not_counted_and_a_judge_that_is_killed_is_asked_again(
    hurried: Judge, number: signal.Signals
) -> None:
    """The server is stopped for longer than the limit, as on a machine that has no time for it."""
    found: list[str] = []
    first = server(hurried)
    os.kill(first, signal.SIGSTOP)
    asking = threading.Thread(target=lambda: found.append(hurried.ask("0.5", r"\frac{2}{4}")))
    asking.start()
    time.sleep(1.5 if number == signal.SIGCONT else 0.2)
    assert not found
    os.kill(first, number)
    asking.join()
    assert found == [EQUAL]
    assert (server(hurried) == first) == (number == signal.SIGCONT)


def test_a_judge_that_never_answers_is_an_error_and_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/true")
    with pytest.raises(RunFailed, match="gave no answer"):
        Judge().ask("3", "6/2")


@pytest.mark.parametrize("patience", [0.3, 60.0])
def test_a_judge_that_lives_and_says_nothing_is_given_up_and_a_patient_one_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patience: float
) -> None:
    mute = tmp_path / "python"
    mute.write_text("#!/bin/sh\nsleep 2\nread question && echo equal\n")
    mute.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(mute))
    asked = Judge(patience=patience)
    if patience > 2:
        assert asked.ask("3", "6/2") == EQUAL
    else:
        with pytest.raises(RunFailed, match="took more than 0 s of wall time"):
            asked.ask("3", "6/2")
        assert asked._process is None
    asked.close()


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (signal.SIGPROF, TIMEOUT),
        (signal.SIGSEGV, UNPARSED),
        (signal.SIGABRT, UNPARSED),
        (signal.SIGKILL, "lost"),
        (signal.SIGTERM, "lost"),
    ],
)
def test_how_a_fork_ended_says_whose_fault_it_is(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, found: str
) -> None:
    def end(truth: str, answer: str) -> None:
        faulthandler.disable()  # pytest's, which would print where
        os.kill(os.getpid(), number)

    monkeypatch.setattr(judge, "_judge", end)
    assert judge._judge_in_fork(1.0, {"truth": "3", "answer": "4"}) == found


def test_the_limit_holds_where_python_never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_judge", lambda truth, answer: 7 ** (7**12))  # one operation, minutes inside C
    assert judge._judge_in_fork(0.3, {"truth": "3", "answer": "4"}) == TIMEOUT


def test_no_question_sees_what_an_earlier_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def remember(truth: str, answer: str) -> str:
        seen.append(answer)
        return EQUAL if seen == [answer] else DIFFERENT

    monkeypatch.setattr(judge, "_judge", remember)
    assert [judge._judge_in_fork(1.0, {"truth": "3", "answer": answer}) for answer in "abc"] == [EQUAL] * 3
    assert [remember("3", answer) for answer in "ab"] == [EQUAL, DIFFERENT]  # without a fork it would
