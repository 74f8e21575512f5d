"""What a run does after one fault, held against dense PPO's run from the same start with the same seed."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from groupppo.config import Arm
from groupppo.errors import RunFailed
from groupppo.records.folders import RunFolder
from groupppo.run.launch import train
from groupppo.studies.fault_points import BATCHES, POINTS, RAISED, STEP, setting, state_file
from groupppo.studies.fault_table import FAULT_COLUMNS
from groupppo.studies.names import NO_FAULT
from groupppo.verl.compose import Cell, compose

UPDATE, ON_ERROR = "algorithm.group_params.update", "algorithm.group_params.on_error"
EXACT = ("counted", "policy_equal", "critic_equal", "threshold_kept", "finite", "prompts_equal", "responses_equal")
"""What must hold next to a run's end for its fault to count as survived."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trace:
    """What one run left.

    Attributes:
        cause: why it ended; empty where it finished. raised: whether the fault was.
        rows: of steps.jsonl. batches: hashes of prompts and responses, step by step.
        policies, critics: parameters and optimizer state at the end of each step's update, on the CPU.
    """

    cause: str
    raised: bool
    rows: list[dict[str, Any]]
    batches: list[dict[str, Any]]
    policies: list[State]
    critics: list[State]


def points_of(arm: Arm) -> list[str]:
    """Where a fault can be raised in runs of an arm, the control first."""
    return [NO_FAULT, *(name for name, point in POINTS.items() if arm.verl[UPDATE] in point.updates)]


def trace(cell: Cell, point: str) -> Trace:
    """Train one cell with a fault and read what it left.

    Raises:
        BadInput: an input file or a config key is wrong.
    """
    compose(cell)  # imports verl here, before the environment asks it to load the faults
    folder = cell.out / "faults"
    folder.mkdir(parents=True)
    cause = ""
    with _environment(setting(point, folder)):
        try:
            train(cell)
        except RunFailed:
            cause = str(json.loads(RunFolder(cell.out).status.read_text(encoding="utf-8"))["cause"])
    updates = cell.train.mini_batches * cell.train.epochs
    return Trace(
        cause=cause,
        raised=(folder / RAISED).exists(),
        rows=_lines(RunFolder(cell.out).steps),
        batches=_lines(folder / BATCHES),
        policies=list(_states(folder, "policy", updates)),
        critics=list(_states(folder, "critic", updates)),
    )


def with_fallback(arm: Arm) -> Arm:
    """The arm with the fallback under test."""
    return replace(arm, verl=arm.verl | {ON_ERROR: "dense"})


def fault_row(arm: Arm, point: str, found: Trace, control: Trace, dense: Trace, steps: int) -> dict[str, Any]:
    """One row of the table `faults`.

    Args:
        found: the run with the fault. control: the same arm without one. dense: dense PPO.
        steps: planned.

    Raises:
        RunFailed: the fault was not raised, or control or dense PPO did not finish, so that nothing was tested.
    """
    for name, ended in (("dense PPO", dense.cause), (f"{arm.name} without a fault", control.cause)):
        if ended:
            raise RunFailed(f"faults study: the run of {name} failed: {ended}")
    if found.raised != (point != NO_FAULT):
        raise RunFailed(f"faults study: {arm.name}: the fault at {point} was {'' if found.raised else 'not '}raised")
    fallbacks = [int(row["group/fallbacks"]) for row in found.rows]
    row = {
        "arm": arm.name,
        "title": arm.title,
        "update": arm.verl[UPDATE],
        "point": point,
        "place": POINTS[point].title if point in POINTS else "No fault (control)",
        "finished": not found.cause and len(found.rows) == steps,
        "steps": len(found.rows),
        "fallbacks": sum(fallbacks),
        "counted": len(fallbacks) >= STEP and fallbacks[STEP - 1] == sum(fallbacks) == 1,
        **_compared("policy", found.policies, dense.policies),
        **_compared("critic", found.critics, dense.critics),
        "threshold_kept": _threshold(found.rows, STEP) == control.rows[STEP - 1]["group/threshold"],
        "finite": bool(found.policies) and all(map(_finite, [*found.policies, *found.critics])),
        "prompts_equal": len(found.batches) == steps and _column(found, "prompts") == _column(dense, "prompts"),
        "responses_equal": len(found.batches) > STEP
        and _column(found, "responses")[: STEP + 1] == _column(dense, "responses")[: STEP + 1],
        "cause": found.cause,
    }
    return row | {"survived": row["finished"] and all(row[name] for name in EXACT)}


def fault_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with their columns in order.

    Raises:
        RunFailed: a control counts as survived: the comparison cannot tell a grouped step from a dense one.
    """
    table = pd.DataFrame(rows)[list(FAULT_COLUMNS["faults"])]
    blind = table[(table["point"] == NO_FAULT) & (table["policy_equal"] | table["critic_equal"] | table["survived"])]
    if len(blind):
        raise RunFailed(f"faults study: {', '.join(blind['arm'])} without a fault trains like dense PPO")
    return table


def _compared(role: str, found: list[State], dense: list[State]) -> dict[str, Any]:
    if len(found) < STEP:
        return {f"{role}_equal": False, f"{role}_difference": math.nan}
    left, right = found[STEP - 1], dense[STEP - 1]
    same = left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    shared = left.keys() & right.keys()
    largest = max(float((left[name].double() - right[name].double()).abs().max()) for name in shared)
    return {f"{role}_equal": same, f"{role}_difference": largest}


def _threshold(rows: list[dict[str, Any]], number: int) -> float | None:
    return rows[number].get("group/threshold") if len(rows) > number else None


def _finite(state: State) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def _column(found: Trace, name: str) -> list[str]:
    return [str(row[name]) for row in found.batches]


def _states(folder: Path, role: str, updates: int) -> Iterator[State]:
    step = 1
    while (file := state_file(folder, role, step * updates)).is_file():
        yield torch.load(file, weights_only=True)
        step += 1


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
