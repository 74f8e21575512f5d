"""From run folders and evaluations to tables, one task and model after another.

What is wrong with a run stays with it: `read_run` raises nothing that a file can cause.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.records.folders import START, ResultsFolder, RunFolder
from groupppo.records.plain_json import value_at
from groupppo.tables.gates import KNOWN_TO_VERL, Facts, Logged, findings
from groupppo.tables.keys import Keys, found_keys, planned_keys
from groupppo.tables.logs import Record, StepLog, read_groups, read_stages, read_steps
from groupppo.tables.schema import (
    DEVICES,
    FAILED,
    FINISHED,
    MATCHED_EVALUATION,
    MISSING,
    ROLLOUTS,
    SCHEMA,
    UNREADABLE,
    USAGE_FIGURES,
    arrow_schema,
)

ROW_GROUP = 100_000
"""Rows written together: a reader skips those that have nothing of what it wants."""
_SIDE_BY_SIDE = {"steps": "metric", "stages": "stage", "groups": None}
_AGAIN, _SHOWN = "run this cell again.", 120
_SOURCES = ("counter", "power", "counter and power")
Row = dict[str, Any]
"""A row of a table, by column; a column that is left out is missing."""


class Evaluation(NamedTuple):
    """One result.json: its rows of the table `evals`, the values of MATCHED_EVALUATION, and the SHA-256 of the
    checkpoint that was evaluated, None where it is not recorded."""

    rows: list[Row]
    matched: dict[str, Any]
    checkpoint: str | None


@dataclass(frozen=True)
class Run:
    """A run's rows: one of `runs`, and those of `evals` and of the tables by step; none where nothing may be used."""

    row: Row
    evals: list[Row] = field(default_factory=list)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What reading needs of a benchmark, small enough to send to another process: the results folder, training steps,
    responses per step, arms that form groups, and arms that train a critic."""

    results: Path
    steps: int
    responses: int
    grouped: frozenset[str]
    critic: frozenset[str]

    @classmethod
    def of(cls, results: Path, benchmark: Benchmark) -> "Plan":
        train, arms = benchmark.train, benchmark.arms.values()
        grouped = frozenset(arm.name for arm in arms if arm.grouped)
        critic = frozenset(arm.name for arm in arms if benchmark.trains_critic(arm))
        return cls(results, train.steps, train.prompts_per_step * train.responses_per_prompt, grouped, critic)


def collect(results: Path, benchmark: Benchmark, processes: int = 1) -> None:
    """Write the tidy tables of `benchmark` from the runs/ and evals/ below `results` to `results`/tables.

    Nothing that is wrong with a run stops the others. Every planned run gives a row in `runs`, also one that failed,
    that is not there or that cannot be read; so does a run that is not in the benchmark's matrix, so that a seed taken
    out after the fact stays visible. None of these is in another table. A run that can be read but fails a gate of
    `groupppo.tables.gates` is in all tables, and not admissible.

    Args:
        results: the results folder; nothing of runs/ and evals/ is changed.
        benchmark: its matrix.
        processes: that read runs.
    """
    plan, planned = Plan.of(results, benchmark), planned_keys(benchmark)
    existing, stray = found_keys(ResultsFolder(results).runs)
    runs = [(keys, True) for keys in planned] + [(keys, False) for keys in sorted(existing - set(planned))]
    cells = dict.fromkeys((keys.task, keys.model) for keys, _ in runs)
    starts = {cell: read_start(results, *cell) for cell in cells}
    read_starts = (start for start in starts.values() if isinstance(start, Evaluation))
    rows, evals = list[Row](), [row for start in read_starts for row in start.rows]
    with ExitStack() as stack:
        writers = stack.enter_context(_writers(ResultsFolder(results).tables))
        read: Callable[..., Iterable[Run]] = map
        if processes > 1:
            # Forked: a spawned process would run the workflow's script again, which has no guard.
            read = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("fork"))).map
        for cell, members in groupby(runs, key=lambda run: (run[0].task, run[0].model)):
            of_cell = list(read(partial(read_run, plan, starts[cell]), members))
            rows += [run.row for run in of_cell]
            evals += [row for run in of_cell for row in run.evals]
            for name, column in _SIDE_BY_SIDE.items():
                parts = [run.tables[name] for run in of_cell if name in run.tables]
                if parts:
                    writers[name].write_table(_joined(parts, column), row_group_size=ROW_GROUP)
        rows += [_stray_row(plan, folder) for folder in stray]
        for name, content in (("runs", rows), ("evals", evals)):
            writers[name].write_table(pa.Table.from_pylist(content, arrow_schema(name)))


def _joined(parts: Iterable[pa.Table], column: str | None) -> pa.Table:
    """One table of those of several runs; rows of the same text in `column` stand side by side."""
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    if column is None:
        return table
    codes = table[column].combine_chunks().indices.to_numpy()
    return table.take(np.argsort(codes, kind="stable"))


@contextmanager
def _writers(folder: Path) -> Iterator[dict[str, pq.ParquetWriter]]:
    """A writer for each table; files get their names together, when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = {name: folder / f"{name}.parquet.part" for name in SCHEMA}
    try:
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(pq.ParquetWriter(file, arrow_schema(name), write_page_checksum=True))
                for name, file in unfinished.items()
            }
        for name, file in unfinished.items():
            os.replace(file, folder / f"{name}.parquet")
    finally:
        for file in unfinished.values():
            file.unlink(missing_ok=True)


def read_start(results: Path, task: str, model: str) -> Evaluation | str:
    """The evaluation of the checkpoint that all runs of a task and model start from, or why it cannot be read."""
    try:
        return _evaluation(results, Keys(task, model, START, None))
    except BadInput as error:
        return _message(error, results)


def read_run(plan: Plan, start: Evaluation | str, run: tuple[Keys, bool]) -> Run:
    """Read a run. One that failed or is not planned gives its row only, and so does one with a file that is not there
    or cannot be read, its evaluation included: the row then names the file and the line.

    Args:
        plan: of the benchmark.
        start: of the run's task and model.
        run: its keys, and whether it is planned.
    """
    keys, planned = run
    row, folder = _row(plan, keys), RunFolder(keys.below(ResultsFolder(plan.results).runs))
    unread = MISSING
    try:
        aside = folder.failed.status
        file = aside if aside.is_file() and not folder.status.exists() else folder.status
        unread = UNREADABLE if file.exists() else MISSING
        status = Record.of_file(file, "the run has not ended, or broke off; run it again, or remove its folder.")
        row |= _ended(keys, status)
        facts = Facts(row, planned, plan.steps, plan.responses)
        if row["status"] == FAILED or not planned:
            return Run(_judged(facts))
        return _finished(plan, keys, facts, start, status)
    except BadInput as error:
        return Run({**row, "status": unread, "reason": _message(error, plan.results)})


def _row(plan: Plan, keys: Keys) -> Row:
    return keys._asdict() | {"steps": 0, "planned_steps": plan.steps, "fallbacks": 0, "admissible": False}


def _stray_row(plan: Plan, folder: Path) -> Row:
    """The row of a folder among the runs that is no run's."""
    task, model, arm = folder.relative_to(ResultsFolder(plan.results).runs).parts[:3]
    reason = f"{folder.relative_to(plan.results)}: name it seed<k>, or move it out of runs/"
    return {**_row(plan, Keys(task, model, arm, None)), "status": UNREADABLE, "reason": reason}


def _message(error: BadInput, results: Path) -> str:
    """An error as part of a reason: the file relative to the results folder, what is wrong, and the hint."""
    file = Path(error.file)
    place = file.relative_to(results) if file.is_relative_to(results) else file
    shown = "missing" if error.value is None else repr(error.value)
    return f"{place.as_posix()}: {error.key} = {shown[:_SHOWN]} ({error.hint.removesuffix('.')})"


def _ended(keys: Keys, status: Record) -> Row:
    """What status.json and provenance.json say."""
    status.check_keys(keys._asdict())
    failed = status.text("status", (FINISHED, FAILED)) == FAILED
    provenance = RunFolder(status.file.parent).provenance
    known = provenance.is_file() or not failed
    seconds = status.optional if failed else status.real
    return {
        "status": FAILED if failed else FINISHED,
        "cause": status.text("cause") if failed else None,
        "rollout": status.text("rollout", ROLLOUTS),
        "device": Record.of_file(provenance, _AGAIN).text("device", DEVICES) if known else None,
        **{name: status.whole(name) for name in ("steps", "planned_steps", "fallbacks")},
        **{name: seconds(name, least=0.0) for name in ("startup_seconds", "wall_seconds")},
        **_usage(status),
    }


def _usage(status: Record) -> Row:
    """What the run used of its machine: numbers, and each reason why one is missing after the columns it is for."""
    if "usage" not in status.values:
        return {"usage_reason": "the run recorded none of it"}
    usage = status.part("usage")
    read: dict[str, Callable[[str], Any]] = {
        "str": partial(usage.text, known=_SOURCES),
        "Int64": usage.whole,
        "float64": partial(usage.real, least=0.0),
    }
    told = [name for name in USAGE_FIGURES if usage.values.get(name) is not None]
    reasons, by_reason = usage.part("missing").values, dict[str, list[str]]()
    for name in (name for name in USAGE_FIGURES if name not in told):
        by_reason.setdefault(str(reasons.get(name, "no reason was recorded")), []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
    return {name: read[USAGE_FIGURES[name][0]](name) for name in told} | {"usage_reason": listed or None}


def _stated_mfu(status: Record) -> dict[str, float]:
    """Every MFU that status.json states, by key."""
    if "usage" not in status.values:
        return {}
    usage = status.part("usage")
    stages, mfu = usage.part("mfu_by_stage"), usage.optional("mfu")
    stated = {} if mfu is None else {"usage.mfu": mfu}
    return stated | {f"usage.mfu_by_stage.{stage}": stages.real(stage) for stage in stages.values}


def _finished(plan: Plan, keys: Keys, facts: Facts, start: Evaluation | str, status: Record) -> Run:
    folder = RunFolder(status.file.parent)
    steps, stages = read_steps(folder.steps), read_stages(folder.stages)
    begun = start if isinstance(start, Evaluation) else None
    evaluation = _evaluation(plan.results, keys, begun)
    # A count that only single steps tell of counts too; null says nothing.
    logged = steps.column("group/fallbacks")
    fallbacks = max([facts.row["fallbacks"], *([] if logged is None else [int(x) for x in logged if x > 0])])
    tables = {"steps": _table("steps", keys, _long(steps)), "stages": _table("stages", keys, stages)}
    if keys.arm in plan.grouped:
        tables["groups"] = _table("groups", keys, read_groups(steps, fallbacks > 0))
    known = Logged(
        {**facts.row, "fallbacks": fallbacks},
        facts.planned,
        facts.benchmark_steps,
        facts.responses,
        steps,
        stages,
        critic=keys.arm in plan.critic,
        checkpoint=status.text("checkpoint_sha256") if "checkpoint_sha256" in status.values else None,
        evaluated=evaluation.checkpoint,
        start=begun.checkpoint if begun else None,
        start_fault=start if isinstance(start, str) else None,
        mfu=_stated_mfu(status),
        verl_knows=facts.row["device"] == "cpu" or any(part in _gpu(folder) for part in KNOWN_TO_VERL),
    )
    return Run(_judged(known), evaluation.rows, tables)


def _gpu(folder: RunFolder) -> str:
    """The GPU's name by the run's provenance; empty where that does not say."""
    return str(value_at(Record.of_file(folder.provenance, _AGAIN).values, "machine", "gpu") or "")


def _judged(facts: Facts) -> Row:
    reasons = findings(facts)
    return {**facts.row, "admissible": not reasons, "reason": "; ".join(reasons) or None}


def _long(log: StepLog) -> dict[str, Any]:
    """The columns of `steps`, metric by metric."""
    metric, line = np.nonzero(log.logged.T)
    return {
        "step": log.steps[line],
        "metric": pa.DictionaryArray.from_arrays(metric.astype(np.int32), pa.array(log.names, pa.string())),
        "value": pa.array(log.values[line, metric], from_pandas=True),
    }


def _table(name: str, keys: Keys, columns: Mapping[str, Any]) -> pa.Table:
    """The columns after the keys, as Arrow has them, with the keys before them."""
    made = {key: pa.array(values, from_pandas=True) for key, values in columns.items()}
    rows = len(made["step"])
    made |= {key: pa.repeat(text, rows) for key, text in keys._asdict().items()}
    types = arrow_schema(name)
    texts = {key: value.dictionary_encode() for key, value in made.items() if pa.types.is_string(value.type)}
    return pa.table({field.name: (made | texts)[field.name] for field in types}, types)


def _evaluation(results: Path, keys: Keys, start: Evaluation | None = None) -> Evaluation:
    """Of a checkpoint; of a trained one, measured as that of the start was where that could be read."""
    file = ResultsFolder(results).evaluation(*keys) / "result.json"
    record = Record.of_file(file, "evaluate this checkpoint.")
    record.check_keys(keys._asdict())
    metrics, rows = record.part("metrics"), []
    for name in metrics.values:
        part = metrics.part(name)
        numbers = {"value": part.real("value"), "stderr": part.real("stderr", least=0.0), "n": part.whole("n", least=1)}
        rows.append(keys._asdict() | {"metric": name} | numbers)
    matched = {key: record.value(key) for key in MATCHED_EVALUATION}
    for key, expected in start.matched.items() if start else ():
        if matched[key] != expected:
            raise record.bad(key, f"evaluate again: the start checkpoint was measured with {expected!r}.")
    return Evaluation(rows, matched, record.values.get("checkpoint_sha256"))
