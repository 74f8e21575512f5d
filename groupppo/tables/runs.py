"""One run, read from its folder: a row that says what became of it, and its rows of the other tables.

What is wrong with a run stays with it: `read_run` raises nothing that a file can cause.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.records.folders import START, ResultsFolder, RunFolder
from groupppo.tables.gates import Facts, findings
from groupppo.tables.keys import Keys
from groupppo.tables.logs import Record, StepLog, read_groups, read_stages, read_steps
from groupppo.tables.schema import (
    DEVICES,
    FAILED,
    FINISHED,
    MATCHED_EVALUATION,
    MISSING,
    ROLLOUTS,
    UNREADABLE,
    USAGE_FIGURES,
    arrow_schema,
)

_AGAIN, _SHOWN = "run this cell again.", 120
_SOURCES = ("counter", "power", "counter and power")
Row = dict[str, Any]
"""A row of a table, by column; a column that is left out is missing."""


@dataclass(frozen=True)
class Evaluation:
    """One result.json.

    Args:
        rows: of the table `evals`.
        matched: the values of MATCHED_EVALUATION.
        checkpoint: SHA-256 of the checkpoint that was evaluated; None where it is not recorded.
    """

    rows: tuple[Row, ...]
    matched: dict[str, Any]
    checkpoint: str | None


@dataclass(frozen=True)
class Start:
    """The evaluation of a task's and model's start; or None, and why it cannot be read."""

    evaluation: Evaluation | None
    fault: str | None = None


@dataclass(frozen=True)
class Run:
    """A run's rows: one of `runs`, and those of `evals` and of the tables by step; none where nothing may be used."""

    row: Row
    evals: tuple[Row, ...] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What reading needs of a benchmark, small enough to send to another process.

    Args:
        results: the results folder.
        steps: training steps.
        responses: responses per step.
        grouped: arms that form groups.
        critic: arms that train a critic.
    """

    results: Path
    steps: int
    responses: int
    grouped: frozenset[str]
    critic: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, results: Path, benchmark: Benchmark) -> "Plan":
        train, arms = benchmark.train, benchmark.arms.values()
        grouped = (arm.name for arm in arms if arm.grouped)
        critic = (arm.name for arm in arms if benchmark.trains_critic(arm))
        responses = train.prompts_per_step * train.responses_per_prompt
        return cls(results, train.steps, responses, frozenset(grouped), frozenset(critic))


def read_start(results: Path, task: str, model: str) -> Start:
    """The evaluation of the checkpoint that all runs of a task and model start from, or why there is none."""
    try:
        return Start(_evaluation(results, Keys(task, model, START, None)))
    except BadInput as error:
        return Start(None, _message(error, results))


def stray_row(plan: Plan, folder: Path) -> Row:
    """The row of a folder among the runs that is no run's."""
    task, model, arm = folder.relative_to(ResultsFolder(plan.results).runs).parts[:3]
    reason = f"{folder.relative_to(plan.results)}: name it seed<k>, or move it out of runs/"
    return {**_row(plan, Keys(task, model, arm, None)), "status": UNREADABLE, "reason": reason}


def read_run(plan: Plan, start: Start, run: tuple[Keys, bool]) -> Run:
    """Read a run. One that failed or is not planned gives its row only, and so does one with a file that is not there
    or cannot be read, its evaluation included: the row then names the file and the line.

    Args:
        plan: of the benchmark.
        start: of the run's task and model.
        run: its keys, and whether it is planned.
    """
    keys, planned = run
    row, folder = _row(plan, keys), RunFolder(keys.below(ResultsFolder(plan.results).runs))
    try:
        status = _status(folder)
    except BadInput as error:
        there = folder.status.exists() or folder.failed.status.exists()
        return Run({**row, "status": UNREADABLE if there else MISSING, "reason": _message(error, plan.results)})
    try:
        row |= _ended(keys, status)
        facts = Facts(
            planned, row["cause"], row["steps"], row["planned_steps"], plan.steps, plan.responses, row["fallbacks"]
        )
        if row["status"] == FAILED or not planned:
            return Run(_judged(row, facts))
        return _finished(plan, keys, row, facts, start, status)
    except BadInput as error:
        return Run({**row, "status": UNREADABLE, "reason": _message(error, plan.results)})


def _row(plan: Plan, keys: Keys) -> Row:
    nothing = {"steps": 0, "planned_steps": plan.steps, "fallbacks": 0, "admissible": False}
    return keys._asdict() | nothing


def _message(error: BadInput, results: Path) -> str:
    """An error as part of a reason: the file relative to the results folder, what is wrong, and the hint."""
    file = Path(error.file)
    place = file.relative_to(results) if file.is_relative_to(results) else file
    shown = "missing" if error.value is None else repr(error.value)
    return f"{place.as_posix()}: {error.key} = {shown[:_SHOWN]} ({error.hint.removesuffix('.')})"


def _status(folder: RunFolder) -> Record:
    file, aside = folder.status, folder.failed.status
    hint = "the run has not ended; run it again, or remove its folder."
    return Record.of_file(aside if aside.is_file() and not file.exists() else file, hint)


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
    values = {name: _figure(usage, name, dtype) for name, (dtype, _) in USAGE_FIGURES.items()}
    reasons, by_reason = usage.part("missing").values, dict[str, list[str]]()
    for name in (name for name, value in values.items() if value is None):
        by_reason.setdefault(str(reasons.get(name, "no reason was recorded")), []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
    return {**values, "usage_reason": listed or None}


def _figure(usage: Record, name: str, dtype: str) -> Any:
    if usage.values.get(name) is None:
        return None
    if dtype == "str":
        return usage.text(name, _SOURCES)
    return usage.whole(name) if dtype == "Int64" else usage.real(name, least=0.0)


def _stated_mfu(status: Record) -> dict[str, float]:
    """Every MFU that status.json states, by key."""
    if "usage" not in status.values:
        return {}
    usage = status.part("usage")
    stages = usage.part("mfu_by_stage")
    stated = {"usage.mfu": usage.optional("mfu")}
    stated |= {f"usage.mfu_by_stage.{stage}": stages.real(stage) for stage in stages.values}
    return {key: value for key, value in stated.items() if value is not None}


def _finished(plan: Plan, keys: Keys, row: Row, facts: Facts, start: Start, status: Record) -> Run:
    folder = RunFolder(status.file.parent)
    steps, stages = read_steps(folder.steps), read_stages(folder.stages)
    evaluation = _matched_evaluation(plan.results, keys, start.evaluation)
    logged = steps.column("group/fallbacks")
    # A count that only single steps tell of counts too; null says nothing.
    fallbacks = max([row["fallbacks"], *([] if logged is None else [int(x) for x in logged if x > 0])])
    tables = {"steps": _table("steps", keys, _long(steps)), "stages": _table("stages", keys, stages)}
    if keys.arm in plan.grouped:
        tables["groups"] = _table("groups", keys, read_groups(steps, fallbacks > 0))
    facts = replace(
        facts,
        fallbacks=fallbacks,
        critic=keys.arm in plan.critic,
        steps=steps,
        stages=stages,
        evaluated=evaluation.checkpoint,
        start=start.evaluation.checkpoint if start.evaluation else None,
        start_fault=start.fault,
        checkpoint=status.text("checkpoint_sha256") if "checkpoint_sha256" in status.values else None,
        mfu=_stated_mfu(status),
        verl_knows=row["device"] == "cpu",
    )
    return Run(_judged({**row, "fallbacks": fallbacks}, facts), evaluation.rows, tables)


def _judged(row: Row, facts: Facts) -> Row:
    reasons = findings(facts)
    return {**row, "admissible": not reasons, "reason": "; ".join(reasons) or None}


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


def _matched_evaluation(results: Path, keys: Keys, start: Evaluation | None) -> Evaluation:
    """The evaluation of a trained checkpoint, measured as that of the start was where that could be read."""
    evaluation = _evaluation(results, keys)
    for key, expected in start.matched.items() if start else ():
        if evaluation.matched[key] != expected:
            hint = f"evaluate again: the start checkpoint was measured with {expected!r}."
            raise BadInput(_result(results, keys), key, evaluation.matched[key], hint)
    return evaluation


def _evaluation(results: Path, keys: Keys) -> Evaluation:
    record = Record.of_file(_result(results, keys), "evaluate this checkpoint.")
    record.check_keys(keys._asdict())
    metrics = record.part("metrics")
    rows = tuple(keys._asdict() | {"metric": name} | _numbers(metrics.part(name)) for name in metrics.values)
    matched = {key: record.value(key) for key in MATCHED_EVALUATION}
    return Evaluation(rows, matched, record.values.get("checkpoint_sha256"))


def _numbers(part: Record) -> Row:
    return {"value": part.real("value"), "stderr": part.real("stderr", least=0.0), "n": part.whole("n", least=1)}


def _result(results: Path, keys: Keys) -> Path:
    return ResultsFolder(results).evaluation(*keys) / "result.json"
