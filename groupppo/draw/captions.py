"""Sentences that captions share: how many seeds there are, what the bands are, one clause for each arm."""

from collections.abc import Callable

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.style import ARM_KEYS, MOST_BANDED, MOST_FACETS, MOST_SINGLE, START, arms_in, cell_title, cells
from groupppo.draw.wording import plural

POOLED = "their width at a step uses the variance over seeds averaged over the nearest quarter of the run"
ITEMS = "Intervals cover training seeds; how much of a claim's interval items make is in the table of item noise."


def excluded(runs: pd.DataFrame) -> str:
    """A sentence on the runs that are not drawn, or nothing when all are."""
    count = int((~runs["admissible"].astype(bool)).sum())
    verb = "is" if count == 1 else "are"
    return f"{plural(count, 'run')} excluded from the evidence {verb} not drawn." if count else ""


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


def seed_lines(data: pd.DataFrame) -> str:
    arms = data.groupby(["task", "model"], observed=True)["arm"].nunique().max()
    crowd = f" Of more than {MOST_BANDED} arms in a panel the means alone are drawn." if arms > MOST_BANDED else ""
    if _counts(data).max() > MOST_SINGLE:
        return f"Lines are means over seeds; single seeds are thin lines where an arm has at most {MOST_SINGLE}.{crowd}"
    return f"Thin lines are single seeds, thick lines their mean.{crowd}"


def band(rows: pd.DataFrame, benchmark: Benchmark, meaning: str) -> str:
    """Number of seeds, and what the band is or why an arm has none."""
    counts = _counts(rows)
    if counts.max() < 2:
        return "One seed in each arm, so there is no interval over seeds."
    single = sorted(set(counts.index.get_level_values("arm")[counts < 2]))
    titles = ", ".join(benchmark.arms[arm].title for arm in single)
    without = f"; none for {titles}, with one seed" if single else ""
    sentence = seeds_in_words(rows, benchmark)
    return f"{sentence[0].upper()}{sentence[1:]}; {meaning}{without}."


def seeds_in_words(rows: pd.DataFrame, benchmark: Benchmark) -> str:
    counts = _counts(rows)
    if counts.nunique() == 1:
        return f"{plural(counts.iloc[0], 'seed')} in each arm"
    by_arm = counts.groupby(level="arm").agg(["min", "max"])
    shown = []
    for arm in arms_in(rows, benchmark):
        least, most = by_arm.loc[arm]
        span = plural(least, "seed") if least == most else f"{least} to {most} seeds"
        shown.append(f"{benchmark.arms[arm].title} has {span}")
    return ", ".join(shown)


def _counts(rows: pd.DataFrame) -> pd.Series:
    """Seeds by task, model and arm. A mean knows how many seeds it is of, also where they are not drawn."""
    runs = rows[rows["arm"] != START]
    means = runs[runs["seed"].isna()] if "seeds" in runs else runs[:0]
    if len(means):
        return means.groupby(ARM_KEYS, observed=True)["seeds"].max()
    return runs.groupby(ARM_KEYS, observed=True)["seed"].nunique()


def each(rows: pd.DataFrame, benchmark: Benchmark, describe: Callable[[pd.DataFrame, str], str]) -> str:
    """One clause for each arm, one sentence for each task and model."""
    found = cells(rows, benchmark)
    sentences = []
    for cell in found:
        own = cell.rows(rows)
        clauses = [describe(own[own["arm"] == arm], benchmark.arms[arm].title) for arm in arms_in(own, benchmark)]
        title = f"{cell_title(cell, benchmark)}: " if len(found) > 1 else ""
        sentences.append(f"{title}{'; '.join(clauses)}.")
    return " ".join(sentences)
