"""What training did, step by step: reward, and endpoint density with what closed the groups.

Each figure has two functions: `<id>_data` computes the tidy frame that is drawn (and saved as CSV beside the picture),
`<id>_figure` draws exactly that frame. A seed of <NA> marks the mean over seeds and its t interval.
"""

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from groupppo.config import Benchmark
from groupppo.draw.style import (
    ARM_KEYS,
    CLOSED_COLOURS,
    LETTER,
    MOST_BANDED,
    MOST_POINTS,
    MOST_SINGLE,
    RUN_KEYS,
    WIDTH,
    Look,
    arm_looks,
    arms_in,
    cell_title,
    cells,
    curve,
    grid,
    legend_below,
    line,
    patch,
    percent,
    plain,
    refuse_empty,
    share_limits,
    steps_axis,
    t_interval,
    wrap,
)
from groupppo.errors import BadInput

_SPAN = ["reward", "low", "high"]
CLOSED_BY = ("cap", "criterion", "end")
REWARD_METRICS = {"reward/mean": "reward", "elapsed_seconds": "seconds", "group/total_endpoints": "endpoints"}
REWARD_AXES = {"step": "training step", "seconds": "training time, s", "endpoints": "endpoints so far, thousands"}


def smoothing_window(steps: int) -> int:
    """Width of the centred moving mean of the reward curves: a tenth of the run, made odd; 1 is no smoothing."""
    return max(1, round(steps / 10)) // 2 * 2 + 1


def reward_data(steps: pd.DataFrame) -> pd.DataFrame:
    """Reward of every seed and its mean over seeds, against steps, seconds and endpoints (all tokens in a dense arm).

    Args:
        steps: the tidy `steps` table.

    Arms of more than MOST_SINGLE seeds have their mean only.

    Returns:
        task, model, arm, seed (<NA>: the mean), x_axis (of REWARD_AXES), x, reward (0..1; moving mean), low, high (90 %
        t interval over seeds of the moving mean), seeds.

    Raises:
        BadInput: the table is empty, or lacks a metric of REWARD_METRICS.
    """
    wide = _metrics(steps, REWARD_METRICS)  # runs one after another, their steps in order
    window = smoothing_window(int(wide["step"].max()))
    runs = wide.groupby(RUN_KEYS, sort=False, observed=True)
    wide["endpoints"] = runs["endpoints"].cumsum() / 1000
    wide["reward"] = runs["reward"].rolling(window, center=True, min_periods=1).mean().to_numpy()
    rows = []
    for keys, arm_rows in wide.groupby(ARM_KEYS, sort=False, observed=True):
        seeds = arm_rows["seed"].to_numpy(int)
        cuts = np.flatnonzero(np.diff(seeds)) + 1
        rewards = np.split(arm_rows["reward"].to_numpy(float), cuts)
        for x_axis in REWARD_AXES:
            xs = np.split(arm_rows[x_axis].to_numpy(float), cuts)
            curves = list(zip(seeds[[0, *cuts]], xs, rewards, strict=True))
            if len(curves) <= MOST_SINGLE:
                rows += [_curve(keys, seed, x_axis, x, y) for seed, x, y in curves]
            # Seeds differ in speed and density: their mean is read off where all of them have a value.
            first, last = max(x[0] for _, x, _ in curves), min(x[-1] for _, x, _ in curves)
            shared = np.linspace(first, last, len(curves[0][1])) if x_axis != "step" else curves[0][1]
            shared = shared[(shared >= first) & (shared <= last)]
            over_seeds = np.array([np.interp(shared, x, y) for _, x, y in curves])
            mean, low, high = t_interval(over_seeds, pool=len(shared) // 4)
            rows.append(_curve(keys, pd.NA, x_axis, shared, mean, low, high, len(curves)))
    return pd.concat(rows, ignore_index=True)


def reward_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Reward against steps, seconds and endpoints, one row of panels for each task and model."""
    looks, facets = arm_looks(benchmark), cells(data, benchmark)
    figure, axes = grid(len(facets), len(REWARD_AXES), 2.9)
    for row, cell in enumerate(facets):
        for column, (x_axis, label) in enumerate(REWARD_AXES.items()):
            panel = axes[row, column]
            rows = cell.rows(data)
            _curves(panel, rows[rows["x_axis"] == x_axis].rename(columns={"reward": "y"}), looks)
            panel.set(xlabel=label, ylabel="reward (mean of rollouts)" if column == 0 else "")
            panel.tick_params(labelleft=column == 0)
            panel.set_xlim(0, 1.04 * rows.loc[rows["x_axis"] == x_axis, "x"].max())
        steps_axis(axes[row, 0], 6)
        for panel in axes[row, 1:]:
            panel.sharey(axes[row, 0])
        shown = cell.rows(data)
        crowded = shown["arm"].nunique() > MOST_BANDED
        axes[row, 0].set_ylim(*share_limits(shown[shown["seed"].isna()][["reward"]] if crowded else shown[_SPAN]))
        axes[row, 0].set_title(cell_title(cell, benchmark))
    legend_below(figure, [line(looks[arm]) for arm in arms_in(data, benchmark)])
    return figure


def density_data(groups: pd.DataFrame) -> pd.DataFrame:
    """Endpoint density of every seed and its mean, and the mean shares of groups by what closed them.

    Args:
        groups: the tidy `groups` table.

    Arms of more than MOST_SINGLE seeds have their mean only.

    Returns:
        task, model, arm, seed (<NA>: the mean), x (step), density (endpoints/tokens), low, high (90 % t interval over
        seeds), seeds, and cap, criterion, end (shares of groups, sum 1).

    Raises:
        BadInput: the table is empty.
    """
    refuse_empty(groups, "groups")
    values = ["density", *CLOSED_BY]
    single = plain(groups[[*RUN_KEYS, "step", *values]]).rename(columns={"step": "x"})
    rows = []
    for keys, arm_rows in single.groupby(ARM_KEYS, sort=False, observed=True):
        if arm_rows["seed"].nunique() <= MOST_SINGLE:
            rows.append(arm_rows)
        # Only steps that every seed has: a seed dropping out would move the mean by itself.
        density = arm_rows.pivot(index="x", columns="seed", values="density").dropna()
        mean, low, high = t_interval(density.to_numpy(float).T, pool=len(density) // 4)
        shares = arm_rows.groupby("x")[list(CLOSED_BY)].mean().loc[density.index].reset_index(drop=True)
        curve = pd.DataFrame({"x": density.index, "density": mean, "low": low, "high": high})
        rows.append(pd.concat([curve, shares], axis=1).assign(**_named(keys), seed=pd.NA, seeds=density.shape[1]))
    return plain(pd.concat(rows, ignore_index=True)).astype({"seed": "Int64", "seeds": "Int64"})


def density_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Density of all grouped arms above; below, one stacked area for each arm; one block per task and model."""
    facets = cells(data, benchmark)
    arms = max(len(arms_in(cell.rows(data), benchmark)) for cell in facets)
    columns = min(arms, 3)
    lower = math.ceil(arms / columns)
    figure = Figure(figsize=(WIDTH, (2.6 + 2.1 * lower) * len(facets) + 0.3), layout="constrained")
    for block, cell in zip(figure.subfigures(len(facets), 1, squeeze=False)[:, 0], facets, strict=True):
        _density_block(block, cell.rows(data), cell_title(cell, benchmark), benchmark, (lower, columns))
    return figure


def _density_block(
    block: SubFigure, rows: pd.DataFrame, title: str, benchmark: Benchmark, shape: tuple[int, int]
) -> None:
    looks, arms = arm_looks(benchmark), arms_in(rows, benchmark)
    layout = block.add_gridspec(1 + shape[0], shape[1], height_ratios=[1.2, *[1.0] * shape[0]])
    top = block.add_subplot(layout[0, :])
    _curves(top, rows.rename(columns={"density": "y"}), looks)
    top.set(xlabel="", ylabel="density\n(endpoints / tokens)", title=title)
    top.set_ylim(0, 1.1 * float(rows[["density", "high"]].max(axis=None)))
    top.yaxis.set_major_formatter(percent)
    # Half a step of room makes a run of a single step visible.
    ends = (rows["x"].min(), rows["x"].max()) if rows["x"].nunique() > 1 else (0.5, 1.5)
    top.set_xlim(*ends)
    steps_axis(top, 8)
    for i, arm in enumerate(arms):
        row, column = divmod(i, shape[1])
        panel = block.add_subplot(layout[1 + row, column])
        _closed_by(panel, rows[(rows["arm"] == arm) & rows["seed"].isna()], ends)
        steps_axis(panel, 8 // shape[1])
        panel.set(xlabel="training step", ylabel="share of groups" if column == 0 else "")
        panel.tick_params(labelleft=column == 0)
        panel.set_title(wrap(looks[arm].label, int(5.5 / LETTER / shape[1])), fontsize=9, color=looks[arm].colour)
    causes = [patch(CLOSED_COLOURS[cause], f"closed by {cause}") for cause in CLOSED_BY]
    legend_below(block, [*(line(looks[arm]) for arm in arms), *causes])


def _closed_by(panel: Axes, mean: pd.DataFrame, ends: tuple[float, float]) -> None:
    """Shares of groups as stacked areas over the steps `mean["x"]`."""
    mean = mean.iloc[_thinned(len(mean))]
    x = mean["x"].to_numpy(float)
    shares = [mean[cause].to_numpy(float) for cause in CLOSED_BY]
    if len(x) == 1:
        x, shares = np.array(ends), [np.repeat(share, 2) for share in shares]
    colours = [CLOSED_COLOURS[cause] for cause in CLOSED_BY]
    panel.stackplot(x, *shares, colors=colours, edgecolor="white", linewidth=0.5)
    panel.set(xlim=ends, ylim=(0, 1))
    panel.yaxis.set_major_formatter(percent)


def _curves(panel: Axes, rows: pd.DataFrame, looks: dict[str, Look]) -> None:
    """Thin lines for seeds, a thick one and a band for their mean; of more than MOST_BANDED arms the means alone.

    Args:
        rows: arm, seed, x, y, low, high.
    """
    colours = {arm: look.colour for arm, look in looks.items()}
    single = rows[rows["seed"].notna()]
    crowded = rows["arm"].nunique() > MOST_BANDED
    if len(single) and not crowded:
        sns.lineplot(
            single,
            x="x",
            y="y",
            hue="arm",
            palette=colours,
            units="seed",
            estimator=None,
            linewidth=0.8,
            alpha=0.45,
            legend=False,
            ax=panel,
        )
    for arm, look in looks.items():
        mean = rows[(rows["arm"] == arm) & rows["seed"].isna()]
        if mean.empty:
            continue
        mean = mean.iloc[_thinned(len(mean))]
        panel.plot(mean["x"], mean["y"], zorder=3, **curve(look, len(mean)))
        if mean["low"].notna().all() and not crowded:
            panel.fill_between(mean["x"], mean["low"], mean["high"], color=look.colour, alpha=0.14, linewidth=0)


def _thinned(points: int) -> np.ndarray:
    """Places of at most MOST_POINTS points, the first and the last among them."""
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int))


def _metrics(steps: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The named metrics as columns, one row for each run and step; steps without one of them are left out."""
    refuse_empty(steps, "steps")
    for metric in names:
        if not (steps["metric"] == metric).any():
            raise BadInput("tables/steps.parquet", metric, None, "collect runs that log this metric in steps.jsonl.")
    chosen = steps[steps["metric"].isin(names)].astype({"metric": "str"})
    wide = chosen.pivot(index=[*RUN_KEYS, "step"], columns="metric", values="value").dropna().reset_index()
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
    return pd.DataFrame(columns).assign(**_named(keys), seed=pd.Series([seed] * len(x), dtype="Int64"))


def _named(keys: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(ARM_KEYS, keys, strict=True))
