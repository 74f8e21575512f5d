"""When each run reaches the reward that a dense run of its seed ends with: steps, seconds and tokens, or never."""

import math

import pandas as pd

from groupppo.verdicts.targets import Arrival, time_to_target

REWARD, ELAPSED, TOKENS = METRICS = ("reward/mean", "elapsed_seconds", "tokens/response")
TARGET_SHARE, QUARTER = 0.95, 4
"""Of the reference's gain: its mean reward over the last quarter of its run - over the first one."""


def arrivals(steps: pd.DataFrame, reference: str) -> dict[tuple[str, int], Arrival]:
    """Arrival of every run of one task and model at the target of its seed; a run without the metrics has none.

    A target is TARGET_SHARE of the way from the reference's mean reward over the first quarter of its run to that over
    the last, and a run arrives with its mean over a quarter: a few lucky steps, which any run has, are no arrival.

    Args:
        steps: rows of the table `steps` of one task and model with METRICS. reference: the arm that sets the targets.

    Returns:
        by arm and seed; seeds whose reference is missing or gained nothing are left out.
    """
    rows = steps[steps["metric"].isin(METRICS)].astype({"arm": str, "metric": str})
    wide = rows.pivot(index=["arm", "seed", "step"], columns="metric", values="value")
    if not set(METRICS) <= set(wide.columns):
        return {}
    runs = {key: run.droplevel(["arm", "seed"]).sort_index() for key, run in wide.dropna().groupby(["arm", "seed"])}
    goals = {seed: _goal(run) for (arm, seed), run in runs.items() if arm == reference}
    return {
        (arm, int(seed)): _arrival(run, goals[seed])
        for (arm, seed), run in runs.items()
        if math.isfinite(goals.get(seed, math.nan))
    }


def _window(run: pd.DataFrame) -> int:
    return max(1, len(run) // QUARTER)


def _goal(run: pd.DataFrame) -> float:
    """The reward to reach, NaN where the run gained nothing."""
    first, last = (float(part.mean()) for part in (run[REWARD].head(_window(run)), run[REWARD].tail(_window(run))))
    return first + TARGET_SHARE * (last - first) if last > first else math.nan


def _arrival(run: pd.DataFrame, target: float) -> Arrival:
    seconds = run[ELAPSED].diff().fillna(run[ELAPSED])
    return time_to_target(run[REWARD], seconds, run[TOKENS], target, _window(run))
