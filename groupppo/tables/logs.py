"""What a run wrote, read strictly: every value is checked, and an error names file, line, key, value and hint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from groupppo.errors import BadInput
from groupppo.records.plain_json import read_json, read_lines
from groupppo.tables.schema import GROUP_METRICS, RULE_METRICS

_AGAIN = "the run broke off here: run it again."
_REALS, _COUNTS = ("seconds", "cpu_seconds"), ("peak_bytes", "rise_bytes", "tokens", "endpoints")
_STAGE_TYPES = {"step": "int64", "stage": "str"} | dict.fromkeys(_REALS, "float64") | dict.fromkeys(_COUNTS, "int64")
_NUMBERS_OR_NULL = {int, float, type(None)}
_DENSITY_SLACK = 1e-4


@dataclass(frozen=True)
class Record:
    """One JSON object of a file, with checked access to its values. `place` is "line 17" or a key, or empty."""

    file: Path
    place: str
    values: dict[str, Any]

    @classmethod
    def of_file(cls, file: Path, hint: str) -> "Record":
        return cls.of(file, "", read_json(file, hint))

    @classmethod
    def of(cls, file: Path, place: str, value: Any) -> "Record":
        if not isinstance(value, dict):
            raise BadInput(file, place or "file", value, "write a JSON object.")
        return cls(file, place, value)

    def value(self, key: str) -> Any:
        if key not in self.values:
            raise BadInput(self.file, f"{self.place} {key}".strip(), None, "produce this file again with this version.")
        return self.values[key]

    def text(self, key: str, known: tuple[str, ...] = ()) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value or (known and value not in known):
            raise self.bad(key, f"write {' or '.join(known) if known else 'a text'}.")
        return value

    def whole(self, key: str, least: int = 0) -> int:
        value = self.real(key, least=least)
        # A whole number may have passed through a float on its way into a log.
        if not value.is_integer() or value >= 2**63:
            raise self.bad(key, "write a whole number.")
        return int(value)

    def real(self, key: str, least: float = -math.inf) -> float:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise self.bad(key, f"write a number{'' if least == -math.inf else f', at least {least:g}'}.")
        return float(value)

    def optional(self, key: str, least: float = -math.inf) -> float | None:
        """As `real`; None where the key is missing or null."""
        return None if self.values.get(key) is None else self.real(key, least)

    def part(self, key: str) -> "Record":
        return Record.of(self.file, f"{self.place} {key}".strip(), self.value(key))

    def check_keys(self, keys: Mapping[str, Any]) -> None:
        for key, expected in keys.items():
            if self.value(key) != expected:
                raise self.bad(key, f"the folder says {expected!r}; a results folder must not be renamed or copied.")

    def bad(self, key: str, hint: str) -> BadInput:
        return BadInput(self.file, f"{self.place} {key}".strip(), self.values[key], hint)


@dataclass(frozen=True)
class StepLog:
    """steps.jsonl, one row per line; `file` is where it was read, for messages.

    Args:
        names: metrics of the first line, then of the last, then of others as they come; without `step`.
        steps: int64, (lines,).
        values: float64, (lines, metrics); NaN where the line has null or lacks the metric.
        logged: bool, (lines, metrics): whether the line has the metric.
    """

    file: Path
    names: tuple[str, ...]
    steps: np.ndarray
    values: np.ndarray
    logged: np.ndarray

    def column(self, metric: str) -> np.ndarray | None:
        """Values of a metric, (lines,); None where no line has it."""
        return self.values[:, self.names.index(metric)] if metric in self.names else None


def read_steps(file: Path) -> StepLog:
    """Read steps.jsonl.

    Raises:
        BadInput: it is missing, or a line is not a JSON object of numbers and nulls with a step from 1 of its own.
    """
    records = _records(file)
    steps = _column(records, "step", whole=True, least=1).astype(np.int64)
    _refuse_repeats(records, [f"step {step}" for step in steps])
    ends = [records[i] for i in (0, -1) if records]
    names = tuple(dict.fromkeys(name for record in (*ends, *records) for name in record.values if name != "step"))
    shape = (len(records), len(names))
    if not {type(value) for record in records for value in record.values.values()} <= _NUMBERS_OR_NULL:
        for record in records:  # one of them raises
            for name in names:
                record.optional(name)
    # numpy takes None for NaN.
    values = np.array([list(map(record.values.get, names)) for record in records], dtype=np.float64)
    logged = np.array([list(map(record.values.__contains__, names)) for record in records], dtype=bool)
    return StepLog(file, names, steps, values.reshape(shape), logged.reshape(shape))


def read_stages(file: Path) -> pd.DataFrame:
    """Read stages.jsonl: one row per line, the columns of the table `stages` after its keys.

    Raises:
        BadInput: it is missing, a line lacks a column or has a value of another kind, or two lines are of the same
            step and stage.
    """
    records = _records(file)
    names = [record.text("stage") for record in records]
    columns = {
        "step": _column(records, "step", whole=True, least=1),
        "stage": names,
        **{key: _column(records, key) for key in _REALS},
        **{key: _column(records, key, whole=True) for key in _COUNTS},
    }
    stages = pd.DataFrame(columns).astype(_STAGE_TYPES)
    _refuse_repeats(records, [f"step {step}, stage {name}" for step, name in zip(stages["step"], names, strict=True)])
    return stages


def read_groups(log: StepLog, fell_back: bool) -> dict[str, np.ndarray]:
    """The group metrics of a grouped arm's steps, (lines,) each, by the columns of `groups` from `step` on.

    Args:
        log: of the run.
        fell_back: whether a step fell back to a dense one; only then, or where nothing was chosen, may it lack metrics.

    Raises:
        BadInput: a line lacks a group metric, or its density is not endpoints / tokens.
    """

    def refuse(wrong: np.ndarray, name: str, hint: str) -> None:
        if wrong.any():
            row, metric = int(wrong.argmax()), GROUP_METRICS[name]
            value = None if np.isnan(columns[name][row]) else float(columns[name][row])
            raise BadInput(log.file, f"line {row + 1} {metric}", value, hint)

    columns = {}
    for name, metric in GROUP_METRICS.items():
        logged, count = log.column(metric), name in ("tokens", "endpoints")
        columns[name] = values = np.full(len(log.steps), np.nan) if logged is None else logged
        # A step that fell back to a dense one has no groups; its run is not evidence in any case. One in which the rule
        # chose no token has none either, and is one.
        if count or name == "density" or not (fell_back or name in RULE_METRICS):
            none = False if count or name == "density" else columns["endpoints"] == 0
            refuse(np.isnan(values) & np.logical_not(none), name, "produce this file again with this version.")
        if count:
            least = int(name == "tokens")
            refuse((values < least) | (values != np.floor(values)), name, f"write a whole number, at least {least}.")
    density, expected = columns["density"], columns["endpoints"] / columns["tokens"]
    hint = "it is not endpoints / tokens of the same line: the metrics contradict each other."
    refuse(np.abs(density - expected) > _DENSITY_SLACK * np.maximum(density, expected), "density", hint)
    return {"step": log.steps, **columns} | {key: columns[key].astype(np.int64) for key in ("tokens", "endpoints")}


def _records(file: Path) -> list[Record]:
    return [Record.of(file, place, value) for place, value in read_lines(file, _AGAIN)]


def _column(records: list[Record], key: str, whole: bool = False, least: int = 0) -> np.ndarray:
    """`real` or `whole` of every record, float64, (lines,); most lines are sound, and are checked together."""
    values = [record.values.get(key) for record in records]
    if set(map(type, values)) <= {int, float}:
        column = np.array(values, dtype=np.float64)
        sound = not whole or ((column == np.floor(column)) & (column < 2.0**63)).all()
        if sound and (column >= least).all():
            return column
    checked = [record.whole(key, least) if whole else record.real(key, least) for record in records]
    return np.array(checked, dtype=np.float64)


def _refuse_repeats(records: list[Record], rows: list[str]) -> None:
    """Raise BadInput, naming both lines, where two records are of the same step, or step and stage."""
    first: dict[str, str] = {}
    for record, row in zip(records, rows, strict=True):
        earlier = first.setdefault(row, record.place)
        if earlier != record.place:
            raise BadInput(record.file, record.place, row, f"{earlier} has the same row; run this cell again.")
