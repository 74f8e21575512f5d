"""Reward over training, against steps, seconds and endpoints."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import POOLED, band, each, seed_lines
from groupppo.draw.wording import number
from groupppo.errors import BadInput
from groupppo.report.figures import RunFigure

METRICS = {"reward/mean": "reward", "elapsed_seconds": "seconds", "group/total_endpoints": "endpoints"}
AXES = {"step": "training step", "seconds": "training time, s", "endpoints": "endpoints so far, thousands"}


def smoothing_window(steps: int) -> int:
    """Width of the centred moving mean of the reward curves: a tenth of the run, made odd; 1 is no smoothing."""
    return max(1, round(steps / 10)) // 2 * 2 + 1


def data(steps: pd.DataFrame) -> pd.DataFrame:
    """Reward of every seed and its mean over seeds, against steps, seconds and endpoints (all tokens in a dense arm).

    Arms of more than MOST_SINGLE seeds have their mean only.

    Returns:
        x_axis (of AXES), x, reward (0..1; moving mean), low, high (90 % t interval over seeds of the moving mean),
        seeds, task, model, arm, seed (<NA>: the mean).

    Raises:
        BadInput: the table is empty, or lacks a metric of METRICS.
    """
    style.refuse_empty(steps, "steps")
    for metric in METRICS:
        if not (steps["metric"] == metric).any():
            raise BadInput("tables/steps.parquet", metric, None, "collect runs that log this metric in steps.jsonl.")
    chosen = steps[steps["metric"].isin(METRICS)].astype({"metric": "str"})
    wide = chosen.pivot(index=[*style.RUN_KEYS, "step"], columns="metric", values="value").dropna().reset_index()
    wide = wide.rename(columns=METRICS)
    window = smoothing_window(int(wide["step"].max()))
    runs = wide.groupby(style.RUN_KEYS, sort=False, observed=True)
    wide["endpoints"] = runs["endpoints"].cumsum() / 1000
    wide["reward"] = runs["reward"].rolling(window, center=True, min_periods=1).mean().to_numpy()
    curves = []
    for keys, rows in wide.groupby(style.ARM_KEYS, sort=False, observed=True):
        of_seed = dict(iter(rows.groupby("seed")))
        for x_axis in AXES:
            arm = dict(zip(style.ARM_KEYS, keys, strict=True)) | {"x_axis": x_axis}
            if len(of_seed) <= style.MOST_SINGLE:
                for seed, run in of_seed.items():
                    curves.append(
                        run[[x_axis, "reward"]].rename(columns={x_axis: "x"}).assign(**arm, seed=seed, seeds=1)
                    )
            curves.append(
                _mean([run[[x_axis, "reward"]].to_numpy(float) for run in of_seed.values()], x_axis).assign(**arm)
            )
    columns = ["x_axis", "x", "reward", "low", "high", "seeds", *style.RUN_KEYS]
    return pd.concat(curves, ignore_index=True)[columns].astype({"x": float, "seed": "Int64"})


def _mean(runs: list[np.ndarray], x_axis: str) -> pd.DataFrame:
    """The mean curve of runs, (steps, 2) each. Seeds differ in speed and density: it is read off where all of them have
    a value."""
    first, last = max(run[0, 0] for run in runs), min(run[-1, 0] for run in runs)
    shared = runs[0][:, 0] if x_axis == "step" else np.linspace(first, last, len(runs[0]))
    shared = shared[(shared >= first) & (shared <= last)]
    rewards = np.array([np.interp(shared, *run.T) for run in runs])
    mean, low, high = style.t_interval(rewards, pool=len(shared) // 4)
    return pd.DataFrame({"x": shared, "reward": mean, "low": low, "high": high, "seed": pd.NA, "seeds": len(runs)})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Reward against steps, seconds and endpoints, one row of panels for each task and model."""
    figure, facets = style.facets(data, benchmark, 2.9, columns=len(AXES))
    for rows, arms, panels in facets:
        for panel, (x_axis, label) in zip(panels, AXES.items(), strict=True):
            own = rows[rows["x_axis"] == x_axis]
            style.draw_curves(panel, own, "reward", arms)
            panel.set(xlabel=label, xlim=(0, 1.04 * own["x"].max()))
            panel.sharey(panels[0])
            panel.tick_params(labelleft=panel is panels[0])
        style.steps_axis(panels[0], 6)
        panels[0].set_ylabel("reward (mean of rollouts)")
        crowded = len(arms) > style.MOST_BANDED
        span = rows.loc[rows["seed"].isna(), ["reward"]] if crowded else rows[["reward", "low", "high"]]
        panels[0].set_ylim(*style.share_limits(span))
    style.legend_below(figure, map(style.line, style.arm_looks(benchmark, data).values()))
    return figure


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["x_axis"] == "step"]
    window = smoothing_window(int(seeds["x"].max()))
    smooth = f"Curves are centred moving means over {window} steps. " if window > 1 else ""
    return (
        "Mean 0/1 reward of the rollouts of each step, against training steps, against seconds since the first step "
        "began, start-up left out, and against endpoints since then, which in a dense arm are all tokens of the "
        f"responses. {smooth}{seed_lines(data)} "
        f"{band(seeds, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Read it from left to right: an arm that learns faster lies higher; bands that overlap decide nothing."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} goes from {number(rows['reward'].iloc[0])} to {number(rows['reward'].iloc[-1])}"

    means = data[data["seed"].isna() & (data["x_axis"] == "step")]
    return f"Line chart of reward over training. {each(means, benchmark, arm)}"


FIGURE = RunFigure(
    "reward", "Reward over training", 20, lambda rows, _: data(rows), draw, caption, alt, metrics=(*METRICS,)
)
