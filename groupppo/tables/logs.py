"""steps.jsonl and stages.jsonl as arrays.

Each file is read as fast as it can be trusted: by a decoder made for the keys of its first and last line, and where any
line is unusual by the strict reader, which either accepts the file or names the line. Both give the same arrays; a test
holds them together. The decoder refuses NaN and infinity by itself, and lets a key written twice pass, which counting
colons finds out.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from groupppo.errors import BadInput
from groupppo.tables.records import read_bytes, records_of, refuse_repeats
from groupppo.tables.schema import GROUP_METRICS, RULE_METRICS

_GONE = "run this cell again: a finished run writes this file."
_REALS, _COUNTS = ("seconds", "cpu_seconds"), ("peak_bytes", "rise_bytes", "tokens", "endpoints")
_STAGE_TYPES = {"step": int, "stage": str} | dict.fromkeys(_REALS, float) | dict.fromkeys(_COUNTS, int)
_DENSITY_SLACK = 1e-4


@dataclass(frozen=True)
class StepLog:
    """steps.jsonl, one row per line.

    Args:
        file: where it was read, for messages; line k is row k - 1.
        names: metrics of the first line, then of the last, then of others as they come; without `step`.
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
    ends = [records[i] for i in (0, -1) if records]
    names = tuple(dict.fromkeys(name for record in (*ends, *records) for name in record.values if name != "step"))
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
        hint = (
            f"the same line has {endpoints[row]:.0f} endpoints in {tokens[row]:.0f} tokens: "
            "the metrics contradict each other."
        )
        raise BadInput(log.file, f"line {row + 1} {GROUP_METRICS['density']}", float(density[row]), hint)
    return GroupLog(log.steps, columns)


def _group_column(log: StepLog, name: str, fell_back: bool) -> np.ndarray:
    metric, count = GROUP_METRICS[name], name in ("tokens", "endpoints")
    found = log.column(metric)
    values = np.full(len(log.steps), np.nan) if found is None else found
    # A step that fell back to dense PPO has no groups; its run is not evidence in any case.
    needed = count or name == "density" or not (fell_back or name in RULE_METRICS)
    if needed and np.isnan(values).any():
        hint = "produce this file again with this version."
        raise BadInput(log.file, f"line {int(np.isnan(values).argmax()) + 1} {metric}", None, hint)
    wrong = (values < 1) | (values != np.floor(values)) if count else np.zeros(len(values), dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(log.file, f"line {row + 1} {metric}", float(values[row]), "write a whole number, at least 1.")
    return values


def _fast_steps(raw: bytes, file: Path) -> StepLog | None:
    first, last = _keys_at_ends(raw)
    every, common = tuple(dict.fromkeys((*first, *last))), {*first} & {*last}
    both = [name for name in every if name in common]
    # Mostly the last line has one more: it saves a checkpoint.
    seldom = [name for name in every if name not in common]
    names = (*both, *seldom)
    rows = _decoded(raw, names, (float | None,) * len(names), len(both))
    if rows is None or "step" not in both:
        return None
    here = np.array([[value is not UNSET for value in row[len(both) :]] for row in rows], dtype=bool)
    if _colons(raw) != len(rows) * len(both) + np.count_nonzero(here):
        return None
    always = _reals(chain.from_iterable(row[: len(both)] for row in rows)).reshape(len(rows), len(both))
    rest = _reals(value for row in rows for value in row[len(both) :]).reshape(len(rows), len(seldom))
    steps = always[:, both.index("step")]
    if not ((steps >= 1) & (steps == np.floor(steps))).all() or len(np.unique(steps)) < len(steps):
        return None
    named, at = tuple(name for name in every if name != "step"), {name: i for i, name in enumerate(names)}
    place = [at[name] for name in named]
    logged = np.hstack([np.ones_like(always, dtype=bool), here.reshape(rest.shape)])[:, place]
    return StepLog(file, named, steps.astype(np.int64), np.hstack([always, rest])[:, place], logged)


def _reals(cells: Iterable[Any]) -> np.ndarray:
    """float64 with NaN for None and UNSET."""
    known = list(cells)
    try:
        # array is three times as fast as numpy in taking a list of floats.
        return np.frombuffer(array("d", known), dtype=np.float64)
    except TypeError:
        return np.array([np.nan if value is None or value is UNSET else value for value in known], dtype=np.float64)


def _fast_stages(raw: bytes, file: Path) -> StageLog | None:
    first, _ = _keys_at_ends(raw)
    if not set(_STAGE_TYPES) <= set(first):
        return None
    rows = _decoded(raw, first, tuple(_STAGE_TYPES.get(name, Raw) for name in first), len(first))
    if rows is None or _colons(raw) != len(rows) * len(first):
        return None
    columns = dict(zip(first, zip(*rows, strict=True), strict=True))
    names = columns["stage"]
    try:
        steps = np.array(columns["step"], dtype=np.int64)
        numbers = [np.frombuffer(array("d", columns[name])) for name in _REALS]
        sizes = [np.frombuffer(array("q", columns[name]), dtype=np.int64) for name in _COUNTS]
    except OverflowError:
        return None
    if min(values.min() for values in (*numbers, *sizes)) < 0 or steps.min() < 1 or not all(names):
        return None
    if len(set(zip(columns["step"], names, strict=True))) < len(rows):
        return None
    return _stage_log(file, names, steps, [*numbers, *sizes])


def _keys_at_ends(raw: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the first line and of the last; none where a line is no JSON object."""
    end, at = len(raw) - raw.endswith(b"\n"), raw.find(b"\n")
    ends = (raw[: at if at >= 0 else end], raw[raw.rfind(b"\n", 0, end) + 1 : end])
    try:
        first, last = (tuple(msgspec.json.decode(line, type=dict[str, Raw])) for line in ends)
    except (msgspec.MsgspecError, RecursionError):
        return (), ()
    return first, last


def _decoded(raw: bytes, names: tuple[str, ...], types: tuple[Any, ...], always: int) -> list[tuple[Any, ...]] | None:
    """Values of each line in the order of `names`, UNSET for keys that a line lacks; None where a line is anything but
    an object of these keys, with values of these types, in which only those after the first `always` may be missing."""
    try:
        rows = _decoder(names, types, always).decode_lines(raw)
    except (msgspec.MsgspecError, ValueError):  # the latter for a quote in a key
        return None
    # Every end of a line must be an object's end and another's start.
    body = np.frombuffer(raw, dtype=np.uint8)[: len(raw) - raw.endswith(b"\n")]
    ends = np.flatnonzero(body == ord("\n"))
    if raw.endswith(b"\n\n") or len(rows) != len(ends) + 1:
        return None
    if (body[ends - 1] != ord("}")).any() or (body[ends + 1] != ord("{")).any():
        return None
    return list(map(msgspec.structs.astuple, rows))


def _colons(raw: bytes) -> int:
    """A key written twice is one more than there are values; so is one in a key or a text."""
    return int(np.count_nonzero(np.frombuffer(raw, dtype=np.uint8) == ord(":")))


@cache
def _decoder(names: tuple[str, ...], types: tuple[Any, ...], always: int) -> msgspec.json.Decoder[Any]:
    """A class for these lines and its decoder, made once: the files of many runs have the same keys."""
    fields: list[Any] = []
    for i, (name, kind) in enumerate(zip(names, types, strict=True)):
        if i < always:
            fields.append((f"field{i}", kind, msgspec.field(name=name)))
        else:
            fields.append((f"field{i}", kind | UnsetType, msgspec.field(name=name, default=UNSET)))
    return msgspec.json.Decoder(msgspec.defstruct("Line", fields, forbid_unknown_fields=True, gc=False))


def _stage_log(file: Path, names: Sequence[str], steps: np.ndarray, columns: list[np.ndarray]) -> StageLog:
    stages = tuple(dict.fromkeys(names))
    place: Callable[[str], int] = {stage: i for i, stage in enumerate(stages)}.__getitem__
    return StageLog(file, stages, np.array(list(map(place, names)), dtype=np.int32), steps, *columns)


def line_of(log: StepLog | StageLog, step: int) -> int:
    """The first line of a step, from 1."""
    return int(np.argmax(log.steps == step)) + 1
