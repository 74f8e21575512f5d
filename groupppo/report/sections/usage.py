"""What the runs took: time, energy, throughput and utilisation by arm; a number that no sensor gave has its reason."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING, in_bytes, number, percentage, plural, seconds_text
from groupppo.report.sections.runs import place
from groupppo.report.sections.study import TextCell, TextTable
from groupppo.tables.schema import FINISHED, USAGE_FIGURES

MOST_LINES = 100
"""Rows by task, model and arm; of more there is one for each arm."""
MOST_REASONS = 20
JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True)
class Usage:
    """The table, and why some of its numbers are missing: a reason, with the columns and the number of runs."""

    table: TextTable
    missing: list[str]


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
_TITLES = {column.name: column.head for column in COLUMNS}
_NAMES = "|".join(USAGE_FIGURES)
_REASON = re.compile(rf"(?:^|; )((?:{_NAMES})(?:, (?:{_NAMES}))*): ")
"""How `usage_reason` begins a reason: the columns that it is the reason of."""


def usage(runs: pd.DataFrame, benchmark: Benchmark) -> Usage:
    """What the runs of the matrix took, by task, model and arm, or by arm where that would be more than MOST_LINES.

    Args:
        runs: the tidy table.
    """
    known = runs[runs["arm"].isin(list(benchmark.arms)) & runs["seed"].notna()]
    plans = benchmark.plans()
    by_cell = sum(len(plan.arms) for plan in plans) <= MOST_LINES
    rows = []
    for plan in plans if by_cell else ():
        own = known[(known["task"] == plan.task) & (known["model"] == plan.model)]
        where = place(benchmark, plan.task, plan.model)
        rows += [_row(benchmark.arms[name].title, where, own[own["arm"] == name]) for name in plan.arms]
    if not by_cell:
        rows = [_row(arm.title, "", known[known["arm"] == name]) for name, arm in benchmark.arms.items()]
    pooled = "" if by_cell else " over all tasks and models; the table runs has each"
    caption = (
        f"By arm{pooled}. Run time, GPU-hours and energy are sums over runs, start-up and excluded runs included; "
        "memory is the largest of any run, the rest means over runs. Processor energy is the whole machine's."
    )
    return Usage(TextTable(caption, ["Arm", "Finished", *_TITLES.values()], rows), _missing(known))


def _row(title: str, place: str, runs: pd.DataFrame) -> list[TextCell]:
    finished, excluded = int((runs["status"] == FINISHED).sum()), int((~runs["admissible"].astype(bool)).sum())
    told = f"{excluded:,} excluded" if excluded else ""
    count = TextCell(f"{finished:,} of {len(runs):,}", told)
    return [TextCell(title, place), count, *(_cell(column, runs) for column in COLUMNS)]


def _cell(column: _Column, runs: pd.DataFrame) -> TextCell:
    values = runs[column.name].dropna().astype(float)
    if values.empty:
        return TextCell(MISSING)
    under = "" if len(values) == len(runs) else f"{len(values)} of {len(runs)} runs"
    return TextCell(column.form(float(column.total(values))), under)


def _missing(runs: pd.DataFrame) -> list[str]:
    """Each reason once, the most frequent first, with its columns and the number of runs."""
    counted: Counter[tuple[str, str]] = Counter()
    for reason, count in runs["usage_reason"].dropna().value_counts().items():
        for names, text in _reasons(str(reason)):
            counted[names, text] += int(count)
    timeless, bare = runs["wall_seconds"].isna(), runs["usage_reason"].isna()
    counted["Every number", "the run left no record"] = int((timeless & bare).sum())
    counted["Run time", "the run recorded none"] = int((timeless & ~bare).sum())
    counted = +counted
    told = [f"{names}: {text} ({plural(count, 'run')})" for (names, text), count in counted.most_common(MOST_REASONS)]
    more = len(counted) - MOST_REASONS
    return [*told, f"and {plural(more, 'more reason')}; the table runs has all"] if more > 0 else told


def _reasons(text: str) -> list[tuple[str, str]]:
    """(columns of the page, reason) of each reason in a `usage_reason`; of a text without columns, all columns."""
    starts = list(_REASON.finditer(text))
    if not starts:
        return [("All but run time", text)]
    ends = [*(start.start() for start in starts[1:]), len(text)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        heads = [_TITLES[name] for name in start.group(1).split(", ") if name in _TITLES]
        if heads:
            found.append((", ".join(heads), text[start.end() : end]))
    return found
