"""Studies as the page shows them, and the one of the grouping rules: its figures, and its two tables in words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark, CellPlan
from groupppo.draw.wording import number, percentage
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.report.drawing import FigureRecord, read_figures
from groupppo.report.sections.runs import place
from groupppo.studies.figures_scores import PROXY_LABELS, setting_label
from groupppo.studies.record import RECORD
from groupppo.studies.tables import COLUMNS, FIGURES, NO_RULE, read_table
from groupppo.tables.keys import plans_begun

RERUN = "run the study again: snakemake studies."


@dataclass(frozen=True)
class TextCell:
    """A value, and under it its interval or a remark where it has one."""

    text: str
    under: str = ""


@dataclass(frozen=True)
class TextTable:
    """A small table in words; the first cell of a row names it."""

    caption: str
    head: list[str]
    rows: list[list[TextCell]]


@dataclass(frozen=True)
class Study:
    """The study of one task and model.

    Attributes:
        place: task and model in words, empty where the benchmark has one of each. anchor: unique on the page.
        folder: its place in the results folder. scope: what it ran on, in one sentence.
        figures, tables: in their order, tables by their label. files: of the tables, in `folder`.
    """

    place: str
    anchor: str
    folder: str
    scope: str
    figures: list[FigureRecord]
    tables: dict[str, TextTable]
    files: list[str]


Scope = Callable[[dict[str, Any], Benchmark, CellPlan], str]
"""What a study of a task and model ran on, in words, from its record."""
Tables = Callable[[Path], dict[str, TextTable]]
"""The tables of the page from a study's folder, by their label."""


def grouping_studies(results: Path, benchmark: Benchmark) -> list[Study]:
    """As `studies_of`."""
    return studies_of("grouping", results, benchmark, _scope, _tables, COLUMNS)


def studies_of(
    kind: str, results: Path, benchmark: Benchmark, scope: Scope, tables: Tables, columns: Iterable[str]
) -> list[Study]:
    """One for each task and model begun, where the benchmark asks for the study `kind`, whose own tables are `columns`.

    Raises:
        BadInput: a study was asked for and is not there, or its files are not in their form.
    """
    found = []
    for plan in plans_begun(results, benchmark) if kind in benchmark.studies else ():
        folder = results / "studies" / kind / f"{plan.task}.{plan.model}"
        record = read_object(folder / RECORD, RERUN)
        try:
            told = scope(record, benchmark, plan)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(folder / RECORD, str(error), None, RERUN) from error
        study = Study(
            place=place(benchmark, plan.task, plan.model),
            anchor=f"{kind}-{plan.task}-{plan.model}",
            folder=folder.relative_to(results).as_posix(),
            scope=told,
            figures=read_figures(folder / FIGURES),
            tables=tables(folder),
            files=[f"{name}.csv" for name in columns],
        )
        found.append(study)
    return found


def _tables(folder: Path) -> dict[str, TextTable]:
    return {
        "Agreement with exact score vectors": _agreement(read_table(folder, "agreement")),
        "Update directions": _directions(read_table(folder, "direction_summary")),
    }


def _scope(record: dict[str, Any], benchmark: Benchmark, plan: CellPlan) -> str:
    counts, batches = record["counts"], record["settings"]["batches"]
    sizes = f"{counts['responses']:,} responses ({counts['tokens']:,} tokens) in {batches} batches"
    reward, left_out = number(counts["mean_reward"]), dict(record["arms_left_out"])
    reference = benchmark.arms[benchmark.reference].title
    others = [f"{name} ({reason})" for name, reason in left_out.items() if reason != NO_RULE]
    scope = f"Rollouts of {reference}, seed {plan.seeds[0]}, after training: {sizes}, mean reward {reward}."
    return f"{scope} Arms left out of the update directions: {', '.join(others)}." if others else scope


def _agreement(rows: pd.DataFrame) -> TextTable:
    of_setting = {
        setting_label(cap, epsilon): own.set_index("proxy")
        for (cap, epsilon), own in rows.groupby(["cap", "epsilon"], dropna=False, sort=False)
    }
    labels = list(of_setting)
    first = of_setting[labels[0]]
    shares = ", ".join(f"{percentage(own['exact_density'].iloc[0])} ({label})" for label, own in of_setting.items())
    body = [
        [
            TextCell(PROXY_LABELS.get(proxy, proxy)),
            *(spread(own.loc[proxy], "f1") for own in of_setting.values()),
            *(TextCell(number(first.loc[proxy, name])) for name in ("f1_inner", "precision", "recall")),
            TextCell(percentage(first.loc[proxy, "density"])),
        ]
        for proxy in first.index
    ]
    head = ["Proxy", *(f"F1, {label}" for label in labels), "F1 without last tokens", "Precision", "Recall", "Density"]
    caption = (
        "Endpoints of variance_split (tau 1) with a proxy against those with the exact score vectors, 90 % intervals "
        f"over responses; the last four columns are for {labels[0]}. Density of the exact rule: {shares}."
    )
    return TextTable(caption, head, body)


def _directions(rows: pd.DataFrame) -> TextTable:
    titles = dict(zip(rows["arm"], rows["title"], strict=True))
    body = [
        [
            TextCell(row["title"], f"gradients of {titles[row['same_as']]}" if row["same_as"] else ""),
            TextCell(percentage(row["density"])),
            spread(row, "cosine"),
            TextCell(number(row["mean_cosine"])),
            *(spread(row, name) for name in ("expected_cosine", "norm_ratio", "relative_variance")),
        ]
        for _, row in rows.iterrows()
    ]
    cosines = ["Cosine, same batch", "Cosine of means", "Cosine of expectations"]
    head = ["Arm", "Density", *cosines, "Norm ratio", "Relative variance"]
    caption = (
        "Policy gradients against dense PPO's, 90 % intervals over batches. Means are over all batches; expectations "
        "are estimated between different batches only. Relative variance is the trace of the covariance over the "
        "squared norm of the expectation. The last row is the noise floor: dense PPO on pairs of different batches, "
        "and its mean over one half of the batches against the other."
    )
    return TextTable(caption, head, body)


def spread(row: pd.Series, name: str) -> TextCell:
    """Such as 0.503 over [0.430, 0.576]; the value alone where there is no interval."""
    value, low, high = (row[column] for column in (name, f"{name}_low", f"{name}_high"))
    return TextCell(number(value), "" if pd.isna(low) or pd.isna(high) else f"[{number(low)}, {number(high)}]")
