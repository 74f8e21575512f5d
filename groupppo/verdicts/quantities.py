"""Measured quantities: of training runs (one value per seed), of a profile (`COSTS`), of a study's table (`SHARES`).

A quantity of training runs is one small function from rows of a tidy table, which `Sample.select` has picked, to a
Series indexed by training seed. A seed whose value cannot be formed (an arm without rows, a ratio with zero) is
missing, never zero.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from groupppo.stats.targets import Arrival, time_to_target
from groupppo.tables import Tables

TARGET_METRICS = ("reward/mean", "elapsed_seconds", "tokens/response")
TARGET_SHARE, QUARTER = 0.95, 4
"""Of the reference's gain: its mean reward over the last quarter of its run - over the first one."""


@dataclass(frozen=True)
class Sample:
    """What is measured where: in a cell, of an arm and of the one it is paired with by seed (None for no comparison).

    `stage`, `metric` and `metrics` are of the table's rows, where the quantity has them.
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
    """How a quantity of training runs is measured and read.

    Args:
        what: one sentence for readers.
        measure: from rows of `table` and their sample to one value per seed.
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

    what: str
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
    return 1 - density(rows, sample)


def tokens_per_endpoint(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    return 1 / density(rows, sample)


def ratio(rows: pd.DataFrame, sample: Sample, column: str, over_steps: str = "median") -> pd.Series:
    """Of the arm under test / of the compared arm; medians of costs, because single steps wait on other processes."""
    arm, against = _by_arm(rows.groupby(["seed", "arm"])[column].agg(over_steps), sample)
    return arm / against


def speed_up(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    arm, against = _by_arm(rows.groupby(["seed", "arm"])["seconds"].median(), sample)
    return against / arm


def accuracy_difference(rows: pd.DataFrame, sample: Sample) -> pd.Series:
    arm, against = _by_arm(rows.set_index(["seed", "arm"])["value"], sample)
    return arm - against


def _by_arm(values: pd.Series, sample: Sample) -> tuple[pd.Series, pd.Series]:
    """Of values by seed and arm, those of the arm under test and of the compared one, each by seed."""
    wide = values.unstack("arm").reindex(columns=[sample.arm, sample.against]).astype(float)
    return wide[sample.arm], wide[sample.against]


def cost_to_target(rows: pd.DataFrame, sample: Sample, unit: str) -> pd.Series:
    """Ratios by `arrivals`; a run that never gets there costs infinity. `unit` is "steps", "seconds" or "tokens"."""
    found, against = arrivals(rows, str(sample.against)), str(sample.against)

    def cost(arm: str, seed: int) -> float:
        return float(getattr(found[arm, seed], unit))

    seeds = sorted(seed for arm, seed in found if arm == sample.arm and (against, seed) in found)
    # Of two infinite costs the ratio is nan.
    return pd.Series({seed: cost(against, seed) / cost(sample.arm, seed) for seed in seeds}, dtype=float)


def arrivals(steps: pd.DataFrame, reference: str) -> dict[tuple[str, int], Arrival]:
    """When each run reaches the reward that the reference's run of its seed ends with, by arm and seed.

    A target is TARGET_SHARE of the way from the reference's mean reward over the first quarter of its run to that over
    the last, and a run arrives with its mean over a quarter: a few lucky steps, which any run has, are no arrival.
    Runs without the metrics, and seeds whose reference is missing or gained nothing, are left out.

    Args:
        steps: rows of the table `steps` of one task and model with TARGET_METRICS.
        reference: the arm that sets the targets.
    """
    rows = steps[steps["metric"].isin(TARGET_METRICS)].astype({"arm": str, "metric": str})
    wide = rows.pivot(index=["arm", "seed", "step"], columns="metric", values="value")
    if not set(TARGET_METRICS) <= set(wide.columns):
        return {}
    wide = wide.dropna().sort_index()
    values = wide[list(TARGET_METRICS)].to_numpy(float)
    runs = {key: values[places] for key, places in wide.groupby(["arm", "seed"]).indices.items()}
    targets = {}
    for (arm, seed), run in runs.items():
        window = max(1, len(run) // QUARTER)
        first, last = float(run[:window, 0].mean()), float(run[-window:, 0].mean())
        if arm == reference and last > first:
            targets[seed] = first + TARGET_SHARE * (last - first)
    found = {}
    for (arm, seed), run in runs.items():
        if seed in targets:
            reward, elapsed, tokens = run.T
            window, seconds = max(1, len(run) // QUARTER), np.diff(elapsed, prepend=0.0)
            found[arm, int(seed)] = time_to_target(reward, seconds, tokens, targets[seed], window)
    return found


_of_groups = partial(Quantity, table="groups", counted=True)
_paired = partial(Quantity, unit="x", ratio=True, needs=frozenset({"against"}))
_of_stage = partial(_paired, table="stages", needs=frozenset({"against", "stage"}))
_SPEED_UP = "Speed-up: median seconds of the stage over steps, of the compared arm / of the arm under test."

QUANTITIES: dict[str, Quantity] = {
    "compression": _of_groups("Share of positions dropped: 1 - density.", compression, unit="share of positions"),
    "density": _of_groups("Endpoints / valid response tokens, pooled over steps.", density, unit="share of positions"),
    "tokens_per_endpoint": _of_groups(
        "Valid response tokens / endpoints: 1 / density.",
        tokens_per_endpoint,
        unit="tokens per endpoint",
        ratio=True,
        identity="tokens / endpoints is 1 / density, the compression written another way, and measures no cost",
    ),
    "stage_seconds_ratio": _of_stage(_SPEED_UP, speed_up),
    "step_seconds_ratio": _paired(_SPEED_UP, speed_up, table="stages", stage="step"),
    "rise_bytes_ratio": _of_stage(
        "Median rise of memory over the stage's entry, of the arm under test / of the compared arm.",
        partial(ratio, column="rise_bytes"),
        counted=True,
    ),
    "peak_bytes_ratio": _paired(
        "Largest memory in any step, of the arm under test / of the compared arm.",
        partial(ratio, column="peak_bytes", over_steps="max"),
        table="stages",
        counted=True,
        stage="step",
    ),
    **{
        f"{unit}_to_target_ratio": _paired(
            "The compared arm's cost to its own late reward / that of the arm under test: above 1 where the latter is "
            f"sooner. In {unit}.",
            partial(cost_to_target, unit=unit),
            table="steps",
            metrics=TARGET_METRICS,
            ordinal=True,
        )
        for unit in ("steps", "seconds", "tokens")
    },
    "accuracy_difference": Quantity(
        "Held-out accuracy of the arm under test - of the compared arm.",
        accuracy_difference,
        "evals",
        "difference in accuracy",
        needs=frozenset({"against", "metric"}),
    ),
}


@dataclass(frozen=True)
class Cost:
    """A number of one variant of an update in one setting of a profile: a column of the table `variants`.

    A `timed` one is a ratio of seconds, compared within rounds of one process, with its interval in `<column>_low` and
    `<column>_high`; others are counted or read once, and a `counted` one is the same on every device.
    """

    column: str
    timed: bool = False
    counted: bool = False
    unit: str = "x"


COSTS: dict[str, Cost] = {
    "update_flops_speedup": Cost("flops_speedup", counted=True),
    "update_logits_ratio": Cost("logits_ratio", counted=True),
    "update_memory_ratio": Cost("memory_ratio"),
    "update_memory_ratio_to_fused": Cost("memory_ratio_to_fused"),
    "update_seconds_speedup": Cost("seconds_speedup", timed=True),
    "update_seconds_speedup_to_fused": Cost("to_fused", timed=True),
}


@dataclass(frozen=True)
class Share:
    """The share of the rows of a study's table, those of a `DataFrame.query` expression, in which a column holds.

    `label` are columns that name a row, `cases` what a row is, in the plural.
    """

    study: str
    table: str
    rows: str
    column: str
    label: tuple[str, ...]
    cases: str

    @property
    def unit(self) -> str:
        return f"share of {self.cases}"

    def file(self, task: str, model: str) -> str:
        """The table's place in a results folder."""
        return f"studies/{self.study}/{task}.{model}/{self.table}.csv"


SHARES: dict[str, Share] = {
    "faults_survived": Share("faults", "faults", "point != 'none'", "survived", ("arm", "point"), "injection points")
}
