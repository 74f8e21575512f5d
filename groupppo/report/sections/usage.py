"""What the runs took: time, energy, throughput and utilisation by arm; a number that no sensor gave has its reason."""

from collections import Counter
from collections.abc import Callable, Iterator

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, List, Section, Table, Text, TextCell
from groupppo.draw.figures import place
from groupppo.draw.wording import MISSING, in_bytes, most_frequent, number, percentage, seconds_text
from groupppo.report.sections import Results
from groupppo.tables.schema import FINISHED


def _watt_hours(joules: float) -> str:
    hours = joules / 3600
    return f"{number(hours / 1000)} kWh" if hours >= 1000 else f"{number(hours)} Wh"


COLUMNS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "Run time": ("wall_seconds", "sum", seconds_text),
    "GPU-hours": ("gpu_hours", "sum", number),
    "GPU energy": ("energy_joules", "sum", _watt_hours),
    "Processor energy": ("cpu_energy_joules", "sum", _watt_hours),
    "Tokens per second": ("tokens_per_second", "mean", number),
    "MFU": ("mfu", "mean", percentage),
    "GPU utilisation": ("gpu_utilisation", "mean", percentage),
    "GPU memory": ("gpu_peak_bytes", "max", in_bytes),
}
"""Of the table, by heading: a column of the runs, how an arm's are taken together, and in which form."""


def sections(results: Results) -> Iterator[Section]:
    known = results.runs[results.runs["arm"].isin(list(results.benchmark.arms)) & results.runs["seed"].notna()]
    blocks: list[Block] = [usage_table(known, results.benchmark)]
    missing = reasons(known)
    if missing:
        blocks += [Text("Why numbers are missing, by column of the table runs:"), List(missing)]
    yield Section("usage", "What the runs took", "What the runs took", 85, blocks, markdown=True)


def usage_table(runs: pd.DataFrame, benchmark: Benchmark) -> Table:
    """What the runs of the matrix took, by task, model and arm."""
    rows = []
    for plan in benchmark.plans():
        cell = runs[(runs["task"] == plan.task) & (runs["model"] == plan.model)]
        for arm in plan.arms:
            own = cell[cell["arm"] == arm]
            finished, excluded = (own["status"] == FINISHED).sum(), (~own["admissible"].astype(bool)).sum()
            title = TextCell(benchmark.arms[arm].title, place(benchmark, plan.task, plan.model))
            count = TextCell(f"{finished:,} of {len(own):,}", f"{excluded:,} excluded" if excluded else "")
            rows.append([title, count, *(_cell(own[name], how, form) for name, how, form in COLUMNS.values())])
    caption = (
        "By arm. Run time, GPU-hours and energy are sums over runs, start-up and excluded runs included; memory is the "
        "largest of any run, the rest means over runs. Processor energy is the whole machine's."
    )
    return Table("What the runs took", caption, ["Arm", "Finished", *COLUMNS], rows, whole="tables/runs.parquet")


def _cell(column: pd.Series, how: str, form: Callable[[float], str]) -> TextCell:
    values = column.dropna().astype(float)
    if values.empty:
        return TextCell(MISSING)
    return TextCell(form(values.agg(how)), "" if len(values) == len(column) else f"{len(values)} of {len(column)} runs")


def reasons(runs: pd.DataFrame) -> list[str]:
    """Each reason once, the most frequent first, with the number of runs."""
    counted: Counter[str] = Counter(runs["usage_reason"].dropna().astype(str))
    timeless, bare = runs["wall_seconds"].isna(), runs["usage_reason"].isna()
    counted["every number: the run left no record"] = int((timeless & bare).sum())
    counted["wall_seconds: the run recorded none"] = int((timeless & ~bare).sum())
    return most_frequent(+counted, "run", "the table runs")
