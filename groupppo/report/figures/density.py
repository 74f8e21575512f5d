"""Endpoint density over training, and what closed the groups."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import POOLED, band, each, seed_lines
from groupppo.draw.wording import percentage
from groupppo.report.figures import RunFigure

CLOSED_BY = tuple(style.CLOSED_COLOURS)
COLUMNS = 3


def data(groups: pd.DataFrame) -> pd.DataFrame:
    """Endpoint density of every seed and its mean, and the mean shares of groups by what closed them.

    Arms of more than MOST_SINGLE seeds have their mean only.

    Returns:
        task, model, arm, seed (<NA>: the mean), x (step), density (endpoints/tokens), low, high (90 % t interval over
        seeds), seeds, and cap, criterion, end (shares of groups, sum 1).
    """
    style.refuse_empty(groups, "groups")
    single = style.plain(groups[[*style.RUN_KEYS, "step", "density", *CLOSED_BY]]).rename(columns={"step": "x"})
    frames = []
    for keys, rows in single.groupby(style.ARM_KEYS, sort=False, observed=True):
        if rows["seed"].nunique() <= style.MOST_SINGLE:
            frames.append(rows)
        # Only steps that every seed has: a seed dropping out would move the mean by itself.
        density = rows.pivot(index="x", columns="seed", values="density").dropna()
        mean, low, high = style.t_interval(density.to_numpy(float).T, pool=len(density) // 4)
        curve = rows.groupby("x")[list(CLOSED_BY)].mean().loc[density.index]
        curve = curve.assign(density=mean, low=low, high=high, seed=pd.NA, seeds=density.shape[1]).reset_index()
        frames.append(curve.assign(**dict(zip(style.ARM_KEYS, keys, strict=True))))
    columns = [*style.RUN_KEYS, "x", "density", *CLOSED_BY, "low", "high", "seeds"]
    return style.plain(pd.concat(frames, ignore_index=True)[columns]).astype({"seed": "Int64", "seeds": "Int64"})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Density of all grouped arms above; below, one stacked area for each arm; one block per task and model."""
    cells = style.cells(data, benchmark)
    counts = [len(style.arms_in(cell.rows(data), benchmark)) for cell in cells]
    # Two arms have a line of the legend.
    heights = [2.4 + 1.9 * math.ceil(count / COLUMNS) + 0.1 * count for count in counts]
    figure = Figure(figsize=(style.WIDTH, sum(heights) + 0.3), layout="constrained")
    blocks = figure.subfigures(len(cells), 1, squeeze=False, height_ratios=heights)[:, 0]
    for block, cell in zip(blocks, cells, strict=True):
        _block(block, cell.rows(data), style.cell_title(cell, benchmark), benchmark)
    return figure


def _block(block: SubFigure, rows: pd.DataFrame, title: str, benchmark: Benchmark) -> None:
    looks = style.arm_looks(benchmark, rows)
    arms, columns = list(looks), min(len(looks), COLUMNS)
    panels: list[Any] = [["density"] * columns]
    panels += [[*arms[i : i + columns], *["."] * (i + columns - len(arms))] for i in range(0, len(arms), columns)]
    axes = block.subplot_mosaic(panels, height_ratios=[1.2, *[1.0] * (len(panels) - 1)])
    # Half a step of room makes a run of a single step visible.
    ends = (rows["x"].min(), rows["x"].max()) if rows["x"].nunique() > 1 else (0.5, 1.5)
    top = axes.pop("density")
    style.draw_curves(top, rows, "density", looks)
    top.set(ylabel="density\n(endpoints / tokens)", title=title, xlim=ends)
    top.set_ylim(0, 1.1 * float(rows[["density", "high"]].max(axis=None)))
    top.yaxis.set_major_formatter(style.percent)
    style.steps_axis(top, 8)
    for place, (arm, panel) in enumerate(axes.items()):
        mean = style.thinned(rows[(rows["arm"] == arm) & rows["seed"].isna()])
        x, shares = mean["x"].to_numpy(float), mean[list(CLOSED_BY)].to_numpy(float).T
        if len(x) == 1:
            x, shares = np.array(ends), np.repeat(shares, 2, axis=1)
        panel.stackplot(x, shares, colors=style.CLOSED_COLOURS.values(), edgecolor="white", linewidth=0.5)
        panel.set(xlim=ends, ylim=(0, 1), xlabel="training step", ylabel="" if place % columns else "share of groups")
        panel.yaxis.set_major_formatter(style.percent)
        panel.tick_params(labelleft=place % columns == 0)
        style.steps_axis(panel, 8 // columns)
        letters = int(5.5 / style.LETTER / columns)
        panel.set_title(style.wrap(looks[arm].label, letters), fontsize=9, color=looks[arm].colour)
    causes = [style.patch(colour, f"closed by {cause}") for cause, colour in style.CLOSED_COLOURS.items()]
    style.legend_below(block, [*map(style.line, looks.values()), *causes])


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Above: share of response tokens that are group endpoints, at each step. "
        f"{seed_lines(data)} {band(data, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Below: why groups closed, as shares of groups (mean over seeds): the size cap was reached, the variance "
        "criterion split the group, or the response ended. Where the cap closes nearly "
        "everything, the rule is a fixed stride."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    def arm(rows: pd.DataFrame, title: str) -> str:
        shares = ", ".join(f"{percentage(rows[cause].mean())} by {cause}" for cause in CLOSED_BY)
        return f"{title} has a density of {percentage(rows['density'].mean())} over the run, groups closed {shares}"

    means = each(data[data["seed"].isna()], benchmark, arm)
    return f"Line chart of endpoint density over stacked areas of what closed the groups. {means}"


FIGURE = RunFigure(
    "density",
    "Endpoint density and what closes groups",
    70,
    lambda rows, _: data(rows),
    draw,
    caption,
    alt,
    tables=("groups",),
    grouped=True,
)
