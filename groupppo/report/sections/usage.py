"""What the runs took: time, energy, throughput and utilisation by arm; a number that no sensor gave has its reason."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, List, Section, Table, Text, TextCell
from groupppo.draw.captions import place
from groupppo.draw.wording import MISSING, in_bytes, most_frequent, number, percentage, seconds_text
from groupppo.report.sections import Results
from groupppo.tables.schema import FINISHED

MOST_LINES = 100
"""Rows by task, model and arm; of more there is one for each arm."""
JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True)
class _Column:
    """`total`: from the values of an arm's runs to one; `form` puts it into words."""

    name: str
    head: str
    total: Callable[[pd.Series], float]
    form: Callable[[float], str]


def _energy(joules: float) -> str:
    hours = joules / JOULES_PER_WATT_HOUR
    return f"{number(hours / 1000)} kWh" if hours >= 1000 else f"{number(hours)} Wh"


COLUMNS = (
    _Column("wall_seconds", "Run time", pd.Series.sum, seconds_text),
    _Column("gpu_hours", "GPU-hours", pd.Series.sum, number),
    _Column("energy_joules", "GPU energy", pd.Series.sum, _energy),
    _Column("cpu_energy_joules", "Processor energy", pd.Series.sum, _energy),
    _Column("tokens_per_second", "Tokens per second", pd.Series.mean, number),
    _Column("mfu", "MFU", pd.Series.mean, percentage),
    _Column("gpu_utilisation", "GPU utilisation", pd.Series.mean, percentage),
    _Column("gpu_peak_bytes", "GPU memory", pd.Series.max, in_bytes),
)


def sections(results: Results) -> Iterator[Section]:
    known = results.runs[results.runs["arm"].isin(list(results.benchmark.arms)) & results.runs["seed"].notna()]
    blocks: list[Block] = [usage_table(known, results.benchmark)]
    missing = reasons(known)
    if missing:
        blocks += [Text("Why numbers are missing, by column of the table runs:"), List(missing)]
    yield Section("usage", "What the runs took", "What the runs took", 85, blocks, markdown=True)


def usage_table(runs: pd.DataFrame, benchmark: Benchmark) -> Table:
    """What the runs of the matrix took, by task, model and arm, or by arm where that would be more than MOST_LINES."""
    plans = benchmark.plans()
    by_cell = sum(len(plan.arms) for plan in plans) <= MOST_LINES
    if by_cell:
        rows = [
            _row(benchmark.arms[arm].title, place(benchmark, plan.task, plan.model), own[own["arm"] == arm])
            for plan in plans
            for own in [runs[(runs["task"] == plan.task) & (runs["model"] == plan.model)]]
            for arm in plan.arms
        ]
    else:
        rows = [_row(arm.title, "", runs[runs["arm"] == name]) for name, arm in benchmark.arms.items()]
    pooled = "" if by_cell else " over all tasks and models; the table runs has each"
    caption = (
        f"By arm{pooled}. Run time, GPU-hours and energy are sums over runs, start-up and excluded runs included; "
        "memory is the largest of any run, the rest means over runs. Processor energy is the whole machine's."
    )
    return Table("What the runs took", caption, ["Arm", "Finished", *(column.head for column in COLUMNS)], rows)


def _row(title: str, where: str, runs: pd.DataFrame) -> list[TextCell]:
    finished, excluded = int((runs["status"] == FINISHED).sum()), int((~runs["admissible"].astype(bool)).sum())
    count = TextCell(f"{finished:,} of {len(runs):,}", f"{excluded:,} excluded" if excluded else "")
    return [TextCell(title, where), count, *(_cell(column, runs) for column in COLUMNS)]


def _cell(column: _Column, runs: pd.DataFrame) -> TextCell:
    values = runs[column.name].dropna().astype(float)
    if values.empty:
        return TextCell(MISSING)
    under = "" if len(values) == len(runs) else f"{len(values)} of {len(runs)} runs"
    return TextCell(column.form(float(column.total(values))), under)


def reasons(runs: pd.DataFrame) -> list[str]:
    """Each reason once, the most frequent first, with the number of runs."""
    counted: Counter[str] = Counter(runs["usage_reason"].dropna().astype(str))
    timeless, bare = runs["wall_seconds"].isna(), runs["usage_reason"].isna()
    counted["every number: the run left no record"] = int((timeless & bare).sum())
    counted["wall_seconds: the run recorded none"] = int((timeless & ~bare).sum())
    return most_frequent(+counted, "run", "the table runs")
