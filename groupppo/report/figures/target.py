"""How long each run takes to the reward that the dense run of its seed ends with, a miss shown as a miss."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import each
from groupppo.draw.wording import number, percentage
from groupppo.report.figures import RunFigure, has_others, no_pair
from groupppo.verdicts.quantities import TARGET_METRICS as METRICS
from groupppo.verdicts.quantities import TARGET_SHARE, arrivals

AXES = {"steps": "training steps", "seconds": "seconds of training", "tokens": "sampled tokens, thousands"}


def data(steps: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """Cost of every run to the target of its seed.

    Returns:
        task, model, arm, seed (<NA>: the median), unit ("steps", "seconds", "tokens"), cost (infinite for a miss),
        spent (in the whole run; runs only).
    """
    style.refuse_empty(steps, "steps")
    task, model = (str(steps[key].iloc[0]) for key in ("task", "model"))
    rows = [
        (arm, seed, unit, getattr(arrival, unit), getattr(arrival, f"spent_{unit}", math.nan))
        for (arm, seed), arrival in arrivals(steps, benchmark.reference).items()
        for unit in AXES
    ]
    data = pd.DataFrame(rows, columns=["arm", "seed", "unit", "cost", "spent"]).astype({"arm": str})
    medians = data.groupby(["arm", "unit"], sort=False, as_index=False)["cost"].median().assign(seed=pd.NA)
    return pd.concat([data, medians], ignore_index=True).assign(task=task, model=model)


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """A row for each arm, a point for each seed, a bar at the median; runs that missed stand at the right."""
    figure, facets = style.facets(data, benchmark, 1.0, columns=len(AXES), by_arm=0.36)
    for rows, arms, panels in facets:
        for panel, (unit, label) in zip(panels, AXES.items(), strict=True):
            own = rows[rows["unit"] == unit]
            own = own.assign(cost=own["cost"] / (1000 if unit == "tokens" else 1))
            finite = own.loc[np.isfinite(own["cost"]), "cost"]
            edge = 1.18 * float(finite.max()) if len(finite) else 1.0
            for place, (arm, look) in enumerate(arms.items()):
                _row(panel, own[own["arm"] == arm], place, edge, look)
            panel.axvspan(0.92 * edge, 1.25 * edge, color="#f3f3f3", linewidth=0, zorder=0)
            panel.set(xlabel=label, xlim=(0, 1.25 * edge))
            style.label_rows(panel, [look.label for look in arms.values()])
            panel.tick_params(labelleft=panel is panels[0])
    handles = [
        style.mark("one seed", "o"),
        style.mark("median", "|", markersize=13, markeredgewidth=2.2),
        style.mark("missed", "x", style.INK),
    ]
    style.legend_below(figure, handles)
    return figure


def _row(panel: Axes, rows: pd.DataFrame, place: int, edge: float, look: style.Look) -> None:
    single, median = rows[rows["seed"].notna()], rows.loc[rows["seed"].isna(), "cost"].iloc[0]
    reached = single[np.isfinite(single["cost"])]
    panel.plot(reached["cost"], [place] * len(reached), **style.points(look, 5.5))
    missed = len(single) - len(reached)
    if missed:
        panel.plot(edge, place, "x", color=look.colour, markersize=7, markeredgewidth=2)
        style.beside(panel, f"{missed}", (edge, place))
    if math.isfinite(median):
        panel.plot(median, place, "|", color=look.colour, markersize=17, markeredgewidth=2.4)


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title = benchmark.arms[benchmark.reference].title
    return (
        "Steps, seconds and sampled tokens until the mean reward over a quarter of the run has come "
        f"{percentage(TARGET_SHARE)} of the way that {title} with the same seed goes from its first quarter to its "
        "last. A bar is the median over seeds. A run that never gets there counts as infinitely late: it stands in "
        "the grey strip with the number of such runs, and where half of them miss there is no median. "
        f"{_missed(data, benchmark)}"
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    medians = data[data["seed"].isna() & (data["unit"] == "steps")]
    shown = each(medians, benchmark, lambda rows, title: f"{title} {number(rows['cost'].iloc[0])}")
    return f"Point chart of costs to a target reward. Median steps: {shown}"


def _missed(data: pd.DataFrame, benchmark: Benchmark) -> str:
    runs = data[data["seed"].notna() & (data["unit"] == "steps")]
    missed = (~np.isfinite(runs["cost"])).groupby(runs["arm"]).agg(["sum", "count"])
    text = [
        f"{benchmark.arms[arm].title} in {missed.loc[arm, 'sum']} of {missed.loc[arm, 'count']}"
        for arm in style.arms_in(runs, benchmark)
        if missed.loc[arm, "sum"]
    ]
    return f"Missed: {', '.join(text)}." if text else "No run misses."


FIGURE = RunFigure(
    "target",
    "Cost to dense PPO's reward",
    30,
    data,
    draw,
    caption,
    alt,
    metrics=METRICS,
    asked=has_others,
    without=no_pair,
)
