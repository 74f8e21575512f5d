"""Held-out accuracy against the dense reference: differences by seed, over the margin of equivalence."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import ITEMS, band, each
from groupppo.draw.wording import number
from groupppo.report.figures import Need, RunFigure, has_others, no_pair
from groupppo.verdicts.claims import EQUIVALENCE, REFERENCE, load_claims

METRIC = "accuracy"
BAND = "#cfe8dc"


def parity_margin(benchmark: Benchmark) -> float | None:
    """The margin within which the benchmark's claims call an arm's accuracy that of the reference; None without one."""
    margins = [
        claim.margin
        for claim in load_claims(benchmark.claims).claims
        if claim.rule == EQUIVALENCE and claim.metric == METRIC and claim.against == REFERENCE
    ]
    return margins[0] if margins else None


def differences(evals: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """Greedy held-out accuracy - the reference's, by seed and as mean over seeds.

    Returns:
        task, model, arm, seed (<NA>: the mean), difference, low, high (90 % t interval; means only), seeds, margin.
    """
    runs = evals[(evals["metric"] == METRIC) & (evals["arm"] != style.START)]
    keys = ["task", "model", "seed"]
    reference = runs.loc[runs["arm"] == benchmark.reference, [*keys, "value"]]
    paired = runs[runs["arm"] != benchmark.reference].merge(reference, on=keys, suffixes=("", "_reference"))
    paired = paired.assign(difference=paired["value"] - paired["value_reference"])[[*keys, "arm", "difference"]]
    means = []
    for (task, model, arm), rows in paired.groupby(["task", "model", "arm"], sort=False, observed=True):
        mean, low, high = style.t_interval(rows[["difference"]].to_numpy(float))
        numbers = {"difference": mean[0], "low": low[0], "high": high[0], "seeds": len(rows)}
        means.append({"task": task, "model": model, "arm": arm, **numbers})
    data = pd.concat([paired, pd.DataFrame(means)], ignore_index=True)
    return data.assign(margin=parity_margin(benchmark)).astype({"seed": "Int64", "arm": str})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One row for each arm: seeds, mean and interval of its difference, over the margin's band."""
    facets = style.cells(data, benchmark)
    counts = [len(style.arms_in(cell.rows(data), benchmark)) for cell in facets]
    figure, axes = style.grid(len(facets), 1, 0.9 + 0.38 * sum(counts) / len(counts), ratios=counts)
    for panel, cell in zip(axes[:, 0], facets, strict=True):
        rows = cell.rows(data)
        arms = style.arms_in(rows, benchmark)
        margin = rows["margin"].iloc[0]
        if pd.notna(margin):
            panel.axvspan(-margin, margin, color=BAND, linewidth=0)
        panel.axvline(0, color=style.QUIET, linewidth=1, linestyle=(0, (1, 1.5)))
        for place, arm in enumerate(arms):
            _row(panel, rows[rows["arm"] == arm], place, style.arm_looks(benchmark)[arm])
        panel.set_yticks(range(len(arms)), [style.wrap(benchmark.arms[arm].title, 30) for arm in arms])
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_xlabel(f"held-out accuracy - that of {benchmark.arms[benchmark.reference].title}")
        panel.set_title(style.cell_title(cell, benchmark))
    # One scale: a margin that is as wide everywhere is compared at a glance.
    limits = [panel.get_xlim() for panel in axes[:, 0]]
    for panel in axes[:, 0]:
        panel.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    handles = [
        style.patch(BAND, "margin of equivalence"),
        Line2D([], [], color=style.INK, marker="o", linewidth=2, label="mean and 90 % interval"),
        Line2D([], [], color=style.QUIET, marker="|", linestyle="none", markersize=8, label="one seed"),
    ]
    style.legend_below(figure, handles[1 if data["margin"].isna().all() else 0 :])
    return figure


def _row(panel: Axes, rows: pd.DataFrame, place: int, look: style.Look) -> None:
    single, mean = rows[rows["seed"].notna()], rows[rows["seed"].isna()].iloc[0]
    if len(single) <= style.MOST_SINGLE:
        panel.plot(single["difference"], [place + 0.22] * len(single), "|", color=look.colour, markersize=7)
    if pd.notna(mean["low"]):
        panel.plot([mean["low"], mean["high"]], [place, place], color=look.colour, linewidth=2.4)
    panel.plot(mean["difference"], place, markeredgecolor="white", **style.points(look, 7))


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title, margin = benchmark.arms[benchmark.reference].title, data["margin"].iloc[0]
    stretch = ""
    if pd.notna(margin):
        stretch = (
            f"The band is the margin of the claim of equivalence, {number(margin)} either way: an arm is equivalent "
            "where its whole interval lies inside, and different where it lies outside. "
        )
    return (
        f"Greedy accuracy on held-out prompts - {title}'s, by seed. "
        f"{band(data[data['seed'].notna()], benchmark, 'lines are 90 % t intervals of the mean difference')} "
        f"{stretch}An interval that crosses an end decides nothing. {ITEMS}"
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]
    text = each(means, benchmark, lambda rows, title: f"{title} {number(rows['difference'].iloc[0])}")
    return f"Interval chart of differences in accuracy. Means over seeds: {text}"


FIGURE = RunFigure(
    id="parity",
    title="Accuracy against the reference",
    order=50,
    needs=(Need("evals"),),
    asked=has_others,
    data=differences,
    draw=draw,
    caption=caption,
    alt=alt,
    without=no_pair,
)
