"""Reward over training, against steps, seconds and endpoints."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import POOLED, band, each, seed_lines
from groupppo.draw.wording import number
from groupppo.errors import BadInput
from groupppo.report.figures import Need, RunFigure

METRICS = {"reward/mean": "reward", "elapsed_seconds": "seconds", "group/total_endpoints": "endpoints"}
AXES = {"step": "training step", "seconds": "training time, s", "endpoints": "endpoints so far, thousands"}
_SPAN = ["reward", "low", "high"]


def smoothing_window(steps: int) -> int:
    """Width of the centred moving mean of the reward curves: a tenth of the run, made odd; 1 is no smoothing."""
    return max(1, round(steps / 10)) // 2 * 2 + 1


def data(steps: pd.DataFrame) -> pd.DataFrame:
    """Reward of every seed and its mean over seeds, against steps, seconds and endpoints (all tokens in a dense arm).

    Arms of more than MOST_SINGLE seeds have their mean only.

    Returns:
        task, model, arm, seed (<NA>: the mean), x_axis (of AXES), x, reward (0..1; moving mean), low, high (90 %
        t interval over seeds of the moving mean), seeds.

    Raises:
        BadInput: the table is empty, or lacks a metric of METRICS.
    """
    wide = _metrics(steps, METRICS)  # runs one after another, their steps in order
    window = smoothing_window(int(wide["step"].max()))
    runs = wide.groupby(style.RUN_KEYS, sort=False, observed=True)
    wide["endpoints"] = runs["endpoints"].cumsum() / 1000
    wide["reward"] = runs["reward"].rolling(window, center=True, min_periods=1).mean().to_numpy()
    rows = []
    for keys, arm_rows in wide.groupby(style.ARM_KEYS, sort=False, observed=True):
        seeds = arm_rows["seed"].to_numpy(int)
        cuts = np.flatnonzero(np.diff(seeds)) + 1
        rewards = np.split(arm_rows["reward"].to_numpy(float), cuts)
        for x_axis in AXES:
            xs = np.split(arm_rows[x_axis].to_numpy(float), cuts)
            curves = list(zip(seeds[[0, *cuts]], xs, rewards, strict=True))
            if len(curves) <= style.MOST_SINGLE:
                rows += [_curve(keys, seed, x_axis, x, y) for seed, x, y in curves]
            # Seeds differ in speed and density: their mean is read off where all of them have a value.
            first, last = max(x[0] for _, x, _ in curves), min(x[-1] for _, x, _ in curves)
            shared = np.linspace(first, last, len(curves[0][1])) if x_axis != "step" else curves[0][1]
            shared = shared[(shared >= first) & (shared <= last)]
            over_seeds = np.array([np.interp(shared, x, y) for _, x, y in curves])
            mean, low, high = style.t_interval(over_seeds, pool=len(shared) // 4)
            rows.append(_curve(keys, pd.NA, x_axis, shared, mean, low, high, len(curves)))
    return pd.concat(rows, ignore_index=True)


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Reward against steps, seconds and endpoints, one row of panels for each task and model."""
    looks, facets = style.arm_looks(benchmark), style.cells(data, benchmark)
    figure, axes = style.grid(len(facets), len(AXES), 2.9)
    for row, cell in enumerate(facets):
        for column, (x_axis, label) in enumerate(AXES.items()):
            panel = axes[row, column]
            rows = cell.rows(data)
            style.draw_curves(panel, rows[rows["x_axis"] == x_axis].rename(columns={"reward": "y"}), looks)
            panel.set(xlabel=label, ylabel="reward (mean of rollouts)" if column == 0 else "")
            panel.tick_params(labelleft=column == 0)
            panel.set_xlim(0, 1.04 * rows.loc[rows["x_axis"] == x_axis, "x"].max())
        style.steps_axis(axes[row, 0], 6)
        for panel in axes[row, 1:]:
            panel.sharey(axes[row, 0])
        shown = cell.rows(data)
        crowded = shown["arm"].nunique() > style.MOST_BANDED
        axes[row, 0].set_ylim(*style.share_limits(shown[shown["seed"].isna()][["reward"]] if crowded else shown[_SPAN]))
        axes[row, 0].set_title(style.cell_title(cell, benchmark))
    style.legend_below(figure, [style.line(looks[arm]) for arm in style.arms_in(data, benchmark)])
    return figure


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["x_axis"] == "step"]
    window = smoothing_window(int(seeds["x"].max()))
    smooth = f"Curves are centred moving means over {window} steps. " if window > 1 else ""
    return (
        "Mean 0/1 reward of the rollouts of each step, against training steps, against seconds since the first step "
        "began, start-up left out, and against endpoints since then, which in a dense arm are all tokens of the "
        "responses. "
        f"{smooth}{seed_lines(data)} "
        f"{band(seeds, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Read it from left to right: an arm that learns faster lies higher; bands that overlap decide nothing."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna() & (data["x_axis"] == "step")]

    shown = each(
        means,
        benchmark,
        lambda rows, title: f"{title} goes from {number(rows['reward'].iloc[0])} to {number(rows['reward'].iloc[-1])}",
    )
    return f"Line chart of reward over training. {shown}"


def _metrics(steps: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The named metrics as columns, one row for each run and step; steps without one of them are left out."""
    style.refuse_empty(steps, "steps")
    for metric in names:
        if not (steps["metric"] == metric).any():
            raise BadInput("tables/steps.parquet", metric, None, "collect runs that log this metric in steps.jsonl.")
    chosen = steps[steps["metric"].isin(names)].astype({"metric": "str"})
    wide = chosen.pivot(index=[*style.RUN_KEYS, "step"], columns="metric", values="value").dropna().reset_index()
    return wide.rename(columns=names)


def _curve(
    keys: tuple[str, ...],
    seed: object,
    x_axis: str,
    x: np.ndarray,
    y: np.ndarray,
    low: np.ndarray | float = np.nan,
    high: np.ndarray | float = np.nan,
    seeds: int = 1,
) -> pd.DataFrame:
    columns = {"x_axis": x_axis, "x": x, "reward": y, "low": low, "high": high, "seeds": seeds}
    return pd.DataFrame(columns).assign(
        **dict(zip(style.ARM_KEYS, keys, strict=True)), seed=pd.Series([seed] * len(x), dtype="Int64")
    )


FIGURE = RunFigure(
    id="reward",
    title="Reward over training",
    order=20,
    needs=(Need("steps", ("metric", "value"), tuple(METRICS)),),
    data=lambda rows, _: data(rows),
    draw=draw,
    caption=caption,
    alt=alt,
)
