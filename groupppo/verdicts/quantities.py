"""Measured quantities: one small function each, from rows of a tidy table to one value per seed.

Every function takes rows that `Sample.select` has picked and returns a Series indexed by training seed. A seed whose
value cannot be formed (an arm without rows, a ratio with zero) is absent, never zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from groupppo.report.tables import Tables


@dataclass(frozen=True)
class Sample:
    """What is measured where.

    Args:
        task, model: the cell of the matrix.
        arm: the arm under test.
        against: the arm it is paired with by seed; None where nothing is compared.
        stage, metric: of the table's rows, where the quantity has them.
        warmup_steps: steps at the start of each run that are left out.
    """

    task: str
    model: str
    arm: str
    against: str | None = None
    stage: str | None = None
    metric: str | None = None
    warmup_steps: int = 0

    def query(self) -> str:
        """The rows that are measured, as a `DataFrame.query` expression: the evidence behind a verdict."""
        arms = [self.arm] if self.against is None else [self.arm, self.against]
        parts = [f"task == {self.task!r}", f"model == {self.model!r}", f"arm in {arms!r}"]
        parts += [f"stage == {self.stage!r}"] if self.stage else []
        parts += [f"metric == {self.metric!r}"] if self.metric else []
        parts += [f"step > {self.warmup_steps}"] if self.warmup_steps else []
        return " and ".join(parts)

    def select(self, table: pd.DataFrame, seeds: tuple[int, ...]) -> pd.DataFrame:
        rows = table.query(self.query(), engine="python")
        return rows[rows["seed"].isin(seeds)]


Measure = Callable[[pd.DataFrame, Sample], pd.Series]


@dataclass(frozen=True)
class Quantity:
    """How a quantity is measured and read.

    Args:
        measure: rows and sample to one value per seed.
        table: the tidy table it reads.
        unit: unit of its values.
        ratio: whether its mean and interval are formed on the log scale.
        counted: whether it counts things, so that two seeds may agree exactly; equal timings or accuracies in every
            seed are copies of one run.
        needs: which of `against`, `stage` and `metric` it needs.
        identity: why the quantity cannot fail its claim, where that is so.
    """

    measure: Measure
    table: str
    unit: str
    ratio: bool = False
    counted: bool = False
    needs: frozenset[str] = frozenset()
    identity: str | None = None

    def values(self, tables: Tables, sample: Sample, seeds: tuple[int, ...]) -> pd.Series:
        """One finite value per seed of `seeds`, in their order; above zero where the quantity is a ratio."""
        if self.table == "stages" and self.measure is step_seconds_ratio:
            sample = WHOLE(sample)
        measured = self.measure(sample.select(getattr(tables, self.table), seeds), sample).reindex(list(seeds))
        return measured.dropna()


def density(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    """Endpoints / valid response tokens, pooled over steps."""
    totals = rows.groupby("seed")[["endpoints", "tokens"]].sum()
    return totals["endpoints"] / totals["tokens"]
