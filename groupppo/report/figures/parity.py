"""Held-out accuracy against the dense reference: differences by seed, over the margin of equivalence."""

import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import ITEMS, band, each
from groupppo.draw.wording import number
from groupppo.report.figures import RunFigure, has_others, no_pair
from groupppo.verdicts.claims import EQUIVALENCE, REFERENCE, load_claims

METRIC = "accuracy"


def parity_margin(benchmark: Benchmark) -> float | None:
    """The margin within which the benchmark's claims call an arm's accuracy that of the reference; None without one."""
    claims = load_claims(benchmark.claims).claims
    asked = (EQUIVALENCE, METRIC, REFERENCE)
    return next((claim.margin for claim in claims if (claim.rule, claim.metric, claim.against) == asked), None)


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
    data = pd.concat([paired, style.seed_means(paired, style.ARM_KEYS, "difference")], ignore_index=True)
    return data.assign(margin=parity_margin(benchmark)).astype({"seed": "Int64", "arm": str})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One row for each arm: seeds, mean and interval of its difference, over the margin's band."""
    figure, facets = style.facets(data, benchmark, 0.9, by_arm=0.38)
    margin = data["margin"].iloc[0]
    for rows, arms, (panel,) in facets:
        # One scale: a margin that is as wide everywhere is compared at a glance.
        panel.sharex(figure.axes[0])
        if pd.notna(margin):
            panel.axvspan(-margin, margin, color=style.MARGIN, linewidth=0)
        panel.axvline(0, **style.DOTTED)
        for place, (arm, look) in enumerate(arms.items()):
            own = rows[rows["arm"] == arm]
            single, mean = own[own["seed"].notna()], own[own["seed"].isna()].iloc[0]
            panel.plot(single["difference"], [place + 0.22] * len(single), "|", color=look.colour, markersize=7)
            panel.plot([mean["low"], mean["high"]], [place, place], color=look.colour, linewidth=2.4)
            panel.plot(mean["difference"], place, markeredgecolor="white", **style.points(look, 7))
        style.label_rows(panel, [look.label for look in arms.values()], 30)
        panel.set_xlabel(f"held-out accuracy - that of {benchmark.arms[benchmark.reference].title}")
    handles = [
        *([style.patch(style.MARGIN, "margin of equivalence")] if pd.notna(margin) else []),
        style.mark("mean and 90 % interval", "o", style.INK, linestyle="-", linewidth=2),
        style.mark("one seed", "|", markersize=8),
    ]
    style.legend_below(figure, handles)
    return figure


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
    "parity",
    "Accuracy against the reference",
    50,
    differences,
    draw,
    caption,
    alt,
    tables=("evals",),
    asked=has_others,
    without=no_pair,
)
