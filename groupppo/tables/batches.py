"""Many runs' logs as few arrays, and those as Arrow tables.

A batch is of one task and model. Its rows of `steps` stand metric by metric and those of `stages` stage by stage, so
that whoever wants one metric need not decode the others. Arrays travel between processes; Arrow tables are made where
they are written, column after column from shared arrays.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from groupppo.tables.evaluations import Evaluation
from groupppo.tables.keys import Keys
from groupppo.tables.logs import GroupLog, StageLog, StepLog
from groupppo.tables.runs import Plan, Run, Start, read_run
from groupppo.tables.schema import GROUP_METRICS, SCHEMA, START, arrow_schema

STAGE_COLUMNS = ("seconds", "cpu_seconds", "peak_bytes", "rise_bytes", "tokens", "endpoints")
ROW_GROUP = 20_000
"""Rows from which a metric or a stage is written as a row group of its own."""


@dataclass(frozen=True)
class Job:
    """Runs of one task and model that are read together, and whether each is planned."""

    plan: Plan
    start: Start
    runs: tuple[tuple[Keys, bool], ...]


@dataclass(frozen=True)
class Rows:
    """Rows of several runs: which run each is of, and its step.

    Args:
        task, model: of all rows.
        arms, seeds: of each run; int64 seeds, shape (runs,).
        run, step: int32 and int64, shape (rows,); `run` is a place in `arms`.
    """

    task: str
    model: str
    arms: tuple[str, ...]
    seeds: np.ndarray
    run: np.ndarray
    step: np.ndarray


@dataclass(frozen=True)
class Batch:
    """What `read_batch` found. The names that rows are split by are metrics or stages.

    Args:
        runs, evals: finished rows of those tables.
        steps: rows; values by metric, and which rows logged it (None: all).
        stages: rows; codes into names; the columns STAGE_COLUMNS. groups: rows; the columns GROUP_METRICS.
    """

    runs: list[tuple[Any, ...]]
    evals: list[tuple[Any, ...]]
    steps: tuple[Rows, dict[str, tuple[np.ndarray, np.ndarray | None]]] | None = None
    stages: tuple[Rows, tuple[str, ...], np.ndarray, list[np.ndarray]] | None = None
    groups: tuple[Rows, list[np.ndarray]] | None = None


def read_batch(job: Job) -> Batch:
    """Read every run of a job."""
    with _no_collector():
        runs = [read_run(job.plan, keys, planned, job.start) for keys, planned in job.runs]
    return Batch(
        [astuple(run.row) for run in runs],
        [row for run in runs if run.evaluation for row in evaluation_rows(_keys(run), run.evaluation)],
        _steps([(run, run.steps) for run in runs if run.steps is not None]),
        _stages([(run, run.stages) for run in runs if run.stages is not None]),
        _groups([(run, run.groups) for run in runs if run.groups is not None]),
    )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of numbers in dictionaries make the garbage collector look for cycles that JSON cannot have."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def evaluation_rows(keys: Keys, evaluation: Evaluation) -> list[tuple[Any, ...]]:
    """Rows of the table `evals`."""
    return [(*keys, *row) for row in evaluation.rows]


def start_rows(task: str, model: str, start: Start) -> list[tuple[Any, ...]]:
    """Rows of the start's evaluation; none where it cannot be read."""
    return evaluation_rows(Keys(task, model, START, None), start.evaluation) if start.evaluation else []


def arrow_tables(batch: Batch) -> Iterator[tuple[str, pa.Table]]:
    """The row groups of a batch, each with the name of its table."""
    for name, rows in (("runs", batch.runs), ("evals", batch.evals)):
        if rows:
            yield name, rows_table(name, rows)
    if batch.steps:
        yield from (("steps", table) for table in _joined(_metric_tables(*batch.steps)))
    if batch.stages:
        yield from (("stages", table) for table in _joined(_stage_tables(*batch.stages)))
    if batch.groups:
        owner, columns = batch.groups
        arrays = [
            pa.array(values.astype(np.int64) if name in ("tokens", "endpoints") else values, from_pandas=True)
            for name, values in zip(GROUP_METRICS, columns, strict=True)
        ]
        yield "groups", pa.table([*_key_arrays(owner), *arrays], schema=arrow_schema("groups"))


def rows_table(name: str, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """A table from its rows."""
    schema = arrow_schema(name)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA[name])
    return pa.table([pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)], schema)


def _keys(run: Run) -> Keys:
    return Keys(run.row.task, run.row.model, run.row.arm, run.row.seed)


def _rows_of(owners: Sequence[Run], steps: list[np.ndarray]) -> Rows:
    row = owners[0].row
    counts = [len(values) for values in steps]
    return Rows(
        row.task,
        row.model,
        tuple(run.row.arm for run in owners),
        np.array([run.row.seed for run in owners], dtype=np.int64),
        np.repeat(np.arange(len(owners), dtype=np.int32), counts),
        np.concatenate(steps),
    )


def _steps(logs: list[tuple[Run, StepLog]]) -> tuple[Rows, dict[str, tuple[np.ndarray, np.ndarray | None]]] | None:
    if not logs:
        return None
    owner = _rows_of([run for run, _ in logs], [log.steps for _, log in logs])
    metrics: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    places = [{name: i for i, name in enumerate(log.names)} for _, log in logs]
    for name in dict.fromkeys(name for _, log in logs for name in log.names):
        found = [(log, place[name]) for (_, log), place in zip(logs, places, strict=True) if name in place]
        values = np.concatenate([log.values[:, at] for log, at in found])
        logged = [
            log.logged[:, place[name]] if name in place else np.zeros(len(log.steps), dtype=bool)
            for (_, log), place in zip(logs, places, strict=True)
        ]
        mask = np.concatenate(logged)
        kept = values[np.concatenate([log.logged[:, at] for log, at in found])]
        metrics[name] = (kept, None if mask.all() else mask)
    return owner, metrics


def _stages(logs: list[tuple[Run, StageLog]]) -> tuple[Rows, tuple[str, ...], np.ndarray, list[np.ndarray]] | None:
    if not logs:
        return None
    owner = _rows_of([run for run, _ in logs], [log.steps for _, log in logs])
    names = tuple(dict.fromkeys(name for _, log in logs for name in log.stages))
    codes = [np.array([names.index(name) for name in log.stages], dtype=np.int32)[log.codes] for _, log in logs]
    columns = [np.concatenate([getattr(log, column) for _, log in logs]) for column in STAGE_COLUMNS]
    return owner, names, np.concatenate(codes), columns


def _groups(logs: list[tuple[Run, GroupLog]]) -> tuple[Rows, list[np.ndarray]] | None:
    if not logs:
        return None
    owner = _rows_of([run for run, _ in logs], [log.steps for _, log in logs])
    return owner, [np.concatenate([log.columns[name] for _, log in logs]) for name in GROUP_METRICS]


def _key_arrays(owner: Rows, chosen: np.ndarray | None = None) -> list[pa.Array]:
    """task, model, arm, seed and step of all rows, or of the chosen ones (a mask or places)."""
    run, step = (owner.run, owner.step) if chosen is None else (owner.run[chosen], owner.step[chosen])
    arms = list(dict.fromkeys(owner.arms))
    arm = np.array([arms.index(name) for name in owner.arms], dtype=np.int32)[run]
    names = [_dictionary(np.zeros(len(run), dtype=np.int32), [name]) for name in (owner.task, owner.model)]
    return [*names, _dictionary(arm, arms), pa.array(owner.seeds[run]), pa.array(step)]


def _dictionary(codes: np.ndarray, names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(names), pa.string()))


def _metric_tables(owner: Rows, metrics: dict[str, tuple[np.ndarray, np.ndarray | None]]) -> Iterator[pa.Table]:
    schema, whole = arrow_schema("steps"), _key_arrays(owner)
    shared: tuple[bytes, list[pa.Array]] = (b"", [])
    for name, (values, mask) in metrics.items():
        keys = whole
        if mask is not None:
            # The metrics of a critic are logged by the same rows.
            if mask.tobytes() != shared[0]:
                shared = (mask.tobytes(), _key_arrays(owner, mask))
            keys = shared[1]
        named = _dictionary(np.zeros(len(values), dtype=np.int32), [name])
        yield pa.table([*keys, named, pa.array(values, from_pandas=True)], schema=schema)


def _stage_tables(
    owner: Rows, names: tuple[str, ...], codes: np.ndarray, columns: list[np.ndarray]
) -> Iterator[pa.Table]:
    schema = arrow_schema("stages")
    for code, name in enumerate(names):
        chosen = np.flatnonzero(codes == code)
        named = _dictionary(np.zeros(len(chosen), dtype=np.int32), [name])
        values = [pa.array(column[chosen]) for column in columns]
        yield pa.table([*_key_arrays(owner, chosen), named, *values], schema=schema)


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Neighbours together until they are worth a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
