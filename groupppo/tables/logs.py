"""steps.jsonl and stages.jsonl as arrays.

Each file is read twice as fast as it can be trusted: orjson first, and where anything about its answer is unusual the
strict reader again, which either accepts the file or names the line. Both give the same arrays; a test holds them
together. orjson refuses NaN and infinity by itself, and lets a key written twice pass, which counting keys finds out.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from groupppo.errors import BadInput
from groupppo.tables.records import read_bytes, records_of, refuse_repeats
from groupppo.tables.schema import GROUP_METRICS, RULE_METRICS

_GONE = "run this cell again: a finished run writes this file."
_REALS, _COUNTS = ("seconds", "cpu_seconds"), ("peak_bytes", "rise_bytes", "tokens", "endpoints")
_STAGE_VALUES = itemgetter("step", "stage", *_REALS, *_COUNTS)
_DENSITY_SLACK = 1e-4


@dataclass(frozen=True)
class StepLog:
    """steps.jsonl, one row per line.

    Args:
        file: where it was read, for messages; line k is row k - 1.
        names: metrics, in the order in which lines first have them; without `step`.
        steps: int64, shape (lines,).
        values: float64, shape (lines, metrics); NaN where the line has null or lacks the metric.
        logged: bool, same shape: whether the line has the metric.
    """

    file: Path
    names: tuple[str, ...]
    steps: np.ndarray
    values: np.ndarray
    logged: np.ndarray

    def column(self, metric: str) -> np.ndarray | None:
        """Values of a metric, shape (lines,); None where no line has it."""
        return self.values[:, self.names.index(metric)] if metric in self.names else None


@dataclass(frozen=True)
class StageLog:
    """stages.jsonl, one row per line; every array of shape (lines,). `codes` are places in `stages`."""

    file: Path
    stages: tuple[str, ...]
    codes: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray
    cpu_seconds: np.ndarray
    peak_bytes: np.ndarray
    rise_bytes: np.ndarray
    tokens: np.ndarray
    endpoints: np.ndarray

    def is_stage(self, stage: str) -> np.ndarray:
        """Whether each row is of this stage, shape (lines,)."""
        return self.codes == (self.stages.index(stage) if stage in self.stages else -1)


@dataclass(frozen=True)
class GroupLog:
    """What steps.jsonl says about groups; every array of shape (lines,), by the columns of `groups` after `step`."""

    steps: np.ndarray
    columns: dict[str, np.ndarray]


def read_steps(file: Path) -> StepLog:
    """Read steps.jsonl.

    Raises:
        BadInput: it is missing, or a line is not a JSON object of numbers and nulls with a step from 1 of its own.
    """
    raw = read_bytes(file, _GONE)
    fast = _fast_steps(raw, file)
    return strict_steps(raw, file) if fast is None else fast


def strict_steps(raw: bytes, file: Path) -> StepLog:
    """As `read_steps`, line by line."""
    records = list(records_of(raw, file))
    refuse_repeats(records, ("step",))
    names = tuple(dict.fromkeys(name for record in records for name in record.values if name != "step"))
    steps = np.array([record.whole("step", least=1) for record in records], dtype=np.int64)
    rows = [[record.real(name, missing=True) for name in names] for record in records]
    logged = [[name in record.values for name in names] for record in records]
    shape = (len(records), len(names))
    return StepLog(
        file,
        names,
        steps,
        np.array(rows, dtype=np.float64).reshape(shape),
        np.array(logged, dtype=bool).reshape(shape),
    )


def read_stages(file: Path) -> StageLog:
    """Read stages.jsonl.

    Raises:
        BadInput: it is missing, a line lacks a column or has a value of another kind, or two lines are of the same
            step and stage.
    """
    raw = read_bytes(file, _GONE)
    fast = _fast_stages(raw, file)
    return strict_stages(raw, file) if fast is None else fast


def strict_stages(raw: bytes, file: Path) -> StageLog:
    """As `read_stages`, line by line."""
    records = list(records_of(raw, file))
    refuse_repeats(records, ("step", "stage"))
    steps, names, reals, counts = [], [], [], []
    for record in records:
        reals.append([record.real(key, least=0.0) for key in _REALS])
        counts.append([record.whole(key) for key in _COUNTS])
        steps.append(record.whole("step", least=1))
        names.append(record.text("stage"))
    numbers = np.array(reals, dtype=np.float64).reshape(len(records), len(_REALS))
    sizes = np.array(counts, dtype=np.int64).reshape(len(records), len(_COUNTS))
    return _stage_log(file, names, np.array(steps, dtype=np.int64), [*numbers.T, *sizes.T])


def group_log(log: StepLog, fell_back: bool) -> GroupLog:
    """The group metrics of a grouped arm's steps. Only a run with fallbacks may lack those of single steps.

    Raises:
        BadInput: a line lacks a group metric, or its density is not endpoints / tokens.
    """
    columns = {name: _group_column(log, name, fell_back) for name in GROUP_METRICS}
    tokens, endpoints, density = (columns[name] for name in ("tokens", "endpoints", "density"))
    wrong = np.abs(density - endpoints / tokens) > _DENSITY_SLACK * np.maximum(density, endpoints / tokens)
    if wrong.any():
        row = int(wrong.argmax())
        mend = (
            f"the same line has {endpoints[row]:.0f} endpoints in {tokens[row]:.0f} tokens: "
            "the metrics contradict each other."
        )
        raise BadInput(log.file, f"line {row + 1} {GROUP_METRICS['density']}", float(density[row]), mend)
    return GroupLog(log.steps, columns)


def _group_column(log: StepLog, name: str, fell_back: bool) -> np.ndarray:
    metric, count = GROUP_METRICS[name], name in ("tokens", "endpoints")
    found = log.column(metric)
    values = np.full(len(log.steps), np.nan) if found is None else found
    # A step that fell back to dense PPO has no groups; its run is not evidence in any case.
    needed = count or name == "density" or not (fell_back or name in RULE_METRICS)
    if needed and np.isnan(values).any():
        mend = "produce this file again with this version."
        raise BadInput(log.file, f"line {int(np.isnan(values).argmax()) + 1} {metric}", None, mend)
    wrong = (values < 1) | (values != np.floor(values)) if count else np.zeros(len(values), dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(log.file, f"line {row + 1} {metric}", float(values[row]), "write a whole number, at least 1.")
    return values


def _fast_rows(raw: bytes) -> list[dict[str, Any]] | None:
    body = np.frombuffer(raw, dtype=np.uint8)[: len(raw.removesuffix(b"\n"))]
    ends = np.flatnonzero(body == ord("\n"))
    # As one list the lines are read in less time; every line's end must then be an object's end and another's start.
    inner = ends[(ends > 0) & (ends < len(body) - 1)]
    if len(inner) < len(ends) or (body[inner - 1] != ord("}")).any() or (body[inner + 1] != ord("{")).any():
        return None
    joined = np.empty(len(body) + 2, dtype=np.uint8)
    joined[0], joined[1:-1], joined[-1] = ord("["), body, ord("]")
    joined[ends + 1] = ord(",")
    try:
        rows: list[dict[str, Any]] = orjson.loads(joined.data)
    except orjson.JSONDecodeError:
        return None
    # A key written twice is one more colon than keys. So is a colon in a text: then the strict reader decides.
    if len(rows) != len(ends) + 1 or set(map(type, rows)) != {dict}:
        return None
    return rows if np.count_nonzero(body == ord(":")) == sum(map(len, rows)) else None


def _fast_steps(raw: bytes, file: Path) -> StepLog | None:
    rows = _fast_rows(raw)
    if not rows or "step" not in rows[0]:
        return None
    names = list(rows[0])
    odd = {i for i, row in enumerate(rows) if list(row) != names}
    # Mostly one line differs: the last step saves a checkpoint.
    extra = dict.fromkeys(name for i in sorted(odd) for name in rows[i] if name not in rows[0])
    every, width = [*names, *extra], len(names)
    cells: list[Any] = []
    for i, row in enumerate(rows):
        if i in odd:
            cells += [row.get(name) for name in every]
        else:
            cells += row.values()
            cells += [None] * len(extra)
    shape = (len(rows), len(every))
    values = _as_reals(cells)
    if values is None:
        return None
    logged = np.ones(shape, dtype=bool)
    logged[:, width:] = False
    for i in odd:
        logged[i] = [name in rows[i] for name in every]
    values, at = values.reshape(shape), every.index("step")
    steps = values[:, at]
    if not ((steps >= 1) & (steps == np.floor(steps))).all() or len(np.unique(steps)) < len(steps):
        return None
    kept = [i for i in range(len(every)) if i != at]
    named = tuple(every[i] for i in kept)
    return StepLog(file, named, steps.astype(np.int64), np.delete(values, at, axis=1), np.delete(logged, at, axis=1))


def _as_reals(cells: list[Any]) -> np.ndarray | None:
    """float64 with NaN for None; None for anything that is no number (True among them, which would pass as 1)."""
    kinds = set(map(type, cells))
    if not kinds <= {int, float, type(None)}:
        return None
    if type(None) in kinds:
        cells = [np.nan if value is None else value for value in cells]
    try:
        # array is three times as fast as numpy in taking a list of floats.
        return np.frombuffer(array("d", cells), dtype=np.float64)
    except OverflowError:
        return None


def _fast_stages(raw: bytes, file: Path) -> StageLog | None:
    rows = _fast_rows(raw)
    if not rows:
        return None
    try:
        steps, names, *columns = zip(*map(_STAGE_VALUES, rows), strict=True)
    except KeyError:
        return None
    reals, counts = columns[: len(_REALS)], columns[len(_REALS) :]
    if not all(set(map(type, values)) == {int} for values in (steps, *counts)):
        return None
    if not all(set(map(type, values)) <= {int, float} for values in reals) or set(map(type, names)) != {str}:
        return None
    try:
        numbers = [np.array(values, dtype=np.float64) for values in reals]
        sizes = [np.array(values, dtype=np.int64) for values in (steps, *counts)]
    except OverflowError:
        return None
    if min(values.min() for values in (*numbers, *sizes)) < 0 or sizes[0].min() < 1 or not all(names):
        return None
    if len(set(zip(steps, names, strict=True))) < len(rows):
        return None
    return _stage_log(file, names, sizes[0], [*numbers, *sizes[1:]])


def _stage_log(file: Path, names: Sequence[str], steps: np.ndarray, columns: list[np.ndarray]) -> StageLog:
    stages = tuple(dict.fromkeys(names))
    place: Callable[[str], int] = {stage: i for i, stage in enumerate(stages)}.__getitem__
    return StageLog(file, stages, np.array(list(map(place, names)), dtype=np.int32), steps, *columns)


def line_of(log: StepLog | StageLog, step: int) -> int:
    """The first line of a step, from 1."""
    return int(np.argmax(log.steps == step)) + 1
