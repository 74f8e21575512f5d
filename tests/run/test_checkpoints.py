"""Checkpoints of a run: whatever cuts it off, its rows end as those of a run that was left alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.run.checkpoints import MOST_FAILURES, STAGES, STEPS, TRACKER, Checkpoints, identity
from groupppo.verl.compose import compose
from tests.verl.conftest import MakeCell

RUN = "the run"


class Trainer:
    """What verl and the trainer write, in their order; a run of `steps` with a checkpoint every `every`.

    Its state is the sum of its steps so far, so that a row tells whether what came before it was lost or made twice.
    """

    def __init__(self, folder: Path, steps: int, every: int):
        self.folder, self.steps, self.every = folder, steps, every

    def events(self):
        tracker = self.folder / TRACKER
        first = int(tracker.read_text()) if tracker.is_file() else 0
        state = json.loads((self.folder / f"global_step_{first}" / "state").read_text()) if first else 0
        for elapsed, step in enumerate(range(first + 1, self.steps + 1), start=1):
            yield
            state += step
            if step % self.every == 0 or step == self.steps:
                place = self.folder / f"global_step_{step}"
                place.mkdir()
                yield
                (place / "state").write_text(json.dumps(state))
                yield
                tracker.write_text(str(step))
                yield
            self.write(STAGES, {"step": step, "stage": "step"})
            yield
            self.write(STEPS, {"step": step, "state": state, "elapsed_seconds": float(elapsed)})

    def write(self, name: str, row: dict) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")


def rows(folder: Path, name: str = STEPS) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def attempt(folder: Path, steps: int, every: int, cut: int | None, looks: bool = True) -> Checkpoints:
    """Train until an event, or to the end; the launcher looks after each event, or never."""
    checkpoints = Checkpoints(folder, RUN, last=steps)
    for number, _ in enumerate(Trainer(folder, steps, every).events()):
        if looks:
            checkpoints.look()
        if number == cut:
            return checkpoints
    checkpoints.finish()
    return checkpoints


@settings(max_examples=40)  # it writes to the disk
@given(
    steps=st.integers(1, 9),
    every=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    half=st.booleans(),
    deleted=st.booleans(),
)
def test_a_run_cut_off_anywhere_ends_with_the_rows_of_one_that_was_not(
    steps: int, every: int, cuts: list[int], half: bool, deleted: bool
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for cut in cuts:
            attempt(folder, steps, every, cut)
            if half:
                with (folder / STEPS).open("a") as file:
                    file.write('{"step": 99, "sta')
            if deleted:  # as a workflow does with the outputs of a failed job
                for file in (STEPS, STAGES):
                    (folder / file).unlink(missing_ok=True)
        attempt(folder, steps, every, None)
        assert rows(folder) == [
            {"step": step, "state": step * (step + 1) // 2, "elapsed_seconds": float(step)}
            for step in range(1, steps + 1)
        ]
        assert [row["step"] for row in rows(folder, STAGES)] == list(range(1, steps + 1))


@settings(max_examples=12)
@given(cut=st.integers(1, 12))
def test_a_checkpoint_that_nobody_sealed_is_not_resumed_from(cut: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        attempt(folder, 9, 2, cut, looks=False)
        began = Checkpoints(folder, RUN, last=9)
        assert began.resumed is None
        assert not list(folder.glob("global_step_*"))
        assert not (folder / TRACKER).exists()


def test_a_checkpoint_is_sealed_when_its_steps_row_is_written_and_then_the_one_before_goes(tmp_path: Path) -> None:
    checkpoints, seen = Checkpoints(tmp_path, RUN, last=9), []
    for _ in Trainer(tmp_path, 6, 2).events():
        checkpoints.look()
        sealed = checkpoints.sealed.step if checkpoints.sealed else None
        written = len(rows(tmp_path)) if (tmp_path / STEPS).is_file() else 0
        assert sealed is None or sealed <= written
        seen.append((sealed, sorted(int(place.name[12:]) for place in tmp_path.glob("global_step_*"))))
    assert (None, [2]) in seen  # saved, and its row not written
    assert (2, [2, 4]) in seen
    assert (4, [4]) in seen
    assert all(len(places) <= 2 for _, places in seen)


def test_another_runs_checkpoint_is_not_taken(tmp_path: Path) -> None:
    attempt(tmp_path, 6, 2, 20)
    assert (tmp_path / "global_step_4").is_dir()
    shutil.copytree(tmp_path, tmp_path.with_name("same"))
    assert Checkpoints(tmp_path.with_name("same"), RUN, last=9).resumed is not None
    assert Checkpoints(tmp_path, "another", last=9).resumed is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("makes_a_step", [True, False])
def test_a_checkpoint_from_which_attempts_make_no_step_is_given_up_and_no_other(
    tmp_path: Path, makes_a_step: bool
) -> None:
    attempt(tmp_path, 9, 4, 20)
    for _ in range(MOST_FAILURES):
        began = Checkpoints(tmp_path, RUN, last=9)
        assert began.resumed is not None
        assert began.resumed_after == [4]
        if makes_a_step:
            Trainer(tmp_path, 9, 4).write(STEPS, {"step": 5, "elapsed_seconds": 1.0})
        began.failed()
    after = Checkpoints(tmp_path, RUN, last=9)
    assert (after.resumed is not None) == makes_a_step
    assert ["given up" in note for note in after.notes] == ([] if makes_a_step else [True])


def cut(file: Path, left: int) -> None:
    file.write_bytes(file.read_bytes()[:left])


DAMAGE = {
    "an empty seal": (lambda place: (place / "seal" / "seal.json").write_text(""), "cannot be read"),
    "half a seal": (lambda place: cut(place / "seal" / "seal.json", 40), "cannot be read"),
    "a seal of bytes": (lambda place: (place / "seal" / "seal.json").write_bytes(b"\xff\x00"), "cannot be read"),
    "another step's seal": (
        lambda place: (place / "seal" / "seal.json").write_text(
            (place / "seal" / "seal.json").read_text().replace('"step": 4', '"step": 9')
        ),
        "of step 9",
    ),
    "half of the weights": (lambda place: cut(place / "state", 1), "state has 1 bytes, and had 2"),
    "no weights": (lambda place: (place / "state").unlink(), "No such file"),
    "another row": (
        lambda place: (place / "seal" / STEPS).write_text((place / "seal" / STEPS).read_text().replace("10", "11")),
        "rows are not those",
    ),
    "no rows": (lambda place: (place / "seal" / STAGES).unlink(), "No such file"),
    "nothing": (lambda place: None, ""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("before", [True, False])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_resumed_from_or_none(
    tmp_path: Path, damage: str, before: bool
) -> None:
    change, said = DAMAGE[damage]
    attempt(tmp_path, 6, 2, 7)
    shutil.copytree(tmp_path / "global_step_2", tmp_path / "older")
    attempt(tmp_path, 6, 2, 7)
    assert [place.name for place in tmp_path.glob("global_step_*")] == ["global_step_4"]
    if before:  # as one that was killed before the older one went
        (tmp_path / "older").rename(tmp_path / "global_step_2")
    change(tmp_path / "global_step_4")
    began = Checkpoints(tmp_path, RUN, last=6)
    goes_on_after = 4 if not said else 2 if before else None
    assert (began.resumed and began.resumed.step) == goes_on_after
    assert [int(place.name[12:]) for place in tmp_path.glob("global_step_*")] == [goes_on_after] * (
        began.resumed is not None
    )
    assert (tmp_path / "damaged_global_step_4").exists() == bool(said)
    assert len(began.notes) == bool(said)
    assert all(said in note and "damaged_global_step_4" in note for note in began.notes)
    ended = attempt(tmp_path, 6, 2, None)
    assert ended.notes == []  # told once
    assert [row["state"] for row in rows(tmp_path)] == [1, 3, 6, 10, 15, 21]
    ended.remove()
    assert not list(tmp_path.glob("*global_step_*"))


def test_the_last_steps_checkpoint_is_the_runs_result_and_it_goes_on_from_the_one_before(
    tmp_path: Path,
) -> None:
    checkpoints = attempt(tmp_path, 6, 2, None)
    checkpoints.look()
    assert sorted(place.name for place in tmp_path.glob("global_step_*")) == ["global_step_4", "global_step_6"]
    again = Checkpoints(tmp_path, RUN, last=6)
    assert again.resumed is not None
    assert again.resumed.step == 4
    again.remove()
    assert not list(tmp_path.glob("global_step_*"))


def test_a_run_without_checkpoints_seals_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, None, last=9)
    for _ in Trainer(tmp_path, 4, 2).events():
        checkpoints.look()
    assert checkpoints.sealed is None
    checkpoints.remove()
    assert not list(tmp_path.glob("global_step_*"))


@pytest.mark.parametrize(
    ("train", "every", "mode", "contents"),
    [
        ({"steps": 50, "checkpoint_every": 10}, 10, "auto", ["model", "optimizer", "extra", "hf_model"]),
        ({"steps": 10, "checkpoint_every": 10}, 10, "disable", ["hf_model"]),
        ({"steps": 50, "checkpoint_every": 0}, 50, "disable", ["hf_model"]),
    ],
)
def test_only_a_run_that_saves_before_its_end_saves_what_it_could_resume_from(
    make_cell: MakeCell, train: dict, every: int, mode: str, contents: list[str]
) -> None:
    config = compose(make_cell("ppo", save_critic=True, **train))
    assert (config.trainer.save_freq, config.trainer.resume_mode) == (every, mode)
    assert config.actor_rollout_ref.actor.checkpoint.save_contents == contents
    assert config.critic.checkpoint.save_contents == contents
    assert config.actor_rollout_ref.actor.checkpoint.load_contents == contents
    without = compose(make_cell("ppo", save_critic=False, **train))
    assert without.critic.checkpoint.save_contents == contents[:-1]


def test_a_run_is_another_when_its_config_or_its_inputs_are(make_cell: MakeCell, tmp_path: Path) -> None:
    cell = make_cell("ppo")
    own = identity(cell, compose(cell))
    assert identity(cell, compose(cell)) == own
    changed = replace(cell, train=replace(cell.train, actor_lr=2e-4))
    assert identity(changed, compose(changed)) != own
    for name in ("task_folder", "start"):
        copied = tmp_path / name
        shutil.copytree(getattr(cell, name), copied)
        moved = replace(cell, **{name: copied})
        assert identity(moved, compose(cell)) == own
        (copied / "warmstart.jsonl").write_text(
            '{"seconds": 1.5}'
        )  # of the start that was made again, equal to the bit
        assert identity(moved, compose(cell)) == own
        file = next(copied.glob("train.parquet" if name == "task_folder" else "*.safetensors"))
        file.write_bytes(file.read_bytes() + b" ")
        assert identity(moved, compose(cell)) != own
