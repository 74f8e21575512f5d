"""What a step measured reaches verl's trackers, console, TensorBoard and W&B offline, under its name and value."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from groupppo.run.launch import TENSORBOARD, WANDB, environment, train
from groupppo.verl.compose import Cell
from tests.verl.conftest import MakeCell

OURS = ("group/", "rollout/")
Tracked = dict[int, dict[str, float]]
"""Metrics by step."""


@pytest.fixture(scope="module")
def run(make_cell: MakeCell, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, Path, Path]:
    """A run of two steps with all three trackers, and the working directory and the home that it had."""
    cell = make_cell("group_ppo", steps=2, verl={"trainer.logger": ["console", "tensorboard", "wandb"]})
    began_in, home = tmp_path_factory.mktemp("began_in"), tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(began_in)
        patch.setenv("HOME", str(home))
        patch.delenv("WANDB_MODE", raising=False)
        (cell.out / TENSORBOARD).mkdir()
        (cell.out / TENSORBOARD / "events.out.tfevents.1.of_an_earlier_attempt").touch()
        train(cell)
    return cell, began_in, home


def logged(cell: Cell) -> Tracked:
    rows = [json.loads(line) for line in (cell.out / "steps.jsonl").read_text().splitlines()]
    return {row["step"]: {name: value for name, value in row.items() if name.startswith(OURS)} for row in rows}


def on_console(cell: Cell) -> Tracked:
    found: Tracked = {}
    for line in (cell.out / "log.txt").read_text().splitlines():
        if step := re.search(r"\bstep:(\d+) - ", line):
            pairs = [pair.rsplit(":", 1) for pair in line[step.end() :].split(" - ")]
            found[int(step[1])] = {name: _number(text) for name, text in pairs}
    return found


def _number(text: str) -> float:
    return float(re.sub(r"^np\.\w+\((.*)\)$", r"\1", text))


def on_tensorboard(cell: Cell) -> Tracked:
    events = EventAccumulator(str(cell.out / TENSORBOARD)).Reload()
    found: Tracked = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def on_wandb(cell: Cell) -> Tracked:
    [file] = (cell.out / WANDB).glob("offline-run-*/run-*.wandb")
    found: Tracked = {}
    for record in _records(file.read_bytes()):
        message = wandb_internal_pb2.Record.FromString(record)
        if message.HasField("history"):
            items = {item.key or "/".join(item.nested_key): item.value_json for item in message.history.item}
            found[json.loads(items["_step"])] = {name: json.loads(value) for name, value in items.items()}
    return found


def _records(data: bytes, header: int = 7, block: int = 32768) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format: checksum (4 bytes), length (2), type (1) and a part of a record."""
    first, middle, last = 2, 3, 4
    at, parts = header, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too short for a record's head: the rest of a block is empty
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part, at = data[at + 7 : at + 7 + length], at + 7 + length
        parts = parts + part if kind in (middle, last) else part
        if kind not in (first, middle):
            yield parts


@pytest.mark.verl
@pytest.mark.parametrize(
    ("read", "digits"),
    [(on_console, 1e-12), (on_tensorboard, 1e-6), (on_wandb, 1e-12)],
    ids=["console", "tensorboard", "wandb"],
)
def test_a_tracker_has_every_metric_of_ours_with_its_value_at_every_step(
    run: tuple[Cell, Path, Path], read: object, digits: float
) -> None:
    cell, *_ = run
    expected, found = logged(cell), read(cell)
    assert sorted(expected) == [1, 2]
    assert set(found) == set(expected)
    for step, metrics in expected.items():
        assert {"group/density", "group/threshold", "group/r_ratio/p50", "group/fallbacks"} <= set(metrics)
        assert {"rollout/logp_gap/mean", "rollout/logp_gap/p99"} <= set(metrics)
        of_ours = {name: value for name, value in found[step].items() if name.startswith(OURS)}
        assert of_ours == pytest.approx(metrics, rel=digits, abs=1e-30)
    assert expected[1] != pytest.approx(expected[2], rel=digits)  # a tracker that mixed the steps up would be seen


@pytest.mark.verl
def test_trackers_write_into_the_runs_folder_and_neither_where_it_was_started_nor_into_the_users_home(
    run: tuple[Cell, Path, Path],
) -> None:
    cell, began_in, home = run
    assert list(began_in.iterdir()) == []
    assert not list(home.rglob("*wandb*"))
    assert (cell.out / TENSORBOARD).is_dir()
    assert (cell.out / WANDB).is_dir()
    assert not list((cell.out / TENSORBOARD).glob("*of_an_earlier_attempt"))


def test_runs_track_offline_unless_the_user_says_otherwise(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell("ppo")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("TENSORBOARD_DIR", "/elsewhere")
    assert environment(cell)["WANDB_MODE"] == "offline"
    assert environment(cell)["TENSORBOARD_DIR"] == str(cell.out / TENSORBOARD)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert environment(cell)["WANDB_MODE"] == "online"
    assert "TENSORBOARD_DIR" in os.environ
