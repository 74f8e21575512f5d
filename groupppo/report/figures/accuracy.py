"""Held-out accuracy of every run beside the start checkpoint."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import band, each
from groupppo.draw.wording import number
from groupppo.report.figures import RunFigure

PAIRED = "#b5b5b5"


def data(evals: pd.DataFrame) -> pd.DataFrame:
    """Held-out accuracy of each run and of the start checkpoint, with the mean over seeds.

    Returns:
        task, model, arm ("start" for the start checkpoint), seed (<NA>: mean over seeds, or the start), metric, value
        (0..1), stderr (over items; runs and start only), low, high (90 % t interval over seeds; means only), seeds.
    """
    runs = evals[evals["arm"] != style.START]
    style.refuse_empty(runs, "evals")
    means = style.seed_means(runs, [*style.ARM_KEYS, "metric"], "value")
    kept = evals[[*style.RUN_KEYS, "metric", "value", "stderr"]]
    return pd.concat([kept, means], ignore_index=True).astype({"seed": "Int64", "seeds": "Int64"})


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """A row for each arm: a point for each run, seeds joined across arms, mean with interval, start as a line."""
    metrics = list(dict.fromkeys(data["metric"]))
    figure, facets = style.facets(data, benchmark, 0.9, columns=len(metrics), by_arm=0.4)
    for rows, arms, panels in facets:
        for panel, metric in zip(panels, metrics, strict=True):
            _panel(panel, rows[rows["metric"] == metric], arms)
            panel.set_xlabel(f"held-out {metric}")
            panel.tick_params(labelleft=panel is panels[0])
    handles = [
        style.mark("one run", "o"),
        style.mark("same seed", "", PAIRED, linestyle="-", linewidth=0.9),
        style.mark("mean over seeds", "|", markersize=13, markeredgewidth=2.2),
        style.mark("start checkpoint", "", linestyle=(0, (5, 2)), linewidth=1.3),
    ]
    style.legend_below(figure, handles)
    return figure


def _panel(panel: Axes, rows: pd.DataFrame, arms: dict[str, style.Look]) -> None:
    runs = rows[rows["arm"].isin(arms) & rows["seed"].notna()]
    seeds = sorted(runs["seed"].unique())
    # Each seed keeps its own place beside the mean, so that the same seed can be followed from arm to arm.
    offset = dict(zip(seeds, np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else [0.0], strict=True))
    runs = runs.assign(at=runs["arm"].map(list(arms).index).astype(float) + runs["seed"].map(offset).astype(float))
    for _, run in runs.sort_values("at").groupby("seed"):
        panel.plot(run["value"], run["at"], color=PAIRED, linewidth=0.9, zorder=1.5)
    for place, (arm, look) in enumerate(arms.items()):
        own, mean = runs[runs["arm"] == arm], rows[(rows["arm"] == arm) & rows["seed"].isna()].iloc[0]
        panel.plot(own["value"], own["at"], markeredgecolor="white", markeredgewidth=0.5, **style.points(look, 6))
        panel.hlines(place + 0.3, mean["low"], mean["high"], color=look.colour, linewidth=1.4)
        panel.plot(mean["value"], place + 0.3, "|", color=look.colour, markersize=9, markeredgewidth=2.2)
    for start in rows[rows["arm"] == style.START].itertuples():
        panel.axvspan(
            start.value - start.stderr, start.value + start.stderr, color=style.QUIET, alpha=0.18, linewidth=0
        )
        panel.axvline(start.value, color=style.QUIET, linewidth=1.3, dashes=(5, 2))
    style.label_rows(panel, [look.label for look in arms.values()])
    panel.set_xlim(*style.share_limits(rows[["value", "low", "high"]]))


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Accuracy on the held-out prompts after training. Each point is one run; grey lines join the runs of one seed. "
        "Bars beside the points are means over seeds. "
        f"{band(data, benchmark, 'whiskers are 90 % t intervals of the mean over seeds')} "
        "The dashed line is the start checkpoint that all runs share, its band one standard error over prompts. "
        "Differences between arms are judged within a seed: follow the grey lines."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    metric = data["metric"].iloc[0]
    rows = data[(data["metric"] == metric) & data["seed"].isna()]
    starts = rows[rows["arm"] == style.START]
    start = f"Start checkpoint {', '.join(number(value) for value in starts['value'])}. " if len(starts) else ""
    shown = each(rows, benchmark, lambda own, title: f"{title} {number(own['value'].iloc[0])}")
    return f"Point chart of held-out {metric}. {start}Means over seeds: {shown}"


FIGURE = RunFigure(
    "accuracy", "Held-out accuracy", 40, lambda rows, _: data(rows), draw, caption, alt, tables=("evals",)
)
