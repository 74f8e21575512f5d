"""Endpoint density over training, and what closed the groups."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import POOLED, band, each, seed_lines
from groupppo.draw.wording import percentage
from groupppo.report.figures import Need, RunFigure

CLOSED_BY = ("cap", "criterion", "end")


def data(groups: pd.DataFrame) -> pd.DataFrame:
    """Endpoint density of every seed and its mean, and the mean shares of groups by what closed them.

    Arms of more than MOST_SINGLE seeds have their mean only.

    Returns:
        task, model, arm, seed (<NA>: the mean), x (step), density (endpoints/tokens), low, high (90 % t interval over
        seeds), seeds, and cap, criterion, end (shares of groups, sum 1).
    """
    style.refuse_empty(groups, "groups")
    values = ["density", *CLOSED_BY]
    single = style.plain(groups[[*style.RUN_KEYS, "step", *values]]).rename(columns={"step": "x"})
    rows = []
    for keys, arm_rows in single.groupby(style.ARM_KEYS, sort=False, observed=True):
        if arm_rows["seed"].nunique() <= style.MOST_SINGLE:
            rows.append(arm_rows)
        # Only steps that every seed has: a seed dropping out would move the mean by itself.
        density = arm_rows.pivot(index="x", columns="seed", values="density").dropna()
        mean, low, high = style.t_interval(density.to_numpy(float).T, pool=len(density) // 4)
        shares = arm_rows.groupby("x")[list(CLOSED_BY)].mean().loc[density.index].reset_index(drop=True)
        curve = pd.DataFrame({"x": density.index, "density": mean, "low": low, "high": high})
        rows.append(
            pd.concat([curve, shares], axis=1).assign(
                **dict(zip(style.ARM_KEYS, keys, strict=True)), seed=pd.NA, seeds=density.shape[1]
            )
        )
    return style.plain(pd.concat(rows, ignore_index=True)).astype({"seed": "Int64", "seeds": "Int64"})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Density of all grouped arms above; below, one stacked area for each arm; one block per task and model."""
    facets = style.cells(data, benchmark)
    arms = max(len(style.arms_in(cell.rows(data), benchmark)) for cell in facets)
    columns = min(arms, 3)
    lower = math.ceil(arms / columns)
    figure = Figure(figsize=(style.WIDTH, (2.6 + 2.1 * lower) * len(facets) + 0.3), layout="constrained")
    for block, cell in zip(figure.subfigures(len(facets), 1, squeeze=False)[:, 0], facets, strict=True):
        _density_block(block, cell.rows(data), style.cell_title(cell, benchmark), benchmark, (lower, columns))
    return figure


def _density_block(
    block: SubFigure, rows: pd.DataFrame, title: str, benchmark: Benchmark, shape: tuple[int, int]
) -> None:
    looks, arms = style.arm_looks(benchmark), style.arms_in(rows, benchmark)
    layout = block.add_gridspec(1 + shape[0], shape[1], height_ratios=[1.2, *[1.0] * shape[0]])
    top = block.add_subplot(layout[0, :])
    style.draw_curves(top, rows.rename(columns={"density": "y"}), looks)
    top.set(xlabel="", ylabel="density\n(endpoints / tokens)", title=title)
    top.set_ylim(0, 1.1 * float(rows[["density", "high"]].max(axis=None)))
    top.yaxis.set_major_formatter(style.percent)
    # Half a step of room makes a run of a single step visible.
    ends = (rows["x"].min(), rows["x"].max()) if rows["x"].nunique() > 1 else (0.5, 1.5)
    top.set_xlim(*ends)
    style.steps_axis(top, 8)
    for i, arm in enumerate(arms):
        row, column = divmod(i, shape[1])
        panel = block.add_subplot(layout[1 + row, column])
        _closed_by(panel, rows[(rows["arm"] == arm) & rows["seed"].isna()], ends)
        style.steps_axis(panel, 8 // shape[1])
        panel.set(xlabel="training step", ylabel="share of groups" if column == 0 else "")
        panel.tick_params(labelleft=column == 0)
        panel.set_title(
            style.wrap(looks[arm].label, int(5.5 / style.LETTER / shape[1])), fontsize=9, color=looks[arm].colour
        )
    causes = [style.patch(style.CLOSED_COLOURS[cause], f"closed by {cause}") for cause in CLOSED_BY]
    style.legend_below(block, [*(style.line(looks[arm]) for arm in arms), *causes])


def _closed_by(panel: Axes, mean: pd.DataFrame, ends: tuple[float, float]) -> None:
    """Shares of groups as stacked areas over the steps `mean["x"]`."""
    mean = mean.iloc[style.thinned(len(mean))]
    x = mean["x"].to_numpy(float)
    shares = [mean[cause].to_numpy(float) for cause in CLOSED_BY]
    if len(x) == 1:
        x, shares = np.array(ends), [np.repeat(share, 2) for share in shares]
    colours = [style.CLOSED_COLOURS[cause] for cause in CLOSED_BY]
    panel.stackplot(x, *shares, colors=colours, edgecolor="white", linewidth=0.5)
    panel.set(xlim=ends, ylim=(0, 1))
    panel.yaxis.set_major_formatter(style.percent)


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Above: share of response tokens that are group endpoints, at each step. "
        f"{seed_lines(data)} {band(data, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Below: why groups closed, as shares of groups (mean over seeds): the size cap was reached, the variance "
        "criterion split the group, or the response ended. Where the cap closes nearly "
        "everything, the rule is a fixed stride."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]

    def arm(rows: pd.DataFrame, title: str) -> str:
        shares = ", ".join(f"{percentage(rows[cause].mean())} by {cause}" for cause in ("cap", "criterion", "end"))
        return f"{title} has a density of {percentage(rows['density'].mean())} over the run, groups closed {shares}"

    return f"Line chart of endpoint density over stacked areas of what closed the groups. {each(means, benchmark, arm)}"


FIGURE = RunFigure(
    id="density",
    title="Endpoint density and what closes groups",
    order=70,
    needs=(Need("groups", ("density", *CLOSED_BY)),),
    data=lambda rows, _: data(rows),
    draw=draw,
    caption=caption,
    alt=alt,
    grouped=True,
)
