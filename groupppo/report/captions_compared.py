"""Words under and behind the figures that compare arms run by run: targets, parity, controls, ways to update."""

import numpy as np
import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.captions import band, each
from groupppo.draw.style import arms_in
from groupppo.draw.wording import number, percentage
from groupppo.report.figures.updates import METRICS, ROUNDING
from groupppo.verdicts.quantities import TARGET_SHARE

ITEMS = "Intervals cover training seeds; how much of a claim's interval items make is in the table of item noise."


def target(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title = benchmark.arms[benchmark.reference].title
    return (
        "Steps, seconds and sampled tokens until the mean reward over a quarter of the run has come "
        f"{percentage(TARGET_SHARE)} of the way that {title} with the same seed goes from its first quarter to its "
        "last. A bar is the median over seeds. A run that never gets there counts as infinitely late: it stands in "
        "the grey strip with the number of such runs, and where half of them miss there is no median. "
        f"{_missed(data, benchmark)}"
    )


def target_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    medians = data[data["seed"].isna() & (data["unit"] == "steps")]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {number(rows['cost'].iloc[0])}"

    return f"Point chart of costs to a target reward. Median steps: {each(medians, benchmark, arm)}"


def _missed(data: pd.DataFrame, benchmark: Benchmark) -> str:
    runs = data[data["seed"].notna() & (data["unit"] == "steps")]
    counts = {arm: int((~np.isfinite(rows["cost"])).sum()) for arm, rows in runs.groupby("arm", sort=False)}
    told = [
        f"{benchmark.arms[arm].title} in {counts[arm]} of {len(runs[runs['arm'] == arm])}"
        for arm in arms_in(runs, benchmark)
        if counts[arm]
    ]
    return f"Missed: {', '.join(told)}." if told else "No run misses."


def parity(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title, margin = benchmark.arms[benchmark.reference].title, data["margin"].iloc[0]
    stretch = ""
    if pd.notna(margin):
        stretch = (
            f"The band is the margin of the claim of equivalence, {number(margin)} either way: an arm is equivalent "
            "where its whole interval lies inside, and different where it lies outside. "
        )
    return (
        f"Greedy accuracy on held-out prompts - {title}'s, by seed. "
        f"{band(data[data['seed'].notna()], benchmark, 'lines are 90 % t intervals of the mean difference')} "
        f"{stretch}An interval that crosses an end decides nothing. {ITEMS}"
    )


def parity_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return f"Interval chart of differences in accuracy. Means over seeds: {_differing(data, benchmark)}"


def controls(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["seed"].notna()]
    return (
        "Difference in held-out accuracy from the reference against the share of response tokens that are endpoints "
        "(log scale). Large marks are means over seeds, small ones single seeds. "
        f"{band(seeds, benchmark, 'lines are 90 % t intervals of the mean difference')} Arms at one density spend the "
        "same number of endpoints: they differ by which tokens these are. Dense arms stand at 100 %. Arms that share "
        "an endpoint's advantage with its group train on every token all the same. "
        f"{ITEMS}"
    )


def controls_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {number(rows['difference'].iloc[0])} at {percentage(rows['density'].iloc[0])}"

    return f"Point chart of accuracy against density. {each(means, benchmark, arm)}"


def _differing(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]
    return each(means, benchmark, lambda rows, title: f"{title} {number(rows['difference'].iloc[0])}")


def updates(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Arms that differ in nothing but how their updates are computed, each run beside the masked one of its seed. "
        "Left: reward of the rollouts of each step; a wider line under a narrower one is an equal curve. Right: the "
        f"largest relative difference of a step's metrics ({', '.join(METRICS)}; relative to the masked run's largest "
        f"value of the metric). {_differences(data, benchmark)} An exact update differs by rounding, which grows from "
        "step to step until a sampled token changes; an approximation differs from its first update on."
    )


def updates_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return f"Line charts of reward and of differences from the masked update. {_differences(data, benchmark)}"


def _differences(data: pd.DataFrame, benchmark: Benchmark) -> str:
    told = []
    for arm in arms_in(data, benchmark):
        rows = data[(data["arm"] == arm) & data["difference"].notna()]
        if rows.empty:
            continue
        far = rows.loc[rows["difference"] > ROUNDING, "step"]
        until = f"above {ROUNDING:g} from step {far.min():,} on" if len(far) else f"never above {ROUNDING:g}"
        told.append(f"{benchmark.arms[arm].title}: {until}, {number(rows['difference'].max())} at most")
    return f"{'; '.join(told)}."
