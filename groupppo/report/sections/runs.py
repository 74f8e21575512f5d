"""The runs: what came of each, those that are no evidence, the figures of all, and where each run was made."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, Details, FigureBlock, Link, Row, Section, Table, Text, TextCell, code
from groupppo.draw.figures import place
from groupppo.draw.style import RUN_KEYS
from groupppo.draw.wording import MISSING, number, percentage, plural, seconds_text
from groupppo.errors import BadInput
from groupppo.records.folders import ResultsFolder
from groupppo.records.plain_json import read_object
from groupppo.report.sections import Results
from groupppo.report.sections.benchmark import as_text
from groupppo.tables.loading import Only, load_table
from groupppo.tables.schema import FINISHED

CAPTION = (
    "Every run of the matrix. Accuracy is greedy, on held-out prompts, ± one standard error over prompts. Run time "
    "includes start-up. Clipped: the share of steps in which a token's ratio was. A status leads to the run's record; "
    "beside it, in a results folder, lies log.txt."
)
MOST_VALUES = 20
"""Values of a key of the provenance, and runs with each, that the page lists."""


def sections(results: Results) -> Iterator[Section]:
    runs = results.runs[~results.runs["admissible"].astype(bool)]
    excluded = run_table(results, runs, "Runs that are no evidence for any claim, and why.")
    none = Text("None: every run of the matrix is admissible as evidence.")
    yield Section("excluded", "Excluded runs", "Excluded runs", 40, [excluded if len(runs) else none], markdown=True)
    figures = [FigureBlock(record, "figures") for record in results.figures]
    yield Section("figures", "Figures", "Figures", 50, figures, markdown=True)
    yield Section("matrix", "Runs", "Runs", 90, [run_table(results, results.runs, CAPTION)])
    yield Section("provenance", "Provenance", "Provenance", 95, list(_provenance(results)))


def scope(benchmark: Benchmark, runs: pd.DataFrame) -> str:
    """What was run, in one sentence."""
    counted = ", ".join(
        plural(len(getattr(benchmark, axis)), axis.removesuffix("s")) for axis in ("tasks", "models", "arms", "seeds")
    )
    fewer = ", not all arms and seeds with every task and model" if benchmark.cells else ""
    excluded = int((~runs["admissible"]).sum())
    return f"{counted}{fewer}: {plural(len(runs), 'run')}, {excluded or 'none'} excluded from the evidence."


def run_table(results: Results, runs: pd.DataFrame, caption: str) -> Table:
    """A row for each run, with its greedy accuracy on held-out prompts."""
    accuracy = results.evals[results.evals["metric"] == "accuracy"]
    scored = runs.merge(accuracy[[*RUN_KEYS, "value", "stderr"]], "left", RUN_KEYS)
    scored = scored.merge(_clipped_steps(results), "left", RUN_KEYS)
    times = ["Run time", "Start-up"]
    head = ["Task", "Model", "Arm", "Seed", "Status", "Steps", "Clipped", *times, "Rollouts", "Accuracy"]
    rows = [_run(results, run) for run in scored.itertuples()]
    return Table("Runs", caption, head, rows, kind="sortable", whole="tables/runs.parquet")


def _clipped_steps(results: Results) -> pd.DataFrame:
    """Of each run that logs it, the share of steps in which verl clipped a token's ratio, as `clipped`."""
    only = Only(where={"metric": ["actor/pg_clipfrac"]})
    steps = (
        load_table(results.folder / "tables", "steps", only)
        .dropna(subset="value")
        .astype(dict.fromkeys(RUN_KEYS[:3], str))
    )
    return steps.assign(clipped=steps["value"] > 0).groupby(RUN_KEYS)["clipped"].mean().reset_index()


def _run(results: Results, run: Any) -> list[TextCell | str]:
    folder = ResultsFolder(results.folder).run(run.task, run.model, run.arm, run.seed)
    # A failed job's outputs are deleted; what it set aside is kept.
    # Not its log, which bundles leave out: the page's links lead somewhere there, too.
    places = (folder.status, folder.failed.status)
    record = next((file.relative_to(results.folder).as_posix() for file in places if file.is_file()), None)
    status = f"{run.status}, excluded" if run.status == FINISHED and not run.admissible else run.status
    note = "" if run.admissible else str(run.reason).removeprefix("failed: ")
    score = MISSING if math.isnan(run.value) else f"{number(run.value)} ± {number(run.stderr)}"
    return [
        *_titles(results.benchmark, run),
        MISSING if pd.isna(run.seed) else str(run.seed),
        TextCell(Link(status, record) if record else status, note),
        TextCell(f"{run.steps:,} of {run.planned_steps:,}", mark="nowrap"),
        _sorted(MISSING if math.isnan(run.clipped) else percentage(run.clipped), run.clipped),
        _sorted(seconds_text(run.wall_seconds), run.wall_seconds),
        _sorted(seconds_text(run.startup_seconds), run.startup_seconds),
        MISSING if pd.isna(run.rollout) else run.rollout,
        _sorted(score, run.value),
    ]


def _sorted(text: str, value: float) -> TextCell:
    return TextCell(text, value=-1.0 if math.isnan(value) else value, mark="nowrap")


def _titles(benchmark: Benchmark, run: Any) -> list[str]:
    """Titles of task, model and arm, or bare names for what the benchmark does not know."""
    homes = ((benchmark.tasks, run.task), (benchmark.models, run.model), (benchmark.arms, run.arm))
    return [getattr(home.get(name), "title", name) for home, name in homes]


def _provenance(results: Results) -> Iterator[Block]:
    """provenance.json of every run, split into what all runs share and what differs. A run whose file cannot be read is
    named."""
    records, labels, unrecorded = list[dict[str, str]](), list[str](), list[str]()
    for run in results.runs[results.runs["seed"].notna()].itertuples():
        where = place(results.benchmark, run.task, run.model)
        label = f"{f'{where}, ' if where else ''}{_titles(results.benchmark, run)[2]}, seed {run.seed}"
        file = ResultsFolder(results.folder).run(run.task, run.model, run.arm, run.seed).provenance
        try:
            records.append(dict(_flat(read_object(file, "run this cell again."))))
            labels.append(label)
        except BadInput:  # its row among the runs says so
            unrecorded.append(label)
    values = pd.DataFrame(records, index=labels).fillna("not recorded")
    shared = [key for key in values if values[key].nunique() == 1]
    if shared:
        caption = f"The same in all {len(values)} recorded runs."
        rows: list[Row] = [[code(key), TextCell(values[key].iloc[0], mark="break")] for key in shared]
        yield Table("Shared provenance", caption, ["Key", "Value"], rows, kind="prose")
    differing = [key for key in values if key not in shared]
    if differing:
        rows = [
            [code(key), TextCell(str(value), mark="break"), _names(list(runs.index))]
            for key in differing
            for value, runs in islice(values.groupby(values[key], sort=False), MOST_VALUES)
        ]
        caption = f"Of a key with more than {MOST_VALUES} values the first are listed."
        table = Table("Provenance that differs", caption, ["Key", "Value", "Runs"], rows, kind="prose")
        yield Details(f"Keys that differ between runs ({len(differing)})", [table])
    if unrecorded:
        yield Text(f"No provenance was recorded for: {_names(unrecorded)}.")


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", as_text(value)


def _names(labels: list[str]) -> str:
    return "; ".join(labels) if len(labels) <= MOST_VALUES else plural(len(labels), "run")
