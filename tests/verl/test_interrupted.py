"""A run that is interrupted, by whatever, goes on from its last checkpoint and ends as if nothing had happened."""

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from groupppo.errors import RunFailed
from groupppo.verl import family, launch, watch
from groupppo.verl.compose import Cell
from groupppo.verl.launch import FAILED, train
from groupppo.verl.records import repeatable
from tests.verl import hang
from tests.verl.conftest import MakeCell

OUTPUTS = ("steps.jsonl", "stages.jsonl", "provenance.json", "status.json", "config.yaml")
STEPS = 5


def rows(cell: Cell, name: str = "steps.jsonl") -> list[dict]:
    return [json.loads(line) for line in (cell.out / name).read_text().splitlines()]


@contextmanager
def killed(cell: Cell, process: str, after: int) -> Iterator[None]:
    """Kill a process of the run, by the beginning of its command line, when the row of a step is written."""
    done = threading.Event()

    def watch_rows() -> None:
        while not done.wait(0.02):
            file = cell.out / "steps.jsonl"
            if file.is_file() and file.read_bytes().count(b"\n") >= after:
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):  # ended while it was looked at
                        if " ".join(child.cmdline()).startswith(process):
                            child.kill()
                            return

    thread = threading.Thread(target=watch_rows)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def running() -> list[psutil.Process]:
    """The processes that this one started and that have not ended."""
    return [process for process in psutil.Process().children(recursive=True) if process.status() != "zombie"]


class Attempts:
    """Trains one cell again and again, as a workflow does, which deletes what a failed job wrote."""

    def __init__(self, cell: Cell, folders: list[Path]):
        self.cell, self.folders = cell, folders
        self.others = set(running())  # of other tests of this process: a Slurm of theirs, a judge

    def fail(self) -> dict:
        """An attempt that fails: what it says of itself; afterwards nothing of it is left."""
        with pytest.raises(RunFailed):
            train(self.cell)
        self.nothing_is_left()
        for name in OUTPUTS:
            (self.cell.out / name).unlink(missing_ok=True)
        return json.loads((self.cell.out / FAILED / "status.json").read_text())

    def nothing_is_left(self) -> None:
        (folder,) = self.folders
        self.folders.clear()
        assert not folder.exists()
        assert set(running()) <= self.others
        assert not (self.cell.out / "stacks.txt").exists()


@pytest.fixture
def scratch_folders(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found: list[Path] = []

    @contextmanager
    def noted() -> Iterator[Path]:
        with family.scratch() as folder:
            found.append(folder)
            yield folder
            assert not family.started_with(folder)

    monkeypatch.setattr(launch, "scratch", noted)
    return found


@pytest.mark.verl
def test_a_run_that_lost_its_server_and_then_hung_ends_as_one_that_was_left_alone(
    make_cell: MakeCell, scratch_folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_cell("group_ppo", steps=STEPS, checkpoint_every=2)
    train(alone)
    scratch_folders.clear()
    attempts = Attempts(make_cell("group_ppo", steps=STEPS, checkpoint_every=2), scratch_folders)
    cell = attempts.cell

    with killed(cell, "ray::TransformersServer", after=3):
        status = attempts.fail()
    assert status["resumed_after"] == []
    assert "ActorDiedError" in status["cause"]

    monkeypatch.setattr(watch, "LEAST_SECONDS", 8.0)
    with monkeypatch.context() as hanging:
        hanging.setenv("VERL_USE_EXTERNAL_MODULES", hang.MODULE)
        hanging.setenv(hang.VARIABLE, "4")  # verl has saved this step's checkpoint, and its row is not written
        status = attempts.fail()
    assert status["resumed_after"] == [2]
    assert "no step was finished for" in status["cause"]
    assert "in on_step_end" in status["cause"]
    log = (cell.out / FAILED / "log.txt").read_text()
    assert "hang.py" in log.split("stacks of the run's processes")[1]
    assert "resumed after step 2" in log

    train(cell)
    status = json.loads((cell.out / "status.json").read_text())
    assert (status["status"], status["steps"], status["resumed_after"]) == ("finished", STEPS, [2])
    left, right = rows(alone), rows(cell)
    assert [repeatable(row) for row in left] == [repeatable(row) for row in right]
    assert [row["step"] for row in right] == list(range(1, STEPS + 1))
    assert all(x["elapsed_seconds"] < y["elapsed_seconds"] for x, y in pairwise(right))
    assert [(row["step"], row["stage"]) for row in rows(alone, "stages.jsonl")] == [
        (row["step"], row["stage"]) for row in rows(cell, "stages.jsonl")
    ]
    trained = [load_file(one.out / "checkpoint" / "model.safetensors") for one in (alone, cell)]
    assert all(trained[0][name].equal(trained[1][name]) for name in trained[0])
    assert not list(cell.out.glob("global_step_*"))
    assert len({row["group/threshold"] for row in right}) == STEPS  # it moved, and went on from where it was
