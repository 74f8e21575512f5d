"""Figures of what the rules do by themselves: density, causes of closing, and the public code's criterion."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.draw.style import (
    CLOSED_COLOURS,
    INK,
    QUIET,
    curve,
    grid,
    legend_below,
    line,
    look_at,
    patch,
    percent,
    points,
)
from groupppo.draw.wording import percentage

Tables = Mapping[str, pd.DataFrame]

CLAIMED_BAND = (0.05, 0.20)
CLAIMED_DENSITY = 1 / 16
"""What GROUP-PPO's origin claims: an advantage at 5-20 % of positions, and 8192 tokens to 512 endpoints."""

RULE_LABELS = {
    "variance_split": "variance split",
    "low_prob": "low probability",
    "published": "public code",
}
SCORE_LABELS = {"unit": "unit", "logit_norm": "logit norm", "log_ratio": "log-ratio"}
# What a score reads of the rollout's own numerics is all that the two precisions differ in.
_READS_ROLLOUT = ("log_ratio", "published")
_CLAIMED = "#e9eef4"


def rule_label(rule: str, score: str, rollout: str) -> str:
    """Such as "variance split, log-ratio (bfloat16)"; the precision only where the rule reads it."""
    name = RULE_LABELS.get(rule, rule)
    name = f"{name}, {SCORE_LABELS.get(score, score)}" if score else name
    return f"{name} ({rollout})" if {rule, score} & set(_READS_ROLLOUT) else name


def thresholds_data(tables: Tables) -> pd.DataFrame:
    """Rules with a threshold: label, rule, score, rollout, threshold, density; float32 unless numerics matter."""
    rows = _shown(tables["density"])
    kept = rows[rows["threshold"].notna()]
    return kept[["label", "rule", "score", "rollout", "threshold", "density"]].reset_index(drop=True)


def thresholds_figure(data: pd.DataFrame) -> Figure:
    """Density against tau, one line for each score, with the claimed band and the claimed density."""
    figure, axes = grid(1, 1, 3.2)
    panel = axes[0, 0]
    handles: list[Artist] = []
    for i, (label, rows) in enumerate(data.groupby("label", sort=False)):
        look = look_at(i, str(label))
        panel.plot(rows["threshold"], rows["density"], **curve(look, len(rows)))
        handles.append(line(look))
    _claimed(panel)
    panel.set(xscale="log", xlabel="threshold tau", ylabel="density (endpoints / tokens)", ylim=(0, 1.03))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_major_formatter(percent)
    legend_below(figure, [*handles, *_claimed_handles()])
    return figure


def causes_data(tables: Tables) -> pd.DataFrame:
    """Every rule at its defaults: label, rule, score, rollout, density, cap, criterion, end (shares of groups)."""
    rows = _shown(tables["density"])
    kept = rows[rows["default"]]
    return kept[["label", "rule", "score", "rollout", "density", *CLOSED_COLOURS]].reset_index(drop=True)


def causes_figure(data: pd.DataFrame) -> Figure:
    """A stacked bar of shares of groups for each rule, its density beside it."""
    figure, axes = grid(1, 1, 0.27 * len(data) + 0.9)
    panel = axes[0, 0]
    left = np.zeros(len(data))
    for cause, colour in CLOSED_COLOURS.items():
        width = data[cause].to_numpy(float)
        panel.barh(data["label"], width, left=left, color=colour, edgecolor="white", linewidth=0.8, height=0.7)
        left = left + width
    for place, density in enumerate(data["density"]):
        at: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        panel.annotate(f"density {percentage(density)}", (1.0, place), **at)
    panel.invert_yaxis()
    panel.set(xlabel="share of groups", xlim=(0, 1.26))
    panel.set_xticks(np.linspace(0, 1, 6))
    panel.xaxis.set_major_formatter(percent)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    legend_below(figure, [patch(colour, f"closed by {cause}") for cause, colour in CLOSED_COLOURS.items()])
    return figure


def published_data(tables: Tables) -> pd.DataFrame:
    """Table `published` without the gap of zero, which has no place on a logarithmic axis."""
    rows = tables["published"]
    return rows[rows["mean_gap"] > 0].reset_index(drop=True)


def published_figure(data: pd.DataFrame) -> Figure:
    """Density against the mean gap in nats: the float32 gaps scaled, and the real gaps as marks."""
    figure, axes = grid(1, 1, 3.0)
    panel = axes[0, 0]
    scaled = data[data["rollout"] == "float32"]
    look: dict[str, Any] = {"color": QUIET, "marker": ".", "linewidth": 1.4}
    panel.plot(scaled["mean_gap"], scaled["density"], **look)
    handles: list[Artist] = [Line2D([], [], label="float32 gaps times a power of ten", **look)]
    for i, row in enumerate(data[data["factor"] == 1].itertuples()):
        mark: dict[str, Any] = points(look_at(i, ""), 8) | {"zorder": 3}
        panel.plot(row.mean_gap, row.density, **mark)
        handles.append(Line2D([], [], label=f"real gap, {row.rollout} rollouts", **mark))
    _claimed(panel)
    panel.set(
        xscale="log", xlabel="mean |rollout - trainer log-probability|, nats", ylabel="density (endpoints / tokens)"
    )
    panel.set_ylim(0, 1.1 * max(float(data["density"].max()), CLAIMED_BAND[1]))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    panel.yaxis.set_major_formatter(percent)
    legend_below(figure, [*handles, *_claimed_handles()])
    return figure


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Labelled and in order; of the two precisions both only where the rule reads the rollout's log-probabilities."""
    reads = rows["score"].isin(_READS_ROLLOUT) | rows["rule"].isin(_READS_ROLLOUT)
    # `literal` closes at every token with every score: one bar says it.
    literal = rows["rule"] == "literal"
    kept = rows[(reads | (rows["rollout"] == "float32")) & ~(literal & (rows["score"] != "unit"))]
    kept = kept.assign(score=kept["score"].mask(kept["rule"] == "literal", ""))
    rules = list(dict.fromkeys(["variance_split", "published", *kept["rule"]]))
    scores = list(dict.fromkeys(["", *SCORE_LABELS, *kept["score"]]))
    precisions = list(dict.fromkeys(kept["rollout"]))
    names = list(zip(kept["rule"], kept["score"], kept["rollout"], strict=True))
    places = [(rules.index(rule), scores.index(score), precisions.index(rollout)) for rule, score, rollout in names]
    labelled = kept.assign(label=[rule_label(*name) for name in names])
    return labelled.iloc[sorted(range(len(places)), key=places.__getitem__)]


def _claimed(panel: Axes) -> None:
    panel.axhspan(*CLAIMED_BAND, color=_CLAIMED, zorder=0, linewidth=0)
    panel.axhline(CLAIMED_DENSITY, color=INK, linewidth=1.0, dashes=(4, 2), zorder=1)


def _claimed_handles() -> list[Artist]:
    dashed = Line2D([], [], color=INK, linewidth=1.0, dashes=(4, 2), label=f"claimed: {percent(CLAIMED_DENSITY)}")
    return [patch(_CLAIMED, f"claimed: {percent(CLAIMED_BAND[0])} to {percent(CLAIMED_BAND[1])}"), dashed]
