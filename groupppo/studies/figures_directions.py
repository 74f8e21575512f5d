"""The figure of where updates point and how much they scatter."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from groupppo.draw.style import ARM_COLOURS, QUIET, WIDTH, legend_below, patch, wrap
from groupppo.studies.tables import DENSE, DENSE_OTHER

Tables = Mapping[str, pd.DataFrame]

PANELS = {
    "cosine": "cosine with dense PPO",
    "norm_ratio": "norm / dense PPO's",
    "relative_variance": "relative variance",
}
_COLOUR, _EXPECTED, _FLOOR = ARM_COLOURS[0], ARM_COLOURS[1], "#e3e3e3"


def directions_data(tables: Tables) -> pd.DataFrame:
    """panel, arm, title, batch (missing: over all batches), value, low, high.

    Panels are those of the figure, and `expected_cosine`, which is drawn into the first.
    """
    batches, summary = tables["directions"], tables["direction_summary"]
    titles = dict(zip(summary["arm"], summary["title"], strict=True))
    rows = [
        batches.melt(["arm", "batch"], ["cosine", "norm_ratio"], "panel", "value").assign(
            title=batches["arm"].map(titles)
        )
    ]
    rows[0]["title"] = rows[0]["arm"].map(titles)
    for panel in (*PANELS, "expected_cosine"):
        columns = {panel: "value", f"{panel}_low": "low", f"{panel}_high": "high"}
        rows.append(summary.rename(columns=columns)[["arm", "title", "value", "low", "high"]].assign(panel=panel))
    kept = pd.concat(rows, ignore_index=True).dropna(subset=["value"]).astype({"batch": "Int64"})
    return kept[["panel", "arm", "title", "batch", "value", "low", "high"]]


def directions_figure(data: pd.DataFrame) -> Figure:
    """Cosine, norm and relative variance of every arm's gradient; dense PPO's own scatter as a band or a line."""
    arms = [arm for arm in dict.fromkeys(data["arm"]) if arm not in (DENSE, DENSE_OTHER)]
    titles = dict(zip(data["arm"], data["title"], strict=True))
    figure = Figure(figsize=(WIDTH, 0.36 * len(arms) + 1.5), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True, width_ratios=[1.4, 1.0, 1.0])
    for panel, (name, label) in zip(axes, PANELS.items(), strict=True):
        rows = data[data["panel"] == name]
        for place, arm in enumerate(arms):
            own = rows[rows["arm"] == arm]
            single, whole = own[own["batch"].notna()], own[own["batch"].isna()]
            panel.plot(single["value"], [place] * len(single), ".", color=_COLOUR, alpha=0.3, markersize=4)
            _mark(panel, whole, place - 0.12, "o", _COLOUR)
            if name == "cosine":
                expected = data[(data["panel"] == "expected_cosine") & (data["arm"] == arm)]
                _mark(panel, expected, place + 0.2, "D", _EXPECTED)
        panel.set_xlabel(label)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    _floor(axes[0], data)
    axes[1].axvline(1.0, color=QUIET, linewidth=1.0, dashes=(4, 2), zorder=1)
    dense = data[(data["panel"] == "relative_variance") & (data["arm"] == DENSE)]
    for value in dense["value"]:
        axes[2].axvline(value, color=QUIET, linewidth=1.0, dashes=(4, 2), zorder=1)
    for panel, name in zip(axes[1:], list(PANELS)[1:], strict=True):
        values = data.loc[(data["panel"] == name) & (data["value"] > 0), "value"]
        panel.set_xscale("log")
        # By the values: the interval of a variance can reach down to zero, which a logarithmic axis does not have.
        panel.set_xlim(values.min() / 1.6, values.max() * 1.6)
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.minorticks_off()
    axes[0].set_xlim(min(-0.05, float(data.loc[data["panel"] == "cosine", "value"].min()) - 0.05), 1.04)
    axes[0].set_yticks(range(len(arms)), [wrap(titles[arm], 22) for arm in arms])
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    legend_below(figure, _handles())
    return figure


def _mark(panel: Axes, rows: pd.DataFrame, place: float, marker: str, colour: str) -> None:
    for row in rows.itertuples():
        known = np.isfinite([row.low, row.high]).all()
        reach = [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]] if known else None
        panel.errorbar(
            row.value, place, xerr=reach, fmt=marker, color=colour, markersize=4.5, capsize=2, elinewidth=1.2
        )


def _floor(panel: Axes, data: pd.DataFrame) -> None:
    """What dense PPO's own gradients on two batches have in common."""
    rows = data[(data["panel"] == "cosine") & (data["arm"] == DENSE_OTHER) & data["batch"].isna()]
    for row in rows.itertuples():
        if np.isfinite([row.low, row.high]).all():
            panel.axvspan(row.low, row.high, color=_FLOOR, zorder=0, linewidth=0)
        panel.axvline(row.value, color=QUIET, linewidth=1.0, zorder=1)


def _handles() -> list[Artist]:
    none: dict[str, Any] = {"linestyle": "none"}
    return [
        Line2D([], [], color=_COLOUR, marker=".", alpha=0.4, label="one batch", **none),
        Line2D([], [], color=_COLOUR, marker="o", markersize=4.5, label="over batches", **none),
        Line2D([], [], color=_EXPECTED, marker="D", markersize=4.5, label="expected gradients", **none),
        patch(_FLOOR, "dense PPO, another batch"),
        Line2D([], [], color=QUIET, linewidth=1.0, dashes=(4, 2), label="dense PPO"),
    ]
