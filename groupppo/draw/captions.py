"""Sentences that captions share: how many seeds there are, what the bands are, one clause for each arm."""

from collections.abc import Callable

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.style import MOST_BANDED, MOST_FACETS, MOST_SINGLE, START, Cell, arms_in, cell_title, cells
from groupppo.draw.wording import plural

POOLED = "their width at a step uses the variance over seeds averaged over the nearest quarter of the run"
ITEMS = "Intervals cover training seeds; how much of a claim's interval items make is in the table of item noise."


def excluded(runs: pd.DataFrame) -> str:
    """A sentence on the runs that are not drawn, or nothing when all are."""
    count = int((~runs["admissible"].astype(bool)).sum())
    return (
        f"{plural(count, 'run')} excluded from the evidence {'is' if count == 1 else 'are'} not drawn." if count else ""
    )


def place(benchmark: Benchmark, task: str, model: str) -> str:
    """Task and model in words; empty where the benchmark has one of each."""
    if len(benchmark.tasks) * len(benchmark.models) == 1:
        return ""
    homes = ((benchmark.tasks, task), (benchmark.models, model))
    return ", ".join(home[name].title if name in home else name for home, name in homes)


def left_out(facets: int, what: str) -> str:
    """A sentence on facets that are not drawn, or nothing when all are."""
    if facets <= MOST_FACETS:
        return ""
    return f"Drawn are the first {MOST_FACETS} of {facets:,} {what}, in the benchmark's order; the CSV has all."


def many_seeds(data: pd.DataFrame) -> bool:
    """Whether some arm has more seeds than are drawn one by one."""
    return max(_counts(data).values()) > MOST_SINGLE


def seed_lines(data: pd.DataFrame) -> str:
    crowd = f" Of more than {MOST_BANDED} arms in a panel the means alone are drawn." if _crowded(data) else ""
    if many_seeds(data):
        return f"Lines are means over seeds; single seeds are thin lines where an arm has at most {MOST_SINGLE}.{crowd}"
    return f"Thin lines are single seeds, thick lines their mean.{crowd}"


def _crowded(data: pd.DataFrame) -> bool:
    return int(data.groupby(["task", "model"], observed=True)["arm"].nunique().max()) > MOST_BANDED


def seed_points(data: pd.DataFrame) -> str:
    if many_seeds(data):
        return "Wide bars hold 90 % of an arm's runs; bars beside them are means over seeds."
    return "Each point is one run; grey lines join the runs of one seed. Bars beside the points are means over seeds."


def band(rows: pd.DataFrame, benchmark: Benchmark, meaning: str) -> str:
    """Number of seeds, and what the band is or why an arm has none."""
    counts = _counts(rows)
    if max(counts.values()) < 2:
        return "One seed in each arm, so there is no interval over seeds."
    single = sorted({arm for (_, arm), n in counts.items() if n < 2})
    without = f"; none for {_titles(single, benchmark)}, with one seed" if single else ""
    sentence = seeds_in_words(rows, benchmark)
    return f"{sentence[0].upper()}{sentence[1:]}; {meaning}{without}."


def seeds_in_words(rows: pd.DataFrame, benchmark: Benchmark) -> str:
    counts = _counts(rows)
    if len(set(counts.values())) == 1:
        return f"{plural(next(iter(counts.values())), 'seed')} in each arm"
    shown = []
    for arm in arms_in(rows, benchmark):
        own = [n for (_, name), n in counts.items() if name == arm]
        span = plural(own[0], "seed") if len(set(own)) == 1 else f"{min(own)} to {max(own)} seeds"
        shown.append(f"{benchmark.arms[arm].title} has {span}")
    return ", ".join(shown)


def _counts(rows: pd.DataFrame) -> dict[tuple[Cell, str], int]:
    runs = rows[rows["arm"] != START]
    means = runs[runs["seed"].isna()] if "seeds" in runs else runs[:0]
    by_arm = (means if len(means) else runs).groupby(["task", "model", "arm"], observed=True)
    # The mean knows how many seeds it is of, also where they are not drawn.
    grouped = by_arm["seeds"].max() if len(means) else by_arm["seed"].nunique()
    return {(Cell(task, model), arm): int(n) for (task, model, arm), n in grouped.items()}


def _titles(arms: list[str], benchmark: Benchmark) -> str:
    return ", ".join(benchmark.arms[arm].title for arm in arms)


def each(rows: pd.DataFrame, benchmark: Benchmark, describe: Callable[[pd.DataFrame, str], str]) -> str:
    """One clause for each arm, one sentence for each task and model."""
    facets = cells(rows, benchmark)
    sentences = []
    for cell in facets:
        own = cell.rows(rows)
        clauses = [describe(own[own["arm"] == arm], benchmark.arms[arm].title) for arm in arms_in(own, benchmark)]
        place = f"{cell_title(cell, benchmark)}: " if len(facets) > 1 else ""
        sentences.append(f"{place}{'; '.join(clauses)}.")
    return " ".join(sentences)
