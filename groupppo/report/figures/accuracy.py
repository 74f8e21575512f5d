"""Held-out accuracy of every run beside the start checkpoint."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import band, each, many_seeds, seed_points
from groupppo.draw.wording import number
from groupppo.report.figures import Need, RunFigure

PAIRED = "#b5b5b5"


def data(evals: pd.DataFrame) -> pd.DataFrame:
    """Held-out accuracy of each run and of the start checkpoint, with the mean over seeds.

    Returns:
        task, model, arm ("start" for the start checkpoint), seed (<NA>: mean over seeds, or the start), metric, value
        (0..1), stderr (over items; runs and start only), low, high (90 % t interval over seeds; means only), seeds.
    """
    runs = evals[evals["arm"] != style.START]
    style.refuse_empty(runs, "evals")
    means = []
    for keys, rows in runs.groupby([*style.ARM_KEYS, "metric"], sort=False, observed=True):
        mean, low, high = style.t_interval(rows[["value"]].to_numpy(float))
        named = dict(zip([*style.ARM_KEYS, "metric"], keys, strict=True))
        means.append(named | {"value": mean[0], "low": low[0], "high": high[0], "seeds": len(rows)})
    kept = evals[[*style.RUN_KEYS, "metric", "value", "stderr"]]
    return pd.concat([kept, pd.DataFrame(means)], ignore_index=True).astype({"seed": "Int64", "seeds": "Int64"})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """A point for each run, seeds joined across arms, mean with interval, start checkpoint as a line with its error."""
    facets, metrics = style.cells(data, benchmark), list(dict.fromkeys(data["metric"]))
    arms = len(style.arms_in(data[data["arm"] != style.START], benchmark))
    # Side by side, the names of many arms would not fit under the panels.
    shape = (len(facets), len(metrics)) if arms <= 4 else (len(facets) * len(metrics), 1)
    figure, axes = style.grid(*shape, 3.1)
    for row, panels in enumerate(axes.reshape(len(facets), len(metrics))):
        rows = facets[row].rows(data)
        for panel, metric in zip(panels, metrics, strict=True):
            _accuracy_panel(panel, rows[rows["metric"] == metric], benchmark, style.WIDTH / shape[1])
            panel.set_ylabel(f"held-out {metric}")
            panel.sharey(panels[0])
        panels[0].set_title(style.cell_title(facets[row], benchmark))
        panels[0].set_ylim(*style.share_limits(rows[["value", "low", "high"]]))
    seeds = int(data["seeds"].max())
    style.legend_below(figure, _accuracy_handles(single=seeds <= style.MOST_SINGLE))
    return figure


def _accuracy_handles(single: bool) -> list[Artist]:
    runs: list[Artist] = [
        Line2D([], [], color=style.QUIET, marker="o", ls="none", markersize=6, label="one run"),
        Line2D([], [], color=PAIRED, linewidth=0.9, label="same seed"),
    ]
    return [
        *(runs if single else [Line2D([], [], color=style.QUIET, linewidth=7, alpha=0.35, label="90 % of the runs")]),
        Line2D(
            [],
            [],
            color=style.QUIET,
            marker="_",
            ls="none",
            markersize=13,
            markeredgewidth=2.2,
            label="mean over seeds",
        ),
        Line2D([], [], color=style.QUIET, linewidth=1.3, dashes=(5, 2), label="start checkpoint"),
    ]


def _accuracy_panel(panel: Axes, rows: pd.DataFrame, benchmark: Benchmark, inches: float) -> None:
    looks, arms = style.arm_looks(benchmark), style.arms_in(rows[rows["arm"] != style.START], benchmark)
    place = {arm: i for i, arm in enumerate(arms)}
    runs = rows[rows["seed"].notna() & rows["arm"].isin(arms)]
    seeds = sorted(runs["seed"].unique())
    # Each seed keeps its own place beside the mean, so that the same seed can be followed from arm to arm.
    offset = dict(zip(seeds, np.linspace(-0.1, 0.1, len(seeds)) if len(seeds) > 1 else [0.0], strict=True))
    single = len(seeds) <= style.MOST_SINGLE
    for seed, run in runs.assign(at=runs["arm"].map(place)).sort_values("at").groupby("seed") if single else ():
        panel.plot(run["at"] + offset[seed], run["value"], color=PAIRED, linewidth=0.9, zorder=1.5)
    for arm, x in place.items():
        own, mean = runs[runs["arm"] == arm], rows[(rows["arm"] == arm) & rows["seed"].isna()].iloc[0]
        if single:
            panel.scatter(
                x + own["seed"].map(offset).astype(float),
                own["value"],
                s=34,
                color=looks[arm].colour,
                marker=looks[arm].marker,
                edgecolor="white",
                linewidth=0.6,
                zorder=3,
            )
        else:
            panel.vlines(
                x, *np.percentile(own["value"], style.SPREAD), color=looks[arm].colour, linewidth=7, alpha=0.35
            )
        spread = None if np.isnan(mean["low"]) else [[mean["value"] - mean["low"]], [mean["high"] - mean["value"]]]
        panel.errorbar(
            x + 0.24,
            mean["value"],
            yerr=spread,
            fmt="_",
            markersize=11,
            markeredgewidth=2,
            capsize=3,
            elinewidth=1.4,
            color=looks[arm].colour,
        )
    start = rows[rows["arm"] == style.START]
    if len(start):
        value, error = float(start["value"].iloc[0]), float(start["stderr"].iloc[0])
        panel.axhspan(value - error, value + error, color=style.QUIET, alpha=0.18, linewidth=0)
        panel.axhline(value, color=style.QUIET, linewidth=1.3, dashes=(5, 2))
    letters = int((inches - 0.6) / len(arms) / style.LETTER) - 1
    turned = letters < 10
    # Two lines of a turned label are half an inch wide; closer arms have one each.
    longest = (26 if inches / len(arms) > 0.55 else 60) if turned else letters
    labels = [style.wrap(looks[arm].label, longest) for arm in arms]
    panel.set_xticks(range(len(arms)), labels, rotation=35 if turned else 0, ha="right" if turned else "center")
    panel.set_xlim(-0.5, len(arms) - 0.4)
    panel.grid(visible=False, axis="x")


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        f"Accuracy on the held-out prompts after training. {seed_points(data)} "
        f"{band(data, benchmark, 'whiskers are 90 % t intervals of the mean over seeds')} "
        "The dashed line is the start checkpoint that all runs share, its band one standard error over prompts. "
        f"Differences between arms are judged within a seed{'' if many_seeds(data) else ': follow the grey lines'}."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    metric = data["metric"].iloc[0]
    rows = data[(data["metric"] == metric) & data["seed"].isna()]
    starts = rows[rows["arm"] == style.START]
    start = f"Start checkpoint {', '.join(number(value) for value in starts['value'])}. " if len(starts) else ""

    shown = each(rows, benchmark, lambda rows, title: f"{title} {number(rows['value'].iloc[0])}")
    return f"Point chart of held-out {metric}. {start}Means over seeds: {shown}"


FIGURE = RunFigure(
    id="accuracy",
    title="Held-out accuracy",
    order=40,
    needs=(Need("evals"),),
    data=lambda rows, _: data(rows),
    draw=draw,
    caption=caption,
    alt=alt,
)
