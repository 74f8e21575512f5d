"""A run that is interrupted, by whatever, goes on from its last checkpoint and ends as if nothing had happened."""

import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from groupppo.config import REPOSITORY, load_arm
from groupppo.errors import RunFailed
from groupppo.run import watch
from groupppo.run.launch import train
from groupppo.verl.compose import Cell
from tests.run import hang
from tests.verl.conftest import MakeCell, repeatable, rows

OUTPUTS = ("steps.jsonl", "stages.jsonl", "provenance.json", "status.json", "config.yaml")
# Of each attempt that is killed two steps at most are sealed, as it hangs at the fourth if it is killed too late.
STEPS, EVERY, HANGS_AFTER = 10, 2, 4
SEED = "GROUPPPO_TEST_KILLS"
"""Variable that repeats the moments and victims of a test that failed; it prints its seed."""


def sealed(cell: Cell) -> int:
    return max(
        (json.loads(seal.read_text())["step"] for seal in cell.out.glob("global_step_*/seal/seal.json")), default=0
    )


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for the scratch folders of these runs alone, with room for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)


def users(place: Path) -> list[psutil.Process]:
    """Processes that were started with a folder or have a file open in it, by whatever name they go."""
    found = []
    for process in psutil.process_iter():
        proc = Path("/proc", str(process.pid))
        with contextlib.suppress(OSError):
            said = [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
            said += [os.readlink(file) for file in (proc / "fd").iterdir()]
            if any(f"{place}/" in text for text in said):
                found.append(process)
    return found


class Attempts:
    """Trains one cell again and again in processes of their own, as a workflow does, which deletes what a job wrote."""

    def __init__(self, cell: Cell, draw: random.Random, startup: float, step: float):
        self.cell, self.draw, self.startup, self.step = cell, draw, startup, step

    def begin(self) -> None:
        self.before = sealed(self.cell)
        self.launcher = multiprocessing.get_context("fork").Process(target=attempt, args=(self.cell,))
        self.launcher.start()

    def ends(self, seconds: float = 240.0) -> int | None:
        self.launcher.join(seconds)
        assert self.launcher.exitcode is not None
        for name in OUTPUTS:
            (self.cell.out / name).unlink(missing_ok=True)
        return self.launcher.exitcode

    def reach(self, more: int, seconds: float) -> None:
        """Wait until so many new steps are made, and some seconds longer."""
        file, until = self.cell.out / "steps.jsonl", time.monotonic() + 240
        while more and not (file.is_file() and file.read_bytes().count(b"\n") >= self.before + more):
            assert self.launcher.is_alive()
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(seconds)

    def kill(self, victim: str) -> None:
        """Kill at a random moment: of the start, or of one of the first steps."""
        self.more = self.draw.choice([1, 2, 3] if victim == "server" else [0, 1, 2, 3])
        seconds = self.draw.random() * (self.step if self.more else self.startup)
        print(f"from step {self.before}: {victim} is killed {seconds:.2f} s after {self.more} steps", flush=True)
        self.reach(self.more, seconds)
        launcher = psutil.Process(self.launcher.pid)
        if victim == "launcher":
            launcher.kill()
        elif victim == "tree":
            everyone = [launcher, *launcher.children(recursive=True)]
            self.draw.shuffle(everyone)
            killed(everyone)
        elif victim == "server":
            killed([each for each in launcher.children(recursive=True) if title(each).startswith("ray::Transformers")])
        else:  # one after another, as not everybody is missed
            while self.launcher.is_alive():
                with contextlib.suppress(psutil.NoSuchProcess, IndexError):  # it ends
                    killed([self.draw.choice(launcher.children(recursive=True))])
                self.launcher.join(0.5)


def attempt(cell: Cell) -> None:
    try:
        train(cell)
    except RunFailed:
        sys.exit(3)


def killed(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.verl
@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_again_and_again_and_then_hangs_ends_as_one_that_was_left_alone(
    make_cell: MakeCell, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With advantages spread over groups, and a score for which verl has to compute more."""
    seed = int(os.environ.get(SEED) or time.time_ns() % 10**6)
    print(f"{SEED}={seed}")
    arm = load_arm(REPOSITORY / "benchmarks" / "arms" / "group_ppo_broadcast.yaml")
    arm = replace(arm, verl=arm.verl | {"algorithm.group_params.score": "logit_norm"})
    alone, cell = (make_cell(arm, steps=STEPS, checkpoint_every=EVERY) for _ in range(2))
    train(alone)
    assert not list(temporary.iterdir())
    draw, undisturbed = random.Random(seed), rows(alone)
    startup = json.loads((alone.out / "status.json").read_text())["startup_seconds"]
    attempts = Attempts(cell, draw, startup, undisturbed[-1]["timing_s/step"])
    victims = draw.sample(["server", *draw.sample(["launcher", "tree", "some"], 2)], 3)
    with monkeypatch.context() as hanging:
        hanging.setenv("VERL_USE_EXTERNAL_MODULES", hang.MODULE)
        for victim in victims:
            hanging.setenv(hang.VARIABLE, str(sealed(cell) + HANGS_AFTER))
            attempts.begin()
            attempts.kill(victim)
            code = attempts.ends()
            if victim in ("launcher", "tree"):
                assert code == -9
                assert list(temporary.iterdir()) or not attempts.more  # nobody was left to remove it
            else:
                assert code == 3
                assert not list(temporary.iterdir())
                assert users(temporary) == []
            if victim == "server":
                status = json.loads((cell.out / "failed" / "status.json").read_text())
                assert "ActorDiedError" in status["cause"]
                assert status["resumed_after"][-1:] == ([attempts.before] if attempts.before else [])

        hanging.setattr(watch, "LEAST_SECONDS", 8.0)
        hanging.setenv(hang.VARIABLE, str(sealed(cell) + HANGS_AFTER))
        attempts.begin()
        assert attempts.ends() == 3
        assert users(temporary) == []
        status = json.loads((cell.out / "failed" / "status.json").read_text())
        assert "no step was finished for" in status["cause"]
        assert "in on_step_end" in status["cause"]
        log = (cell.out / "failed" / "log.txt").read_text()
        assert "hang.py" in log.split("stacks of the run's processes")[1]
        assert not (cell.out / "stacks.txt").exists()
        # The step at which it hung was saved, and its row is not written: it is made again.
        assert (sealed(cell), status["steps"]) == (attempts.before + 2, attempts.before + 3)

    last = sealed(cell)
    train(cell)
    assert not list(temporary.iterdir())
    assert users(temporary) == []
    status = json.loads((cell.out / "status.json").read_text())
    assert (status["status"], status["steps"], status["resumed_after"][-1]) == ("finished", STEPS, last)
    assert f"resumed after step {last}" in (cell.out / "log.txt").read_text()
    ended = rows(cell)
    assert [repeatable(row) for row in ended] == [repeatable(row) for row in undisturbed]
    assert [row["step"] for row in ended] == list(range(1, STEPS + 1))
    assert all(x["elapsed_seconds"] < y["elapsed_seconds"] for x, y in pairwise(ended))
    assert [(row["step"], row["stage"]) for row in rows(alone, "stages.jsonl")] == [
        (row["step"], row["stage"]) for row in rows(cell, "stages.jsonl")
    ]
    trained = [load_file(one.out / "checkpoint" / "model.safetensors") for one in (alone, cell)]
    assert trained[0].keys() == trained[1].keys()
    assert all(trained[0][name].equal(trained[1][name]) for name in trained[0])
    assert not list(cell.out.glob("*global_step_*"))
    assert len({row["group/threshold"] for row in ended}) == STEPS  # it moved, and went on from where it was
