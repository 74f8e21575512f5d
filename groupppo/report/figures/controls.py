"""Difference in held-out accuracy over density: what the endpoints of an arm were bought with."""

import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import ITEMS, band, each
from groupppo.draw.wording import number, percentage
from groupppo.report.figures import RunFigure, no_pair
from groupppo.report.figures.parity import differences


def data(evals: pd.DataFrame, benchmark: Benchmark, groups: pd.DataFrame) -> pd.DataFrame:
    """Difference from the reference and density of every arm; a dense arm has density 1.

    Returns:
        the rows of `differences` with `density`: endpoints / tokens, pooled over a run's steps, and the mean over runs.
    """
    totals = groups.astype({"arm": str}).groupby(style.RUN_KEYS, observed=True)[["endpoints", "tokens"]].sum()
    density = (totals["endpoints"] / totals["tokens"]).rename("density").reset_index()
    means = density.groupby(style.ARM_KEYS, as_index=False, observed=True)["density"].mean().assign(seed=pd.NA)
    known = pd.concat([density, means], ignore_index=True).astype({"seed": "Int64"})
    merged = differences(evals, benchmark).merge(known, on=style.RUN_KEYS, how="left")
    return merged.fillna({"density": 1.0})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Difference in accuracy over density: arms at one density differ by which tokens they train on."""
    figure, facets = style.facets(data, benchmark, 3.4)
    for rows, arms, (panel,) in facets:
        panel.axhline(0, **style.DOTTED)
        for arm, look in arms.items():
            own = rows[rows["arm"] == arm]
            single, mean = own[own["seed"].notna()], own[own["seed"].isna()].iloc[0]
            panel.plot(single["density"], single["difference"], **style.points(look, 3.5))
            panel.vlines(mean["density"], mean["low"], mean["high"], color=look.colour, linewidth=1.6)
            panel.plot(mean["density"], mean["difference"], markeredgecolor="white", **style.points(look, 8))
        least = float(rows["density"].min()) / 1.6
        ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if tick >= least]
        panel.set(xscale="log", xlabel="density (endpoints / tokens)", ylabel="difference in held-out accuracy")
        panel.set_xticks(ticks, [style.percent(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlim(least, 1.25)
    looks = style.arm_looks(benchmark, data).values()
    style.legend_below(figure, [style.mark(look.label, **style.points(look, 7)) for look in looks])
    return figure


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["seed"].notna()]
    return (
        "Difference in held-out accuracy from the reference against the share of response tokens that are endpoints "
        "(log scale). Large marks are means over seeds, small ones single seeds. "
        f"{band(seeds, benchmark, 'lines are 90 % t intervals of the mean difference')} Arms at one density spend the "
        "same number of endpoints: they differ by which tokens these are. Dense arms stand at 100 %. Arms that share "
        f"an endpoint's advantage with its group train on every token all the same. {ITEMS}"
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {number(rows['difference'].iloc[0])} at {percentage(rows['density'].iloc[0])}"

    return f"Point chart of accuracy against density. {each(data[data['seed'].isna()], benchmark, arm)}"


FIGURE = RunFigure(
    "controls",
    "Accuracy against density",
    60,
    data,
    draw,
    caption,
    alt,
    tables=("evals", "groups"),
    asked=lambda benchmark: any(arm.grouped for arm in benchmark.arms.values()),
    without=no_pair,
)
