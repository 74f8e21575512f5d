"""Runs as the page shows them: what was run and what came of it, what was excluded, and where each run was made."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING, number, plural, seconds_text
from groupppo.errors import BadInput
from groupppo.records.folders import ResultsFolder
from groupppo.records.plain_json import read_object
from groupppo.report.sections.data import Setting, as_text
from groupppo.tables import Tables
from groupppo.tables.schema import FINISHED

MOST_ROWS = 500
"""Runs that a table of the page lists; of more it lists those that are no evidence, and the tables of the results hold
all."""
MOST_VALUES = 20
"""Values of a key of the provenance, and runs with each, that the page lists."""


@dataclass(frozen=True)
class RunRow:
    """One cell of the matrix. `record` is the path of its status.json in the results folder, empty where there is none;
    the values are what a table sorts by: seconds and shares, -1 where there is none."""

    task: str
    model: str
    arm: str
    seed: int
    status: str
    note: str
    steps: str
    wall: str
    wall_value: float
    startup: str
    startup_value: float
    rollout: str
    accuracy: str
    accuracy_value: float
    record: str


@dataclass(frozen=True)
class Excluded:
    task: str
    model: str
    arm: str
    seed: str
    reason: str


@dataclass(frozen=True)
class Differing:
    """A key whose value is not the same in all runs: each value with the runs that have it."""

    key: str
    by_value: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Provenance:
    runs: int
    shared: list[Setting]
    differing: list[Differing]
    unrecorded: list[str]


def scope(benchmark: Benchmark, tables: Tables) -> str:
    """What was run, in one sentence."""
    sizes = {"task": len(benchmark.tasks), "model": len(benchmark.models), "arm": len(benchmark.arms)}
    counted = ", ".join(plural(size, noun) for noun, size in (sizes | {"seed": len(benchmark.seeds)}).items())
    fewer = ", not all arms and seeds with every task and model" if benchmark.cells else ""
    excluded = int((~tables.runs["admissible"]).sum())
    return f"{counted}{fewer}: {plural(len(tables.runs), 'run')}, {excluded or 'none'} excluded from the evidence."


def place(benchmark: Benchmark, task: str, model: str) -> str:
    """Task and model in words; empty where the benchmark has one of each."""
    if len(benchmark.tasks) * len(benchmark.models) == 1:
        return ""
    return ", ".join(_titles(benchmark, task, model, "")[:2])


def matrix(results: Path, benchmark: Benchmark, tables: Tables) -> list[RunRow]:
    """Every planned run in the benchmark's order, then runs outside the matrix; of more than MOST_ROWS those that are
    inadmissible."""
    named = tables.runs[tables.runs["seed"].notna()]
    found = {(run.task, run.model, run.arm, int(run.seed)): run for run in named.itertuples()}
    planned = [(plan.task, plan.model, arm, seed) for plan in benchmark.plans() for arm, seed in plan.runs]
    accuracies = _accuracies(tables.evals)
    shown = [*planned, *sorted(set(found) - set(planned))]
    if len(shown) > MOST_ROWS:
        shown = [keys for keys in shown if keys not in found or not found[keys].admissible]
    return [_run_row(results, benchmark, keys, found.get(keys), accuracies.get(keys)) for keys in shown]


def excluded_rows(excluded: list[dict[str, Any]], benchmark: Benchmark) -> list[Excluded]:
    """The excluded runs of verdicts.json, with titles for names."""
    return [
        Excluded(*_titles(benchmark, run["task"], run["model"], run["arm"]), _seed(run["seed"]), run["reason"])
        for run in excluded
    ]


def provenance(results: Path, benchmark: Benchmark, tables: Tables) -> Provenance:
    """provenance.json of every run, split into what all runs share and what differs; of both values and runs the
    first MOST_VALUES. A run whose file cannot be read is among the unrecorded."""
    records: list[tuple[str, dict[str, str]]] = []
    unrecorded = []
    for run in tables.runs[tables.runs["seed"].notna()].itertuples():
        label = _run_label(benchmark, run.task, run.model, run.arm, int(run.seed))
        file = ResultsFolder(results).run(run.task, run.model, run.arm, int(run.seed)).provenance
        record = _record(file)
        if record is None:
            unrecorded.append(label)
        else:
            records.append((label, record))
    shared, differing = [], []
    for key in dict.fromkeys(key for _, record in records for key in record):
        by_value: dict[str, list[str]] = {}
        for label, record in records:
            by_value.setdefault(record.get(key, "not recorded"), []).append(label)
        if len(by_value) == 1:
            shared.append(Setting(key, next(iter(by_value))))
        else:
            differing.append(Differing(key, _first_values(by_value)))
    return Provenance(len(records), shared, differing, _first_names(unrecorded))


def _record(file: Path) -> dict[str, str] | None:
    """A provenance.json, flat; None where there is none to be read, which the run's own row tells."""
    try:
        return dict(_flat(read_object(file, "run this cell again.")))
    except BadInput:
        return None


def _first_values(by_value: Mapping[str, list[str]]) -> list[tuple[str, list[str]]]:
    shown = [(value, _first_names(names)) for value, names in list(by_value.items())[:MOST_VALUES]]
    rest = list(by_value.values())[MOST_VALUES:]
    more = [(f"{len(rest):,} more values", [plural(sum(map(len, rest)), "run")])] if rest else []
    return shown + more


def _first_names(names: list[str]) -> list[str]:
    more = len(names) - MOST_VALUES
    return [*names[:MOST_VALUES], f"and {more:,} more"] if more > 0 else names


def _run_row(
    results: Path,
    benchmark: Benchmark,
    keys: tuple[str, str, str, int],
    run: Any,
    accuracy: tuple[float, float] | None,
) -> RunRow:
    task, model, arm = _titles(benchmark, *keys[:3])
    folder = ResultsFolder(results).run(*keys)
    # A failed job's outputs are deleted; what it set aside is kept.
    # Not its log, which bundles leave out: the page's links lead somewhere there, too.
    places = (folder.status, folder.failed.status)
    record = next((file for file in places if file.is_file()), None)
    return RunRow(
        task=task,
        model=model,
        arm=arm,
        seed=keys[3],
        status=_status(run),
        note=_note(run),
        steps=f"{run.steps:,} of {run.planned_steps:,}" if run else MISSING,
        wall=seconds_text(run.wall_seconds if run else None),
        wall_value=_sortable(run.wall_seconds if run else None),
        startup=seconds_text(run.startup_seconds if run else None),
        startup_value=_sortable(run.startup_seconds if run else None),
        rollout=run.rollout if run and not pd.isna(run.rollout) else MISSING,
        accuracy=MISSING if accuracy is None else f"{number(accuracy[0])} ± {number(accuracy[1])}",
        accuracy_value=_sortable(accuracy[0] if accuracy else None),
        record=record.relative_to(results).as_posix() if record else "",
    )


def _status(run: Any) -> str:
    if run is None:
        return "missing"
    return run.status if run.admissible or run.status != FINISHED else f"{run.status}, excluded"


def _note(run: Any) -> str:
    if run is None:
        return "no record of this run"
    return "" if run.admissible else str(run.reason).removeprefix("failed: ")


def _seed(seed: int | None) -> str:
    return MISSING if seed is None else str(seed)


def _sortable(value: float | None) -> float:
    return -1.0 if value is None or math.isnan(value) else value


def _accuracies(evals: pd.DataFrame) -> dict[tuple[str, str, str, int], tuple[float, float]]:
    """Greedy accuracy and its standard error over prompts, by run."""
    rows = evals[(evals["metric"] == "accuracy") & evals["seed"].notna()]
    return {(row.task, row.model, row.arm, int(row.seed)): (row.value, row.stderr) for row in rows.itertuples()}


def _titles(benchmark: Benchmark, task: str, model: str, arm: str) -> tuple[str, str, str]:
    """Titles, or bare names for what the benchmark does not know."""
    homes: tuple[tuple[Mapping[str, Any], str], ...] = (
        (benchmark.tasks, task),
        (benchmark.models, model),
        (benchmark.arms, arm),
    )
    first, second, third = (home[name].title if name in home else name for home, name in homes)
    return first, second, third


def _run_label(benchmark: Benchmark, task: str, model: str, arm: str, seed: int) -> str:
    known = [place(benchmark, task, model), _titles(benchmark, task, model, arm)[2], f"seed {seed}"]
    return ", ".join(part for part in known if part)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", as_text(item)
