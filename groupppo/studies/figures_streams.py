"""Figures of the streamed update: bias by parameter group, cost against bias, and stale keys and values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.draw.style import ARM_COLOURS, QUIET, SOLID, WIDTH, grid, legend_below, look_at, points, wrap
from groupppo.studies.names import ALL, ENDPOINTS, GATHERED, RECOMPUTE, REUSE, SHARE, WINDOW

Tables = Mapping[str, pd.DataFrame]

KIND_LABELS = {
    ENDPOINTS: "endpoints alone",
    WINDOW: "window before each",
    SHARE: "random share",
    GATHERED: "gathered (exact)",
}
_KIND_MARKERS = {ENDPOINTS: "*", WINDOW: "o", SHARE: "s", GATHERED: "D"}
_KIND_COLOURS = dict(zip(_KIND_MARKERS, (ARM_COLOURS[3], *ARM_COLOURS[:3]), strict=True))
_DOTTED = (1.6, 1.3)
_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
_NONE: dict[str, Any] = {"linestyle": "none"}


def parameters_data(tables: Tables) -> pd.DataFrame:
    """measure (cosine or norm_ratio), checkpoint, arm, title, group, value, low, high."""
    rows = tables["stream_groups"]
    parts = [
        rows.rename(columns={name: "value", f"{name}_low": "low", f"{name}_high": "high"})
        .assign(measure=name)
        .loc[:, ["measure", "checkpoint", "arm", "title", "group", "value", "low", "high"]]
        for name in ("cosine", "norm_ratio")
    ]
    return pd.concat(parts, ignore_index=True)


def parameters_figure(data: pd.DataFrame) -> Figure:
    """Cosine and norm ratio of every parameter group, a look for each arm at each checkpoint."""
    groups, arms = list(dict.fromkeys(data["group"])), list(dict.fromkeys(data["arm"]))
    checkpoints, titles = list(dict.fromkeys(data["checkpoint"])), dict(zip(data["arm"], data["title"], strict=True))
    figure = Figure(figsize=(WIDTH, 0.5 * len(groups) + 1.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    series = [(arm, checkpoint) for arm in arms for checkpoint in checkpoints]
    handles: list[Artist] = []
    for number, (arm, checkpoint) in enumerate(series):
        look = points(look_at(number, ""))
        own = data[(data["arm"] == arm) & (data["checkpoint"] == checkpoint)]
        shift = 0.6 * ((number + 0.5) / len(series) - 0.5)
        for panel, measure in zip(axes, ("cosine", "norm_ratio"), strict=True):
            rows = own[own["measure"] == measure]
            places = [groups.index(group) + shift for group in rows["group"]]
            panel.errorbar(rows["value"], places, xerr=_reach(rows), capsize=2, elinewidth=1.2, **look)
        handles.append(Line2D([], [], label=f"{titles[arm]}, {checkpoint}", **look))
    for panel, label in zip(axes, ("cosine with the exact gradient", "norm / the exact gradient's"), strict=True):
        panel.axvline(1.0, color=QUIET, linewidth=1.0, dashes=(4, 2), zorder=1)
        panel.set_xlabel(label)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        low, high = panel.get_xlim()
        panel.set_xlim(min(0.0, low), max(1.04, high))
    labels = ["all parameters" if group == ALL else wrap(group, 20) for group in groups]
    axes[0].set_yticks(range(len(groups)), labels)
    axes[0].set_ylim(len(groups) - 0.5, -0.5)
    legend_below(figure, handles)
    return figure


def costs_data(tables: Tables) -> pd.DataFrame:
    """checkpoint, arm, title, kind, size, speedup, value, low, high (of the cosine), pareto."""
    rows = tables["stream_costs"].rename(columns={"cosine": "value", "cosine_low": "low", "cosine_high": "high"})
    return rows[["checkpoint", "arm", "title", "kind", "size", "speedup", "value", "low", "high", "pareto"]]


def costs_figure(data: pd.DataFrame) -> Figure:
    """Cosine against speed-up, a panel for each checkpoint and arm; points off the Pareto front are hollow."""
    checkpoints, arms = list(dict.fromkeys(data["checkpoint"])), list(dict.fromkeys(data["arm"]))
    titles = dict(zip(data["arm"], data["title"], strict=True))
    figure, axes = grid(len(checkpoints), len(arms), 2.7)
    floor = max(-1.0, float(np.floor(10 * data["low"].fillna(data["value"]).min() - 0.5) / 10))
    for row, checkpoint in enumerate(checkpoints):
        for column, arm in enumerate(arms):
            panel = axes[row, column]
            _points(panel, data[(data["checkpoint"] == checkpoint) & (data["arm"] == arm)])
            panel.set_title(wrap(f"{titles[arm]}, {checkpoint}", 44))
            panel.set(xscale="log", ylim=(floor, 1.06))
            speeds = data.loc[data["arm"] == arm, "speedup"]
            panel.set_xlim(speeds.min() / 1.15, speeds.max() * 1.2)
            panel.set_xticks([tick for tick in _TICKS if speeds.min() / 1.15 <= tick <= speeds.max() * 1.2])
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
            panel.minorticks_off()
            if row == len(checkpoints) - 1:
                panel.set_xlabel("operations of a dense update / of this one")
            if column == 0:
                panel.set_ylabel("cosine with the exact gradient")
    handles: list[Artist] = [
        Line2D([], [], color=_KIND_COLOURS[kind], marker=_KIND_MARKERS[kind], label=label, **_NONE)
        for kind, label in KIND_LABELS.items()
    ]
    hollow = Line2D([], [], color=QUIET, marker="o", markerfacecolor="white", label="hollow: off the front", **_NONE)
    front = Line2D([], [], color=QUIET, linewidth=1.0, dashes=(4, 2), label="Pareto front")
    legend_below(figure, [*handles, front, hollow])
    return figure


def _points(panel: Axes, rows: pd.DataFrame) -> None:
    front = rows[rows["pareto"]].sort_values("speedup")
    panel.plot(front["speedup"], front["value"], color=QUIET, linewidth=1.0, dashes=(4, 2), zorder=1)
    for kind, own in rows.groupby("kind", sort=False):
        colour = _KIND_COLOURS[str(kind)]
        for _, point in own.iterrows():
            panel.errorbar(
                [point["speedup"]],
                [point["value"]],
                yerr=_reach(own.loc[[point.name]]),
                fmt=_KIND_MARKERS[str(kind)],
                color=colour,
                markerfacecolor=colour if point["pareto"] else "white",
                markersize=9 if kind == ENDPOINTS else 5,
                capsize=2,
                elinewidth=1.0,
            )
            if kind in (WINDOW, SHARE):
                # Windows above their points, shares below: the two kinds lie close together.
                at: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "color": colour}
                up = kind == WINDOW
                text = f"{point['size']:g}"
                place: dict[str, Any] = {"xytext": (5, 3) if up else (-5, -3), "ha": "left" if up else "right"}
                panel.annotate(text, (point["speedup"], point["value"]), va="bottom" if up else "top", **place, **at)


def staleness_data(tables: Tables) -> pd.DataFrame:
    """measure (cosine, log_prob_error, moved), checkpoint, arm, title, kv, steps, value, low, high."""
    rows = tables["stream_staleness"]
    parts = []
    for name in ("cosine", "log_prob_error", "moved"):
        # How far the policy has moved does not depend on keys and values; the error of fresh ones is rounding.
        own = rows if name == "cosine" else rows[rows["kv"] == REUSE]
        renamed = own.rename(columns={name: "value", f"{name}_low": "low", f"{name}_high": "high"})
        columns = ["measure", "checkpoint", "arm", "title", "kv", "steps", "value", "low", "high"]
        parts.append(renamed.assign(measure=name)[columns])
    return pd.concat(parts, ignore_index=True)


def staleness_figure(data: pd.DataFrame) -> Figure:
    """Cosine, and error of log-probabilities beside the policy's own move, against steps since they were made."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms, steps = list(dict.fromkeys(data["arm"])), sorted(set(data["steps"]))
    titles = dict(zip(data["arm"], data["title"], strict=True))
    lines = [("cosine", REUSE, left), ("cosine", RECOMPUTE, left), ("log_prob_error", REUSE, right)]
    handles: list[Artist] = []
    for number, arm in enumerate(arms):
        # Dashes are keys and values here.
        look = points(look_at(number, "")) | {"linestyle": "-", "linewidth": 1.5}
        # Beside each other, so that no whisker hides another.
        shift = 0.1 * (number - (len(arms) - 1) / 2)
        for measure, kv, panel in (*lines, ("moved", REUSE, right)):
            own = data[(data["measure"] == measure) & (data["kv"] == kv) & (data["arm"] == arm)].sort_values("steps")
            dashed = measure == "moved" or kv == RECOMPUTE
            places = [steps.index(step) + shift for step in own["steps"]]
            style = look | {"linestyle": (0, _DOTTED if dashed else SOLID)}
            panel.errorbar(places, own["value"], yerr=_reach(own), capsize=2, elinewidth=1.0, **style)
        handles.append(Line2D([], [], label=titles[arm], **look))
    grey: dict[str, Any] = {"color": QUIET, "linewidth": 1.5}
    handles.append(Line2D([], [], label="kept; right: their error", **grey))
    dotted = "fresh; right: policy's own move"
    handles.append(Line2D([], [], label=dotted, linestyle=(0, _DOTTED), **grey))
    for panel in (left, right):
        panel.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        panel.set_xlabel("optimizer steps since they were made")
    left.set(ylabel="cosine with the exact gradient", ylim=(min(0.0, left.get_ylim()[0]), 1.02))
    right.set(ylabel="mean log-prob difference, nats")
    right.set_ylim(bottom=0.0)
    legend_below(figure, handles)
    return figure


def _reach(rows: pd.DataFrame) -> list[pd.Series]:
    """Lengths of an interval to both sides; none where there is no interval."""
    return [(rows["value"] - rows["low"]).clip(lower=0), (rows["high"] - rows["value"]).clip(lower=0)]
