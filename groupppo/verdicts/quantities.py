"""Measured quantities: one small function each, from rows of a tidy table to one value per seed.

Every function takes rows that `Sample.select` has picked and returns a Series indexed by training seed. A seed whose
value cannot be formed (an arm without rows, a ratio with zero) is missing, never zero.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from groupppo.tables import Tables
from groupppo.verdicts.arrivals import METRICS, arrivals


@dataclass(frozen=True)
class Sample:
    """What is measured where.

    Args:
        task, model: the cell of the matrix.
        arm: the arm under test.
        against: the arm it is paired with by seed; None where nothing is compared.
        stage, metric: of the table's rows, where the quantity has them.
        warmup_steps: steps at the start of each run that are left out.
        metrics: those that a quantity of several reads.
    """

    task: str
    model: str
    arm: str
    against: str | None = None
    stage: str | None = None
    metric: str | None = None
    warmup_steps: int = 0
    metrics: tuple[str, ...] = ()

    def query(self) -> str:
        """The measured rows as a `DataFrame.query` expression: the evidence that a verdict names."""
        arms = [self.arm] if self.against is None else [self.arm, self.against]
        parts = [f"task == {self.task!r}", f"model == {self.model!r}", f"arm in {arms!r}"]
        parts += [f"stage == {self.stage!r}"] if self.stage else []
        parts += [f"metric == {self.metric!r}"] if self.metric else []
        parts += [f"metric in {list(self.metrics)!r}"] if self.metrics else []
        parts += [f"step > {self.warmup_steps}"] if self.warmup_steps else []
        return " and ".join(parts)

    def select(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.query(self.query(), engine="python")


Measure = Callable[[pd.DataFrame, Sample], pd.Series]


@dataclass(frozen=True)
class Quantity:
    """How a quantity is measured and read.

    Args:
        measure: from rows and their sample to one value per seed.
        table: the tidy table it reads.
        unit: unit of its values.
        ratio: whether its mean and interval are formed on the log scale.
        counted: whether it counts things, so that seeds may agree to the last digit; timings or accuracies that do
            are copies of one run.
        needs: which of "against", "stage" and "metric" a claim must state.
        stage: the stage it is about, where that is part of the quantity.
        identity: why its claim is true by arithmetic, where it is.
        metrics: of the table `steps`, where it reads several.
        ordinal: whether its values are ratios of costs that may be infinite, so that only their order counts; a pair
            of two infinite costs has no ratio (NaN).
    """

    measure: Measure
    table: str
    unit: str
    ratio: bool = False
    counted: bool = False
    needs: frozenset[str] = frozenset()
    stage: str | None = None
    identity: str | None = None
    metrics: tuple[str, ...] = ()
    ordinal: bool = False

    def values(self, tables: Tables, sample: Sample, seeds: Collection[int]) -> dict[int, float]:
        """The value of every seed of `seeds` that has one: finite, and above zero where the quantity is a ratio.

        An ordinal quantity has zeros, infinities and NaN among its values too.
        """
        measured = self.measure(sample.select(tables.cell(self.table, sample.task, sample.model)), sample).to_dict()
        known = {seed: float(measured[seed]) for seed in seeds if seed in measured}
        if self.ordinal:
            return known
        return {s: v for s, v in known.items() if np.isfinite(v) and (v > 0 or not self.ratio)}


def density(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Endpoints / valid response tokens, pooled over steps."""
    totals = rows.groupby("seed")[["endpoints", "tokens"]].sum()
    return totals["endpoints"] / totals["tokens"]


def compression(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Share of positions dropped: 1 - density."""
    return 1 - density(rows, sample)


def tokens_per_endpoint(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Valid response tokens / endpoints: 1 / density."""
    return 1 / density(rows, sample)


def stage_seconds_ratio(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Speed-up: median seconds of the stage over steps, of the compared arm / of the arm under test."""
    medians = _medians(rows, sample, "seconds")
    return medians[sample.against] / medians[sample.arm]


def rise_bytes_ratio(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Median rise of memory over the stage's entry, of the arm under test / of the compared arm."""
    medians = _medians(rows, sample, "rise_bytes")
    return medians[sample.arm] / medians[sample.against]


def peak_bytes_ratio(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Largest memory in any step, of the arm under test / of the compared arm."""
    peaks = rows.groupby(["seed", "arm"])["peak_bytes"].max().unstack("arm")
    peaks = peaks.reindex(columns=[sample.arm, sample.against]).astype(float)
    return peaks[sample.arm] / peaks[sample.against]


def cost_to_target(unit: str) -> Measure:
    """The compared arm's cost to its own late reward / that of the arm under test: above 1 where the latter is sooner.

    See `arrivals`; a run that never gets there costs infinity.

    Args:
        unit: "steps", "seconds" or "tokens" (of responses), counted from the first step on.
    """

    def measure(rows: pd.DataFrame, sample: Sample) -> pd.Series:
        costs = {run: float(getattr(arrival, unit)) for run, arrival in arrivals(rows, str(sample.against)).items()}
        ratios = {}
        for seed in sorted({seed for _, seed in costs}):
            other, mine = costs.get((str(sample.against), seed)), costs.get((sample.arm, seed))
            if other is not None and mine is not None:
                ratios[seed] = math.nan if math.isinf(other) and math.isinf(mine) else other / mine
        return pd.Series(ratios, dtype=float)

    return measure


def accuracy_difference(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Held-out accuracy of the arm under test - of the compared arm."""
    values = rows.pivot(index="seed", columns="arm", values="value")
    values = values.reindex(columns=[sample.arm, sample.against])
    return values[sample.arm] - values[sample.against]


def _medians(rows: pd.DataFrame, sample: Sample, column: str) -> pd.DataFrame:
    """Medians over steps, shape (seeds, the two arms). Medians, because single steps wait on other processes."""
    medians = rows.groupby(["seed", "arm"])[column].median().unstack("arm")
    return medians.reindex(columns=[sample.arm, sample.against]).astype(float)


QUANTITIES: dict[str, Quantity] = {
    "compression": Quantity(compression, "groups", "share of positions", counted=True),
    "density": Quantity(density, "groups", "share of positions", counted=True),
    "tokens_per_endpoint": Quantity(
        tokens_per_endpoint,
        "groups",
        "tokens per endpoint",
        ratio=True,
        counted=True,
        identity="tokens / endpoints is 1 / density, the compression written another way, and measures no cost",
    ),
    "stage_seconds_ratio": Quantity(
        stage_seconds_ratio, "stages", "x", ratio=True, needs=frozenset({"against", "stage"})
    ),
    "step_seconds_ratio": Quantity(
        stage_seconds_ratio, "stages", "x", ratio=True, needs=frozenset({"against"}), stage="step"
    ),
    "rise_bytes_ratio": Quantity(
        rise_bytes_ratio, "stages", "x", ratio=True, counted=True, needs=frozenset({"against", "stage"})
    ),
    "peak_bytes_ratio": Quantity(
        peak_bytes_ratio, "stages", "x", ratio=True, counted=True, needs=frozenset({"against"}), stage="step"
    ),
    **{
        f"{unit}_to_target_ratio": Quantity(
            cost_to_target(unit),
            "steps",
            "x",
            ratio=True,
            needs=frozenset({"against"}),
            metrics=METRICS,
            ordinal=True,
        )
        for unit in ("steps", "seconds", "tokens")
    },
    "accuracy_difference": Quantity(
        accuracy_difference, "evals", "difference in accuracy", needs=frozenset({"against", "metric"})
    ),
}
