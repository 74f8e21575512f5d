"""Difference in held-out accuracy over density: what the endpoints of an arm were bought with."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import ITEMS, band, each
from groupppo.draw.wording import number, percentage
from groupppo.report.figures import Need, RunFigure, no_pair
from groupppo.report.figures.parity import differences


def data(evals: pd.DataFrame, benchmark: Benchmark, groups: pd.DataFrame) -> pd.DataFrame:
    """Difference from the reference and density of every arm; a dense arm has density 1.

    Returns:
        the rows of `differences` with `density`: endpoints / tokens, pooled over a run's steps, and the mean over runs.
    """
    data = differences(evals, benchmark)
    keys = ["task", "model", "arm", "seed"]
    totals = groups.astype({"arm": str}).groupby(keys, observed=True)[["endpoints", "tokens"]].sum()
    density = (totals["endpoints"] / totals["tokens"]).rename("density").reset_index()
    means = density.groupby(keys[:3], as_index=False, observed=True)["density"].mean().assign(seed=pd.NA)
    known = pd.concat([density, means], ignore_index=True).astype({"seed": "Int64"})
    merged = data.merge(known, on=keys, how="left")
    return merged.assign(density=merged["density"].fillna(1.0))


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Difference in accuracy over density: arms at one density differ by which tokens they train on."""
    facets = style.cells(data, benchmark)
    figure, axes = style.grid(len(facets), 1, 3.4)
    looks = style.arm_looks(benchmark)
    for panel, cell in zip(axes[:, 0], facets, strict=True):
        rows = cell.rows(data)
        panel.axhline(0, color=style.QUIET, linewidth=1, linestyle=(0, (1, 1.5)))
        for arm in style.arms_in(rows, benchmark):
            own, look = rows[rows["arm"] == arm], looks[arm]
            single, mean = own[own["seed"].notna()], own[own["seed"].isna()].iloc[0]
            if len(single) <= style.MOST_SINGLE:
                panel.plot(single["density"], single["difference"], **style.points(look, 3.5))
            if pd.notna(mean["low"]):
                panel.plot([mean["density"]] * 2, [mean["low"], mean["high"]], color=look.colour, linewidth=1.6)
            panel.plot(mean["density"], mean["difference"], markeredgecolor="white", **style.points(look, 8))
        panel.set_xscale("log")
        least = float(rows["density"].min())
        ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if tick >= least / 1.6]
        panel.set_xticks(ticks, [style.percent(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlim(least / 1.6, 1.25)
        panel.set(xlabel="density (endpoints / tokens)", ylabel="difference in held-out accuracy")
        panel.set_title(style.cell_title(cell, benchmark))
    style.legend_below(figure, [_marker(looks[arm]) for arm in style.arms_in(data, benchmark)])
    return figure


def _marker(look: style.Look) -> Line2D:
    return Line2D([], [], label=look.label, **style.points(look, 7))


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["seed"].notna()]
    return (
        "Difference in held-out accuracy from the reference against the share of response tokens that are endpoints "
        "(log scale). Large marks are means over seeds, small ones single seeds. "
        f"{band(seeds, benchmark, 'lines are 90 % t intervals of the mean difference')} Arms at one density spend the "
        "same number of endpoints: they differ by which tokens these are. Dense arms stand at 100 %. Arms that share "
        "an endpoint's advantage with its group train on every token all the same. "
        f"{ITEMS}"
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]

    shown = each(
        means,
        benchmark,
        lambda rows, title: f"{title} {number(rows['difference'].iloc[0])} at {percentage(rows['density'].iloc[0])}",
    )
    return f"Point chart of accuracy against density. {shown}"


FIGURE = RunFigure(
    id="controls",
    title="Accuracy against density",
    order=60,
    needs=(Need("evals"), Need("groups", ("tokens", "endpoints"))),
    asked=lambda benchmark: any(arm.grouped for arm in benchmark.arms.values()),
    data=data,
    draw=draw,
    caption=caption,
    alt=alt,
    without=no_pair,
)
