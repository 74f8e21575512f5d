"""Held-out accuracy against the dense reference: differences by seed, and what density they were bought with.

`parity_data` and `controls_data` compute the tidy frames that are drawn (and saved as CSV beside the pictures),
`parity_figure` and `controls_figure` draw exactly those. A seed of <NA> marks the mean over seeds and its t interval.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw.style import (
    INK,
    MOST_SINGLE,
    QUIET,
    START,
    Look,
    arm_looks,
    arms_in,
    cell_title,
    cells,
    grid,
    legend_below,
    patch,
    percent,
    points,
    t_interval,
    wrap,
)
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


def parity_data(evals: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """Greedy held-out accuracy - the reference's, by seed and as mean over seeds.

    Args:
        evals: the tidy `evals` table.

    Returns:
        task, model, arm, seed (<NA>: the mean), difference, low, high (90 % t interval; means only), seeds, margin.
    """
    runs = evals[(evals["metric"] == METRIC) & (evals["arm"] != START)]
    keys = ["task", "model", "seed"]
    reference = runs.loc[runs["arm"] == benchmark.reference, [*keys, "value"]]
    paired = runs[runs["arm"] != benchmark.reference].merge(reference, on=keys, suffixes=("", "_reference"))
    paired = paired.assign(difference=paired["value"] - paired["value_reference"])[[*keys, "arm", "difference"]]
    means = []
    for (task, model, arm), rows in paired.groupby(["task", "model", "arm"], sort=False, observed=True):
        mean, low, high = t_interval(rows[["difference"]].to_numpy(float))
        numbers = {"difference": mean[0], "low": low[0], "high": high[0], "seeds": len(rows)}
        means.append({"task": task, "model": model, "arm": arm, **numbers})
    data = pd.concat([paired, pd.DataFrame(means)], ignore_index=True)
    return data.assign(margin=parity_margin(benchmark)).astype({"seed": "Int64", "arm": str})


def parity_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One row for each arm: seeds, mean and interval of its difference, over the margin's band."""
    facets = cells(data, benchmark)
    counts = [len(arms_in(cell.rows(data), benchmark)) for cell in facets]
    figure, axes = grid(len(facets), 1, 0.9 + 0.38 * sum(counts) / len(counts), ratios=counts)
    for panel, cell in zip(axes[:, 0], facets, strict=True):
        rows = cell.rows(data)
        arms = arms_in(rows, benchmark)
        margin = rows["margin"].iloc[0]
        if pd.notna(margin):
            panel.axvspan(-margin, margin, color=BAND, linewidth=0)
        panel.axvline(0, color=QUIET, linewidth=1, linestyle=(0, (1, 1.5)))
        for place, arm in enumerate(arms):
            _row(panel, rows[rows["arm"] == arm], place, arm_looks(benchmark)[arm])
        panel.set_yticks(range(len(arms)), [wrap(benchmark.arms[arm].title, 30) for arm in arms])
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_xlabel(f"held-out accuracy - that of {benchmark.arms[benchmark.reference].title}")
        panel.set_title(cell_title(cell, benchmark))
    # One scale: a margin that is as wide everywhere is compared at a glance.
    limits = [panel.get_xlim() for panel in axes[:, 0]]
    for panel in axes[:, 0]:
        panel.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    handles = [
        patch(BAND, "margin of equivalence"),
        Line2D([], [], color=INK, marker="o", linewidth=2, label="mean and 90 % interval"),
        Line2D([], [], color=QUIET, marker="|", linestyle="none", markersize=8, label="one seed"),
    ]
    legend_below(figure, handles[1 if data["margin"].isna().all() else 0 :])
    return figure


def _row(panel: Axes, rows: pd.DataFrame, place: int, look: Look) -> None:
    single, mean = rows[rows["seed"].notna()], rows[rows["seed"].isna()].iloc[0]
    if len(single) <= MOST_SINGLE:
        panel.plot(single["difference"], [place + 0.22] * len(single), "|", color=look.colour, markersize=7)
    if pd.notna(mean["low"]):
        panel.plot([mean["low"], mean["high"]], [place, place], color=look.colour, linewidth=2.4)
    panel.plot(mean["difference"], place, markeredgecolor="white", **points(look, 7))


def controls_data(evals: pd.DataFrame, benchmark: Benchmark, groups: pd.DataFrame) -> pd.DataFrame:
    """Difference from the reference and density of every arm; a dense arm has density 1.

    Args:
        evals, groups: the tidy tables.

    Returns:
        the rows of `parity_data` with `density`: endpoints / tokens, pooled over a run's steps, and the mean over runs.
    """
    data = parity_data(evals, benchmark)
    keys = ["task", "model", "arm", "seed"]
    totals = groups.astype({"arm": str}).groupby(keys, observed=True)[["endpoints", "tokens"]].sum()
    density = (totals["endpoints"] / totals["tokens"]).rename("density").reset_index()
    means = density.groupby(keys[:3], as_index=False, observed=True)["density"].mean().assign(seed=pd.NA)
    known = pd.concat([density, means], ignore_index=True).astype({"seed": "Int64"})
    merged = data.merge(known, on=keys, how="left")
    return merged.assign(density=merged["density"].fillna(1.0))


def controls_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Difference in accuracy over density: arms at one density differ by which tokens they train on."""
    facets = cells(data, benchmark)
    figure, axes = grid(len(facets), 1, 3.4)
    looks = arm_looks(benchmark)
    for panel, cell in zip(axes[:, 0], facets, strict=True):
        rows = cell.rows(data)
        panel.axhline(0, color=QUIET, linewidth=1, linestyle=(0, (1, 1.5)))
        for arm in arms_in(rows, benchmark):
            own, look = rows[rows["arm"] == arm], looks[arm]
            single, mean = own[own["seed"].notna()], own[own["seed"].isna()].iloc[0]
            if len(single) <= MOST_SINGLE:
                panel.plot(single["density"], single["difference"], **points(look, 3.5))
            if pd.notna(mean["low"]):
                panel.plot([mean["density"]] * 2, [mean["low"], mean["high"]], color=look.colour, linewidth=1.6)
            panel.plot(mean["density"], mean["difference"], markeredgecolor="white", **points(look, 8))
        panel.set_xscale("log")
        least = float(rows["density"].min())
        ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if tick >= least / 1.6]
        panel.set_xticks(ticks, [percent(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlim(least / 1.6, 1.25)
        panel.set(xlabel="density (endpoints / tokens)", ylabel="difference in held-out accuracy")
        panel.set_title(cell_title(cell, benchmark))
    legend_below(figure, [_marker(looks[arm]) for arm in arms_in(data, benchmark)])
    return figure


def _marker(look: Look) -> Line2D:
    return Line2D([], [], label=look.label, **points(look, 7))
