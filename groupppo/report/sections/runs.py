"""The runs: what came of each, those that are no evidence, the figures of all, and where each run was made."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, Details, FigureBlock, Link, Row, Section, Table, Text, TextCell, code
from groupppo.draw.captions import place
from groupppo.draw.wording import MISSING, number, plural, seconds_text
from groupppo.errors import BadInput
from groupppo.records.folders import ResultsFolder, RunFolder
from groupppo.records.plain_json import read_object
from groupppo.report.sections import Results
from groupppo.report.sections.benchmark import as_text
from groupppo.tables.schema import FINISHED

MOST_ROWS = 500
"""Runs that a table of the page lists; of more it lists those that are no evidence, and the tables of the results hold
all."""
MOST_VALUES = 20
"""Values of a key of the provenance, and runs with each, that the page lists."""
Keys = tuple[str, str, str, int]
"""Task, model, arm and seed of a run."""


def sections(results: Results) -> Iterator[Section]:
    figures = [FigureBlock(record, "figures") for record in results.figures]
    yield Section("excluded", "Excluded runs", "Excluded runs", 40, list(_excluded(results)), markdown=True)
    yield Section("figures", "Figures", "Figures", 50, figures, markdown=True)
    yield Section("matrix", "Runs", "Runs", 90, list(_matrix(results)))
    yield Section("provenance", "Provenance", "Provenance", 95, list(_provenance(results)))


def scope(benchmark: Benchmark, runs: pd.DataFrame) -> str:
    """What was run, in one sentence."""
    sizes = {"task": len(benchmark.tasks), "model": len(benchmark.models), "arm": len(benchmark.arms)}
    counted = ", ".join(plural(size, noun) for noun, size in (sizes | {"seed": len(benchmark.seeds)}).items())
    fewer = ", not all arms and seeds with every task and model" if benchmark.cells else ""
    excluded = int((~runs["admissible"]).sum())
    return f"{counted}{fewer}: {plural(len(runs), 'run')}, {excluded or 'none'} excluded from the evidence."


def _excluded(results: Results) -> Iterator[Block]:
    excluded = results.judged.excluded
    if not excluded:
        yield Text("None: every run of the matrix is admissible as evidence.")
        return
    rows: list[Row] = [
        [
            *_titles(results.benchmark, run.task, run.model, run.arm),
            MISSING if run.seed is None else str(run.seed),
            TextCell(run.reason, mark="break"),
        ]
        for run in excluded[:MOST_ROWS]
    ]
    caption = "Runs that are no evidence for any claim, and why."
    yield Table("Excluded runs", caption, ["Task", "Model", "Arm", "Seed", "Reason"], rows, kind="prose")
    if len(excluded) > MOST_ROWS:
        more = f"The first {MOST_ROWS} of {len(excluded):,}; all are in "
        yield Text((more, Link("verdicts.json", "verdicts.json"), "."))


def _matrix(results: Results) -> Iterator[Block]:
    """Every planned run in the benchmark's order, then runs outside the matrix; of more than MOST_ROWS those that are
    inadmissible."""
    count = len(results.runs)
    named = results.runs[results.runs["seed"].notna()]
    runs = {(run.task, run.model, run.arm, int(run.seed)): run for run in named.itertuples()}
    planned = [(plan.task, plan.model, arm, seed) for plan in results.benchmark.plans() for arm, seed in plan.runs]
    shown = [*planned, *sorted(set(runs) - set(planned))]
    if len(shown) > MOST_ROWS:
        shown = [keys for keys in shown if keys not in runs or not runs[keys].admissible]
    if shown:
        scores = _accuracies(results.evals)
        caption = (
            f"{'Runs that are no evidence' if count > MOST_ROWS else 'Every run of the matrix'}. Accuracy is greedy, "
            "on held-out prompts, ± one standard error over prompts. Run time includes start-up. A status leads to the "
            "run's record; beside it, in a results folder, lies log.txt."
        )
        head = ["Task", "Model", "Arm", "Seed", "Status", "Steps", "Run time", "Start-up", "Rollouts", "Accuracy"]
        rows = [_run(results, keys, runs.get(keys), scores.get(keys)) for keys in shown[:MOST_ROWS]]
        yield Table("Runs", caption, head, rows, kind="sortable")
    if count > MOST_ROWS:
        cut = f"; the first {MOST_ROWS} of these are listed" if len(shown) > MOST_ROWS else ""
        less = f"{len(shown) or 'none':,} {'is' if len(shown) == 1 else 'are'}" if shown else "none are"
        yield Text(
            (
                f"{count:,} runs, of which {less} no evidence{cut}. How many there are of each arm stands ",
                Link("above", "#usage"),
                "; every run is a row of ",
                Link("runs.parquet", "tables/runs.parquet"),
                ".",
            )
        )


def _run(results: Results, keys: Keys, run: Any, score: tuple[float, float] | None) -> list[TextCell | str]:
    folder = _folder(results.folder, keys)
    # A failed job's outputs are deleted; what it set aside is kept.
    # Not its log, which bundles leave out: the page's links lead somewhere there, too.
    places = (folder.status, folder.failed.status)
    record = next((file.relative_to(results.folder).as_posix() for file in places if file.is_file()), None)
    status = "missing" if run is None else run.status
    if run is not None and not run.admissible and status == FINISHED:
        status = f"{status}, excluded"
    note = "" if run is None or run.admissible else str(run.reason).removeprefix("failed: ")
    return [
        *_titles(results.benchmark, *keys[:3]),
        str(keys[3]),
        TextCell(Link(status, record) if record else status, note if run is not None else "no record of this run"),
        TextCell(f"{run.steps:,} of {run.planned_steps:,}" if run else MISSING, mark="nowrap"),
        _seconds(run.wall_seconds if run else None),
        _seconds(run.startup_seconds if run else None),
        run.rollout if run and not pd.isna(run.rollout) else MISSING,
        TextCell(
            MISSING if score is None else f"{number(score[0])} ± {number(score[1])}",
            value=_sortable(score[0] if score else None),
            mark="nowrap",
        ),
    ]


def _seconds(value: float | None) -> TextCell:
    return TextCell(seconds_text(value), value=_sortable(value), mark="nowrap")


def _sortable(value: float | None) -> float:
    return -1.0 if value is None or math.isnan(value) else value


def _accuracies(evals: pd.DataFrame) -> dict[Keys, tuple[float, float]]:
    """Greedy accuracy and its standard error over prompts, by run."""
    rows = evals[(evals["metric"] == "accuracy") & evals["seed"].notna()]
    return {(row.task, row.model, row.arm, int(row.seed)): (row.value, row.stderr) for row in rows.itertuples()}


def _provenance(results: Results) -> Iterator[Block]:
    """provenance.json of every run, split into what all runs share and what differs; of both values and runs the first
    MOST_VALUES. A run whose file cannot be read is named."""
    records: list[tuple[str, dict[str, str]]] = []
    unrecorded = []
    for run in results.runs[results.runs["seed"].notna()].itertuples():
        keys = (run.task, run.model, run.arm, int(run.seed))
        titles = [place(results.benchmark, *keys[:2]), _titles(results.benchmark, *keys[:3])[2], f"seed {keys[3]}"]
        label = ", ".join(title for title in titles if title)
        try:
            content = read_object(_folder(results.folder, keys).provenance, "run this cell again.")
            records.append((label, dict(_flat(content))))
        except BadInput:  # its row among the runs says so
            unrecorded.append(label)
    shared: list[Row] = []
    differing = []
    for key in dict.fromkeys(key for _, record in records for key in record):
        by_value: dict[str, list[str]] = {}
        for label, record in records:
            by_value.setdefault(record.get(key, "not recorded"), []).append(label)
        if len(by_value) == 1:
            shared.append([code(key), TextCell(next(iter(by_value)), mark="break")])
        else:
            differing.append((key, by_value))
    if shared:
        caption = f"The same in all {len(records)} recorded runs."
        yield Table("Shared provenance", caption, ["Key", "Value"], shared, kind="prose")
    if differing:
        rows: list[Row] = [
            [code(key), TextCell(value, mark="break"), names]
            for key, values in differing
            for value, names in _first(values)
        ]
        table = Table("Provenance that differs", "", ["Key", "Value", "Runs"], rows, kind="prose")
        yield Details(f"Keys that differ between runs ({len(differing)})", [table])
    if unrecorded:
        yield Text(f"No provenance was recorded for: {_first_names(unrecorded)}.")


def _first(by_value: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    shown = [(value, _first_names(names)) for value, names in list(by_value.items())[:MOST_VALUES]]
    rest = list(by_value.values())[MOST_VALUES:]
    more = [(f"{len(rest):,} more values", plural(sum(map(len, rest)), "run"))] if rest else []
    return shown + more


def _first_names(names: list[str]) -> str:
    more = len(names) - MOST_VALUES
    return "; ".join([*names[:MOST_VALUES], *([f"and {more:,} more"] if more > 0 else [])])


def _titles(benchmark: Benchmark, task: str, model: str, arm: str) -> list[str]:
    """Titles, or bare names for what the benchmark does not know."""
    homes: tuple[tuple[Mapping[str, Any], str], ...] = (
        (benchmark.tasks, task),
        (benchmark.models, model),
        (benchmark.arms, arm),
    )
    return [home[name].title if name in home else name for home, name in homes]


def _folder(results: Path, keys: Keys) -> RunFolder:
    return ResultsFolder(results).run(*keys)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", as_text(item)
