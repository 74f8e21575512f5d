"""Tidy tables: one row is one fact, typed, checked on the way in and on the way back.

`collect(results, benchmark)` reads runs/ and evals/ below a results folder and writes tables/*.parquet;
`load_tables(results / "tables")` reads them back. Columns are declared once, in `SCHEMA`; docs/tables.md explains them.
Nothing under runs/ or evals/ is changed. What cannot be read raises `BadInput` with file, line, value and mend.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.config import Benchmark
from groupppo.errors import BadInput

STAGE_SUM_SLACK, STAGE_SUM_SLACK_SECONDS = 0.02, 0.005
DEVICES, ROLLOUTS = ("cpu", "cuda"), ("transformers", "vllm")
MATCHED_EVALUATION = ("n", "data_sha256", "yaml_sha256", "batch_size", "repeats", "eval_seed")
GROUP_METRICS = {
    "tokens": "group/total_tokens",
    "endpoints": "group/total_endpoints",
    "density": "group/density",
    "threshold": "group/threshold",
    "criterion": "group/closed_by/criterion",
    "cap": "group/closed_by/cap",
    "end": "group/closed_by/end",
    "size_mean": "group/size/mean",
    "size_p50": "group/size/p50",
    "r_ratio_p50": "group/r_ratio/p50",
}
# Rules without a threshold, or without a variance ratio, have no such metric.
_RULE_METRICS = ("threshold", "r_ratio_p50")
_ARROW = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class Column:
    """`dtype` is pandas' name of the type; "Int64" is the whole number that may be missing."""

    name: str
    dtype: str
    description: str
    missing: bool = False


_KEYS = (
    Column("task", "str", "Name of the task."),
    Column("model", "str", "Name of the model."),
    Column("arm", "str", "Name of the arm; `start` is the checkpoint that every run starts from."),
    Column("seed", "Int64", "Training seed, the unit of replication; missing for the arm `start`.", missing=True),
)
_STEP = Column("step", "int64", "Training step, from 1.")

SCHEMA: dict[str, tuple[Column, ...]] = {
    "runs": (
        *_KEYS,
        Column("status", "str", "`finished` or `failed`."),
        Column("cause", "str", "Why a failed run failed; else missing.", missing=True),
        Column("rollout", "str", "Rollout server, `transformers` or `vllm`."),
        Column("device", "str", "`cpu` or `cuda`; missing where a failed run did not say.", missing=True),
        Column("steps", "int64", "Training steps done."),
        Column("planned_steps", "int64", "Training steps the run set out to do."),
        Column("fallbacks", "int64", "Steps that fell back to dense PPO."),
        Column(
            "startup_seconds", "float64", "Wall-clock seconds before the first step; missing as `device`.", missing=True
        ),
        Column("wall_seconds", "float64", "Wall-clock seconds of the whole run; missing as `device`.", missing=True),
        Column("admissible", "bool", "Whether the run may serve as evidence."),
        Column("reason", "str", "Why it may not; missing when it may.", missing=True),
    ),
    "steps": (
        *_KEYS,
        _STEP,
        Column("metric", "str", "Name of the metric, as in steps.jsonl."),
        Column("value", "float64", "Its value at this step; missing where the run logged null.", missing=True),
    ),
    "stages": (
        *_KEYS,
        _STEP,
        Column("stage", "str", "Stage of the step; `step` is the whole step."),
        Column("seconds", "float64", "Wall-clock seconds."),
        Column("cpu_seconds", "float64", "CPU seconds of all processes of the run."),
        Column("peak_bytes", "int64", "Largest memory during the stage, in bytes."),
        Column("rise_bytes", "int64", "Peak minus the memory at entry to the stage, in bytes."),
        Column("tokens", "int64", "Valid response tokens of the step."),
        Column("endpoints", "int64", "Endpoints of the step; equals `tokens` for a dense arm."),
    ),
    "groups": (
        *_KEYS,
        _STEP,
        Column("tokens", "int64", "Valid response tokens of the step."),
        Column("endpoints", "int64", "Group endpoints of the step."),
        Column("density", "float64", "endpoints / tokens."),
        Column("threshold", "float64", "Threshold tau; missing for a rule that has none.", missing=True),
        Column(
            "criterion",
            "float64",
            "Share of groups closed by the rule's criterion; it and the rest are missing where a step fell back.",
            missing=True,
        ),
        Column("cap", "float64", "Share of groups closed by the largest group size.", missing=True),
        Column("end", "float64", "Share of groups closed by the end of the response.", missing=True),
        Column("size_mean", "float64", "Mean group size, in tokens.", missing=True),
        Column("size_p50", "float64", "Median group size, in tokens.", missing=True),
        Column(
            "r_ratio_p50",
            "float64",
            "Median over groups of r_grpo / r_ppo at the endpoint; missing for a rule without a ratio.",
            missing=True,
        ),
    ),
    "evals": (
        *_KEYS,
        Column("metric", "str", "`accuracy` (greedy) or `mean@k` (k sampled responses), on held-out prompts."),
        Column("value", "float64", "Its value, a share of 1."),
        Column("stderr", "float64", "Standard error over prompts; says nothing about training seeds."),
        Column("n", "int64", "Prompts."),
    ),
}


@dataclass(frozen=True)
class Tables:
    """The tidy tables of a results folder, columns as in `SCHEMA`."""

    runs: pd.DataFrame
    steps: pd.DataFrame
    stages: pd.DataFrame
    groups: pd.DataFrame
    evals: pd.DataFrame


def collect(results: Path, benchmark: Benchmark) -> None:
    """Write the tidy tables of `benchmark` from the runs/ and evals/ below `results` to `results`/tables.

    A failed run gives a row in `runs` and nothing else. A run that is not in the benchmark's matrix does too, so that
    a seed taken out after the fact stays visible. Neither is admissible, nor is a run with fallbacks, with other steps
    than planned, or with stages that sum to more than their step (by more than 2 % + 5 ms).

    Raises:
        BadInput: a planned run or evaluation is missing; a file is missing, truncated, contradicts another, repeats a
            row, or holds a value of the wrong kind (NaN and infinity included).
    """
    cells = list(product(benchmark.tasks, benchmark.models))
    planned = [_Keys(*cell, arm, seed) for cell in cells for arm in benchmark.arms for seed in benchmark.seeds]
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SCHEMA}
    for task, model in cells:
        rows["evals"] += _read_evaluation(results, _Keys(task, model, "start", None))
    for keys in [*planned, *sorted(_found(results / "runs") - set(planned))]:
        _read_run(results, keys, keys in planned, benchmark, rows)
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in SCHEMA.items():
        frame = pd.DataFrame(rows[name], columns=[column.name for column in columns])
        frame = frame.astype({column.name: column.dtype for column in columns})
        unfinished = folder / f"{name}.parquet.part"
        pq.write_table(pa.Table.from_pandas(frame, _arrow_schema(name), preserve_index=False), unfinished)
        os.replace(unfinished, folder / f"{name}.parquet")


def load_tables(folder: Path) -> Tables:
    """Read the tables that `collect` wrote to `folder`.

    Raises:
        BadInput: a table is missing, truncated, or has other columns than `SCHEMA`.
    """
    return Tables(**{field.name: _load(folder / f"{field.name}.parquet", field.name) for field in fields(Tables)})


def _load(file: Path, name: str) -> pd.DataFrame:
    mend = "delete the tables folder and collect the results again."
    if not file.is_file():
        raise BadInput(file, "file", None, mend)
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            file, "file", str(error).splitlines()[0], f"the file is truncated or not Parquet; {mend}"
        ) from error
    if not table.schema.equals(_arrow_schema(name)):
        raise BadInput(file, "columns", table.schema.names, f"not the columns and types of this version; {mend}")
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame.astype({column.name: column.dtype for column in SCHEMA[name]})


def _arrow_schema(name: str) -> pa.Schema:
    return pa.schema([pa.field(column.name, _ARROW[column.dtype], nullable=column.missing) for column in SCHEMA[name]])


class _Keys(NamedTuple):
    task: str
    model: str
    arm: str
    seed: int | None

    def below(self, home: Path) -> Path:
        place = home / self.task / self.model / self.arm
        return place if self.seed is None else place / f"seed{self.seed}"


def _found(runs: Path) -> set[_Keys]:
    found = set()
    for folder in (path for path in runs.glob("*/*/*/*") if path.is_dir()):
        seed = re.fullmatch(r"seed(\d+)", folder.name)
        if seed is None:
            raise BadInput(folder, "folder", folder.name, "name it seed<k>, or move it out of runs/.")
        task, model, arm = folder.relative_to(runs).parts[:3]
        found.add(_Keys(task, model, arm, int(seed.group(1))))
    return found


def _read_run(results: Path, keys: _Keys, planned: bool, benchmark: Benchmark, rows: dict[str, list[Any]]) -> None:
    folder = keys.below(results / "runs")
    status = _Record.of_file(folder / "status.json", "the run has not ended; run it again, or remove its folder.")
    status.check_keys(keys)
    failed = status.text("status", ("finished", "failed")) == "failed"
    done, wanted, fallbacks = (status.whole(key) for key in ("steps", "planned_steps", "fallbacks"))
    provenance = folder / "provenance.json"
    known = provenance.is_file() or not failed
    device = _Record.of_file(provenance, "run this cell again.").text("device", DEVICES) if known else None
    reasons = [] if planned else ["not in the benchmark's matrix"]
    if wanted != benchmark.train.steps:
        reasons.append(f"planned {wanted} steps where the benchmark plans {benchmark.train.steps}")
    if failed:
        reasons.append(f"failed: {status.text('cause')}")
    elif done < wanted:
        reasons.append(f"did {done} of {wanted} steps")
    if not failed and planned:
        grouped = benchmark.arms[keys.arm].verl.get("algorithm.adv_estimator") == "group_ppo"
        steps, stages = (list(_read_lines(folder / name)) for name in ("steps.jsonl", "stages.jsonl"))
        logged = max([0, *(step.whole("group/fallbacks") for step in steps if "group/fallbacks" in step.values)])
        fallbacks = max(fallbacks, logged)
        rows["steps"] += [(*keys, *row) for row in _step_rows(steps)]
        rows["stages"] += [(*keys, *row) for row in _stage_rows(stages)]
        rows["groups"] += [(*keys, *row) for row in _group_rows(steps, fallbacks > 0)] if grouped else []
        rows["evals"] += _read_evaluation(results, keys)
        reasons += _wrong_steps("steps.jsonl", {step.whole("step") for step in steps}, wanted)
        reasons += _wrong_stages(stages, wanted)
    if fallbacks:
        reasons.insert(0, f"{fallbacks} fallbacks to dense PPO")
    seconds = [status.real(key, missing=failed, least=0.0) for key in ("startup_seconds", "wall_seconds")]
    ended = (status.text("status"), status.text("cause") if failed else None, status.text("rollout", ROLLOUTS))
    counts = (device, done, wanted, fallbacks, *seconds)
    rows["runs"].append((*keys, *ended, *counts, not reasons, "; ".join(reasons) or None))


def _step_rows(steps: list["_Record"]) -> Iterator[tuple[Any, ...]]:
    _refuse_repeats(steps, ("step",))
    for record in steps:
        step = record.whole("step", least=1)
        for metric in record.values:
            if metric != "step":
                yield step, metric, record.real(metric, missing=True)


def _stage_rows(stages: list["_Record"]) -> Iterator[tuple[Any, ...]]:
    _refuse_repeats(stages, ("step", "stage"))
    for record in stages:
        seconds = [record.real(key, least=0.0) for key in ("seconds", "cpu_seconds")]
        counts = [record.whole(key) for key in ("peak_bytes", "rise_bytes", "tokens", "endpoints")]
        yield record.whole("step", least=1), record.text("stage"), *seconds, *counts


def _group_rows(steps: list["_Record"], fell_back: bool) -> Iterator[tuple[Any, ...]]:
    for record in steps:
        tokens, endpoints = (record.whole(GROUP_METRICS[key], least=1) for key in ("tokens", "endpoints"))
        density = record.real(GROUP_METRICS["density"])
        if density is None or not math.isclose(density, endpoints / tokens, rel_tol=1e-4):
            mend = f"the same line has {endpoints} endpoints in {tokens} tokens: the metrics contradict each other."
            raise BadInput(record.file, f"{record.place} group/density", density, mend)
        # A step that fell back to dense PPO has no groups; its run is not evidence in any case.
        rest = [
            record.real(metric, missing=fell_back or column in _RULE_METRICS)
            for column, metric in list(GROUP_METRICS.items())[3:]
        ]
        yield record.whole("step"), tokens, endpoints, density, *rest


def _read_evaluation(results: Path, keys: _Keys) -> list[tuple[Any, ...]]:
    pair = (keys.below(results / "evals"), _Keys(keys.task, keys.model, "start", None).below(results / "evals"))
    result, start = (_Record.of_file(place / "result.json", "evaluate this checkpoint.") for place in pair)
    result.check_keys(keys)
    for key in MATCHED_EVALUATION:
        if result.value(key) != start.value(key):
            raise result.bad(key, f"evaluate again: the start checkpoint was measured with {start.value(key)!r}.")
    metrics = result.part("metrics")
    records = {metric: metrics.part(metric) for metric in metrics.values}
    return [
        (*keys, metric, of.real("value"), of.real("stderr", least=0.0), of.whole("n", least=1))
        for metric, of in records.items()
    ]


def _wrong_steps(source: str, found: set[int], wanted: int) -> list[str]:
    planned = set(range(1, wanted + 1))
    if found == planned:
        return []
    odd = min(found ^ planned)
    return [f"{source} {'lacks' if odd in planned else 'has an unplanned'} step {odd} of {wanted}"]


def _wrong_stages(stages: list["_Record"], wanted: int) -> list[str]:
    whole: dict[int, float] = {}
    parts: dict[int, float] = {}
    for record in stages:
        total = whole if record.values["stage"] == "step" else parts
        step = record.whole("step")
        total[step] = total.get(step, 0.0) + record.values["seconds"]
    for step, seconds in sorted(whole.items()):
        if parts.get(step, 0.0) > seconds * (1 + STAGE_SUM_SLACK) + STAGE_SUM_SLACK_SECONDS:
            return [f"stages of step {step} sum to {parts[step]:.3f} s, the step took {seconds:.3f} s"]
    return _wrong_steps("stages.jsonl", set(whole), wanted)


@dataclass(frozen=True)
class _Record:
    """One JSON object of a file, with checked access to its values. `place` is "line 17" or a key, or empty."""

    file: Path
    place: str
    values: dict[str, Any]

    @classmethod
    def of_file(cls, file: Path, mend: str) -> "_Record":
        if not file.is_file():
            raise BadInput(file, "file", None, mend)
        return cls(file, "", _parse(file.read_bytes(), file, "file"))

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
        if value is None or not value.is_integer():
            raise self.bad(key, "write a whole number.")
        return int(value)

    def real(self, key: str, missing: bool = False, least: float = -math.inf) -> float | None:
        value = self.values.get(key) if missing else self.value(key)
        if value is None and missing:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise self.bad(key, f"write a number{'' if least == -math.inf else f', at least {least:g}'}.")
        return float(value)

    def part(self, key: str) -> "_Record":
        if not isinstance(self.value(key), dict):
            raise self.bad(key, "write an object.")
        return _Record(self.file, f"{self.place} {key}".strip(), self.values[key])

    def check_keys(self, keys: _Keys) -> None:
        for key, expected in keys._asdict().items():
            if self.value(key) != expected:
                raise self.bad(key, f"the folder says {expected!r}; a results folder must not be renamed or copied.")

    def bad(self, key: str, mend: str) -> BadInput:
        return BadInput(self.file, f"{self.place} {key}".strip(), self.values[key], mend)


def _refuse_repeats(records: list[_Record], keys: tuple[str, ...]) -> None:
    first: dict[tuple[Any, ...], str] = {}
    for record in records:
        row = tuple(record.value(key) for key in keys)
        if row in first:
            shown = ", ".join(f"{key} {value}" for key, value in zip(keys, row, strict=True))
            raise BadInput(record.file, record.place, shown, f"{first[row]} has the same row; run this cell again.")
        first[row] = record.place


def _read_lines(file: Path) -> Iterator[_Record]:
    if not file.is_file():
        raise BadInput(file, "file", None, "run this cell again: a finished run writes this file.")
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        yield _Record(file, f"line {number}", _parse(line, file, f"line {number}"))


def _parse(text: bytes, file: Path, place: str) -> dict[str, Any]:
    """One JSON object without NaN, infinity or a key written twice, all of which Python's reader would let pass."""

    def number(literal: str) -> float:
        if not math.isfinite(float(literal)):
            raise BadInput(file, place, literal, "not a finite number; find out why it was written, then run again.")
        return float(literal)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys if len(set(keys)) < len(keys) else []:
            if keys.count(key) > 1:
                raise BadInput(file, place, key, "this key is written twice; run again with this version.")
        return dict(pairs)

    try:
        value = json.loads(text.decode(), parse_constant=number, parse_float=number, object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        shown = text[:80].decode(errors="replace")
        mend = f"not a complete JSON object ({error}); the run broke off here: run it again."
        raise BadInput(file, place, shown, mend) from error
    if not isinstance(value, dict):
        raise BadInput(file, place, value, "write a JSON object.")
    return value
