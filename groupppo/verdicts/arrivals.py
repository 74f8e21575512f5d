"""When each run reaches the reward that a dense run of its seed ends with: steps, seconds and tokens, or never."""

import math

import numpy as np
import pandas as pd

from groupppo.stats.targets import Arrival, time_to_target

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
    wide = wide.dropna().sort_index()
    values = wide[list(METRICS)].to_numpy(float)
    runs = {key: values[places] for key, places in wide.groupby(["arm", "seed"]).indices.items()}
    goals = {seed: _goal(run[:, 0]) for (arm, seed), run in runs.items() if arm == reference}
    return {
        (arm, int(seed)): _arrival(run, goals[seed])
        for (arm, seed), run in runs.items()
        if math.isfinite(goals.get(seed, math.nan))
    }


def _window(run: np.ndarray) -> int:
    return max(1, len(run) // QUARTER)


def _goal(rewards: np.ndarray) -> float:
    """The reward to reach, NaN where the run gained nothing."""
    window = _window(rewards)
    first, last = float(rewards[:window].mean()), float(rewards[-window:].mean())
    return first + TARGET_SHARE * (last - first) if last > first else math.nan


def _arrival(run: np.ndarray, target: float) -> Arrival:
    """Of a run's METRICS, shape (steps, 3)."""
    reward, elapsed, tokens = run.T
    return time_to_target(reward, np.diff(elapsed, prepend=0.0), tokens, target, _window(run))
