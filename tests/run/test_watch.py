"""Waiting for a run: silence that is too long ends it, and its cause is what ended it."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import Benchmark
from groupppo.run import watch
from groupppo.run.family import SharedMemory
from groupppo.run.watch import LEAST_SECONDS, START_SECONDS, TIMES_THE_LONGEST, Silence, Verl, cause_of
from groupppo.verl.endings import STACKS


class Run:
    """A run's steps.jsonl and a clock."""

    def __init__(self, folder: Path, limit: float):
        self.file, self.now = folder / "steps.jsonl", 0.0
        self.silence = Silence(self.file, limit, lambda: self.now)

    def after(self, seconds: float, row: bool = False) -> float | None:
        self.now += seconds
        if row:
            with self.file.open("a") as file:
                file.write("{}\n")
        return self.silence.broken()


def test_the_start_may_take_longer_than_a_step(tmp_path: Path) -> None:
    run = Run(tmp_path, 0)
    assert run.after(START_SECONDS) is None
    assert run.after(1) == START_SECONDS


def test_a_step_may_take_many_times_what_the_longest_took_and_at_least_some_minutes(tmp_path: Path) -> None:
    run = Run(tmp_path, 0)
    assert run.after(1000, row=True) is None  # a slow start is no slow step
    assert run.after(LEAST_SECONDS) is None
    assert run.after(1) == LEAST_SECONDS
    assert run.after(0, row=True) is None
    longest = LEAST_SECONDS + 1
    assert run.after(TIMES_THE_LONGEST * longest) is None
    assert run.after(1) == TIMES_THE_LONGEST * longest


def test_a_limit_that_the_benchmark_names_holds_from_the_start(tmp_path: Path) -> None:
    run = Run(tmp_path, 50)
    assert run.after(50) is None
    assert run.after(1) == 50
    assert run.after(0, row=True) is None
    assert run.after(51) == 50


STACKED = """
File "/a/hang.py", line 2 in load_weights
File "/a/groupppo/verl/trainer.py", line 3 in on_step_end
File "/a/groupppo/verl/trainer.py", line 9 in fit
"""


@pytest.mark.parametrize(
    ("code", "settings", "ending"),
    [
        ("raise SystemExit(0)", {}, None),
        ("raise SystemExit(3)", {}, ""),
        (
            "import time; time.sleep(60)",
            {"time_limit_s": 0},
            "not finished within train.time_limit_s = 0 s",
        ),
        (
            "import time; time.sleep(60)",
            {"stall_limit_s": 1},
            "no step was finished for 1 s (train.stall_limit_s)",
        ),
    ],
)
def test_a_process_that_hangs_is_given_up_with_the_place_where_it_was_and_one_that_ends_by_itself_is_not(
    quick: Benchmark,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    settings: dict[str, float],
    ending: str | None,
) -> None:
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.05)
    (tmp_path / "stacks.txt").write_text(STACKED)
    looks, log = [], io.StringIO()
    train, variables = replace(quick.train, **settings), {STACKS: str(tmp_path / "stacks.txt")}
    verl = Verl(tmp_path, tmp_path, variables, train, log, lambda: looks.append(1))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        place = ", in on_step_end; log.txt has the stacks of its processes"
        assert verl.wait(process, SharedMemory(process, tmp_path)) == (ending + place if ending else ending)
        hangs = process.poll() is None  # whoever asked ends it, with all that belongs to it
        process.kill()
    assert hangs == bool(ending) == (STACKED in log.getvalue())
    assert looks or not hangs


def test_the_cause_of_a_process_that_was_killed_is_the_signal() -> None:
    assert cause_of("all is well\n", -9) == "ended by SIGKILL, and the log names no error; it ends: all is well"
    assert cause_of("", -15) == "ended by SIGTERM, and the log names no error"
    assert cause_of("ValueError: no\n", -9) == "ended by SIGKILL; ValueError: no"
    assert cause_of("ValueError: no\n", 1) == "exit code 1; ValueError: no"
    assert cause_of("\nRunFailed: a worker was lost\n", 1) == "exit code 1; RunFailed: a worker was lost"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ValueError: no such thing", True),
        ("groupppo.errors.BadInput: benchmarks/quick.yaml: seeds = missing", True),
        ("Exception: The current node timed out during startup.", True),
        ("\x1b[36m(ActorWorker pid=7)\x1b[0m KeyError: 'values'", True),
        ("Error rates are not errors: 0.1", False),
        ("an Exception: in the middle of a line", False),
    ],
)
def test_the_cause_of_a_failed_run_is_the_error_that_its_log_names(line: str, named: bool) -> None:
    log = f"step:1 - loss:0.1\n{line}\nnanobind: leaked!\n"
    none = ", and the log names no error; it ends: nanobind: leaked!"
    assert cause_of(log, 1) == "exit code 1" + ("; " + line.rsplit("\x1b[0m ", 1)[-1] if named else none)
