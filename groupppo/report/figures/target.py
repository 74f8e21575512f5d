"""How long each run takes to the reward that the dense run of its seed ends with, a miss shown as a miss."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import each
from groupppo.draw.wording import number, percentage
from groupppo.report.figures import Need, RunFigure, has_others, no_pair
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
        {"arm": arm, "seed": seed, "unit": unit, "cost": getattr(arrival, unit), "spent": _spent(arrival, unit)}
        for (arm, seed), arrival in arrivals(steps, benchmark.reference).items()
        for unit in AXES
    ]
    data = pd.DataFrame(rows, columns=["arm", "seed", "unit", "cost", "spent"]).astype({"arm": str})
    medians = [
        {"arm": arm, "seed": pd.NA, "unit": unit, "cost": own["cost"].median()}
        for (arm, unit), own in data.groupby(["arm", "unit"], sort=False)
    ]
    return pd.concat([data, pd.DataFrame(medians)], ignore_index=True).assign(task=task, model=model)


def _spent(arrival: object, unit: str) -> float:
    return float(getattr(arrival, f"spent_{unit}", math.nan))


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """A row for each arm, a point for each seed, a bar at the median; runs that missed stand at the right."""
    facets = style.cells(data, benchmark)
    counts = [len(style.arms_in(cell.rows(data), benchmark)) for cell in facets]
    figure, axes = style.grid(len(facets), len(AXES), 1.0 + 0.36 * sum(counts) / len(counts), ratios=counts)
    looks = style.arm_looks(benchmark)
    for panels, cell in zip(axes, facets, strict=True):
        rows = cell.rows(data)
        arms = style.arms_in(rows, benchmark)
        for panel, (unit, label) in zip(panels, AXES.items(), strict=True):
            own = rows[rows["unit"] == unit]
            own = own.assign(cost=own["cost"] / (1000 if unit == "tokens" else 1))
            finite = own.loc[own["cost"].map(math.isfinite), "cost"]
            edge = 1.18 * float(finite.max()) if len(finite) else 1.0
            for place, arm in enumerate(arms):
                _row(panel, own[own["arm"] == arm], place, edge, looks[arm])
            panel.set_yticks(range(len(arms)), [style.wrap(looks[arm].label, 22) for arm in arms])
            panel.tick_params(labelleft=panel is panels[0])
            panel.set(xlabel=label, xlim=(0, 1.25 * edge), ylim=(len(arms) - 0.5, -0.5))
            panel.axvspan(1.09 * edge / 1.18 * 1.0, 1.25 * edge, color="#f3f3f3", linewidth=0, zorder=0)
        panels[0].set_title(style.cell_title(cell, benchmark))
    handles = [
        Line2D([], [], color=style.QUIET, marker="o", linestyle="none", label="one seed"),
        Line2D(
            [], [], color=style.QUIET, marker="|", linestyle="none", markersize=13, markeredgewidth=2.2, label="median"
        ),
        Line2D([], [], color=style.INK, marker="x", linestyle="none", label="missed"),
    ]
    style.legend_below(figure, handles)
    return figure


def _row(panel: Axes, rows: pd.DataFrame, place: int, edge: float, look: style.Look) -> None:
    single, median = rows[rows["seed"].notna()], float(rows.loc[rows["seed"].isna(), "cost"].iloc[0])
    reached = single[single["cost"].map(math.isfinite)]
    panel.plot(reached["cost"], [place] * len(reached), **style.points(look, 5.5))
    missed = len(single) - len(reached)
    if missed:
        panel.plot(edge, place, "x", color=look.colour, markersize=7, markeredgewidth=2)
        panel.annotate(f"{missed}", (edge, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
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
    counts = {arm: int((~np.isfinite(rows["cost"])).sum()) for arm, rows in runs.groupby("arm", sort=False)}
    text = [
        f"{benchmark.arms[arm].title} in {counts[arm]} of {len(runs[runs['arm'] == arm])}"
        for arm in style.arms_in(runs, benchmark)
        if counts[arm]
    ]
    return f"Missed: {', '.join(text)}." if text else "No run misses."


FIGURE = RunFigure(
    id="target",
    title="Cost to dense PPO's reward",
    order=30,
    needs=(Need("steps", ("metric", "value"), tuple(METRICS)),),
    asked=has_others,
    data=data,
    draw=draw,
    caption=caption,
    alt=alt,
    without=no_pair,
)
