"""Studies as the page shows them, and the one of the grouping rules: its figures, and its two tables in words."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, FigureBlock, Heading, Link, Section, Table, Text, TextCell, with_interval
from groupppo.draw.captions import place
from groupppo.draw.figures import FigureRecord, read_figures
from groupppo.draw.wording import number, percentage
from groupppo.errors import BadInput
from groupppo.matrix import CellPlan
from groupppo.records.plain_json import read_object
from groupppo.report.sections import Results
from groupppo.studies.figures_scores import PROXY_LABELS, setting_label
from groupppo.studies.record import RECORD
from groupppo.studies.tables import COLUMNS, FIGURES, NO_RULE, read_table
from groupppo.tables.keys import plans_begun

RERUN = "run the study again: snakemake studies."


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
    tables: dict[str, Table]
    files: list[str]


Scope = Callable[[dict[str, Any], Benchmark, CellPlan], str]
"""What a study of a task and model ran on, in words, from its record."""
Tables = Callable[[Path], dict[str, Table]]
"""The tables of the page from a study's folder, by their label."""


MOST_STUDIES = 3
"""Tasks and models whose study the page shows; the folders of the others are named."""


def sections(results: Results) -> Iterator[Section]:
    limits = "The numbers are this one policy's; intervals cover responses or batches, not training seeds."
    blocks = study_blocks(grouping_studies(results.folder, results.benchmark), limits)
    if blocks:
        yield Section("study", "Study: what the grouping rules do", "Grouping study", 60, blocks)


def study_blocks(studies: list[Study], limits: str) -> list[Block]:
    """The first MOST_STUDIES of one kind, and where the others are; empty where there is none."""
    blocks: list[Block] = []
    for study in studies[:MOST_STUDIES]:
        blocks += [Heading(study.place)] if study.place else []
        blocks.append(Text(f"{study.scope} {limits}"))
        blocks += [FigureBlock(record, f"{study.folder}/{FIGURES}", f"{study.anchor}-") for record in study.figures]
        blocks += study.tables.values()
        links = [Link(file, f"{study.folder}/{file}") for file in study.files]
        tables = tuple(piece for link in links for piece in (link, ", "))[:-1]
        run = Link("study.json", f"{study.folder}/study.json")
        blocks.append(Text(("Tables: ", *tables, ". What was run: ", run, "."), "small"))
    left = studies[MOST_STUDIES:]
    if left:
        folders = [Link(study.folder, f"{study.folder}/study.json") for study in left[:500]]
        named = tuple(piece for link in folders for piece in (link, ", "))[:-1]
        blocks.append(
            Text((f"No room for the studies of {len(left)} more tasks and models; they are in ", *named, "."))
        )
    return blocks


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


def _tables(folder: Path) -> dict[str, Table]:
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


def _agreement(rows: pd.DataFrame) -> Table:
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
    return Table("Agreement with exact score vectors", caption, head, body)


def _directions(rows: pd.DataFrame) -> Table:
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
    return Table("Update directions", caption, head, body)


def spread(row: pd.Series, name: str) -> TextCell:
    """Such as 0.503 over [0.430, 0.576]; the value alone where there is no interval."""
    return with_interval(*(row[column] for column in (name, f"{name}_low", f"{name}_high")))
