"""Estimates and intervals of the judged claims, each against its own region on its own axis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from groupppo.config import Benchmark
from groupppo.draw.figures import Picture
from groupppo.draw.style import INK, QUIET, WIDTH, legend_below, patch, percent, refuse_empty, wrap
from groupppo.draw.wording import interval, quantity
from groupppo.errors import BadInput
from groupppo.report.figures import Evidence, ReportFigure
from groupppo.verdicts.claims import Claims, load_claims
from groupppo.where import Where

MOST_ROWS = 30
"""Verdicts that are drawn, and one of each claim at least."""
REGION = "#cfe8dc"
VERDICT_COLOURS = {"supported": "#0a6b47", "refuted": "#a4262c", "inconclusive": "#7a5200"}
NO_EFFECT = {"x": 1.0, "difference in accuracy": 0.0}


def data(judged: Mapping[str, Any], claims: Claims) -> pd.DataFrame:
    """The claims that were judged by an interval.

    Args:
        judged: the content of verdicts.json.
        claims: the claims it judges; they give the regions.

    Returns:
        id, task, model, claim, unit, verdict, estimate, low, high, region_low, region_high (claimed region widened by
        the margin; infinite where it has no end), seeds, measured_in (where the evidence is from; empty if from here).

    Raises:
        BadInput: no claim was judged by an interval, or the claims are not those that were judged.
    """
    if judged["claims_sha256"] != claims.sha256:
        hint = f"decide the verdicts again: {claims.source} has SHA-256 {claims.sha256}."
        raise BadInput("verdicts.json", "claims_sha256", judged["claims_sha256"], hint)
    regions = {claim.id: claim.region for claim in claims.claims}
    shared = ["id", "task", "model", "claim", "unit", "verdict", "estimate", "low", "high", "seeds"]
    rows = [
        {key: entry[key] for key in shared}
        | {"region_low": regions[entry["id"]].low, "region_high": regions[entry["id"]].high}
        | {"measured_in": Where(**entry["elsewhere"]).told() if entry.get("elsewhere") else ""}
        for entry in judged["verdicts"]
        if entry["verdict"] in VERDICT_COLOURS and entry["low"] is not None
    ]
    data = pd.DataFrame(rows)
    refuse_empty(data, "verdicts")
    return data


def drawn_verdicts(data: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_ROWS of the verdicts: of every claim the first tasks and models, as many as there is room for."""
    place = data.groupby("id", sort=False).cumcount()
    each = max(1, MOST_ROWS // data["id"].nunique())
    return data[place < (len(data) if len(data) <= MOST_ROWS else each)].reset_index(drop=True)


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One row for each judged claim: its region as a green stretch, estimate and interval in the verdict's colour."""
    figure = Figure(figsize=(WIDTH, 0.78 * len(data) + 0.5), layout="constrained")
    panels = figure.subplots(len(data), 1, squeeze=False)[:, 0]
    several = len(benchmark.tasks) * len(benchmark.models) > 1
    for panel, row in zip(panels, data.itertuples(), strict=True):
        # A claim about the cost of an update has no task.
        of_cell = several and row.task
        place = f" ({benchmark.tasks[row.task].title}, {benchmark.models[row.model].title})" if of_cell else ""
        _row(panel, row, f"{row.claim}{place}{f' Not measured here: {row.measured_in}.' if row.measured_in else ''}")
    handles = [
        patch(REGION, "claimed region"),
        Line2D([], [], color=INK, marker="o", linewidth=2, label="estimate and 90 % interval"),
        Line2D([], [], color=QUIET, linestyle=(0, (1, 1.5)), linewidth=1, label="no difference"),
    ]
    legend_below(figure, handles)
    return figure


def _row(panel: Axes, row: Any, label: str) -> None:
    low, high = _axis_range(row)
    if row.unit == "x":
        panel.set_xscale("log")
    panel.set_xlim(low, high)
    panel.axvspan(max(low, row.region_low), min(high, row.region_high), color=REGION, linewidth=0)
    if row.unit in NO_EFFECT:
        panel.axvline(NO_EFFECT[row.unit], color=QUIET, linestyle=(0, (1, 1.5)), linewidth=1)
    colour = VERDICT_COLOURS[row.verdict]
    panel.plot([row.low, row.high], [0, 0], color=colour, linewidth=2.4, solid_capstyle="butt")
    panel.plot(row.estimate, 0, "o", color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=0.7)
    panel.set_ylim(-1, 1)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.grid(visible=False)
    ticks = _ticks(low, high, row.unit)
    panel.set_xticks(ticks, [_tick_label(tick, row.unit) for tick in ticks], fontsize=8)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylabel(wrap(label, 30), rotation=0, ha="right", va="center", fontsize=8.5, labelpad=8)
    text = f"{quantity(row.estimate, row.unit)}\n{interval(row.low, row.high, row.unit)}"
    panel.text(1.02, 0.62, row.verdict, transform=panel.transAxes, color=colour, fontweight="bold", fontsize=9)
    panel.text(1.02, 0.5, text, transform=panel.transAxes, color=INK, fontsize=8, va="top", linespacing=1.3)


def _axis_range(row: Any) -> tuple[float, float]:
    """Wide enough for interval, region ends and "no difference", with room beside them."""
    wanted = [row.low, row.high, row.estimate, row.region_low, row.region_high, NO_EFFECT.get(row.unit, np.nan)]
    values = [value for value in wanted if np.isfinite(value)]
    if row.unit == "x":
        low, high = np.log(min(values)), np.log(max(values))
        pad = max(0.12 * (high - low), 0.1)
        return float(np.exp(low - pad)), float(np.exp(high + pad))
    pad = max(0.15 * (max(values) - min(values)), 0.005)
    return min(values) - pad, max(values) + pad


def _tick_label(tick: float, unit: str) -> str:
    """Shorter than the estimate beside the axis, which carries the digits."""
    if unit.startswith("share"):
        return percent(tick)
    return f"{tick:.4g}x" if unit == "x" else f"{tick:.4g}"


def _ticks(low: float, high: float, unit: str) -> list[float]:
    if unit == "x":
        powers = [2.0**power for power in range(-10, 11) if low <= 2.0**power <= high]
        return powers[:: max(1, len(powers) // 5)]
    step = 10 ** np.floor(np.log10(high - low))
    step *= next(factor for factor in (0.2, 0.5, 1, 2) if (high - low) / (factor * step) <= 5)
    return [float(tick) for tick in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def caption(data: pd.DataFrame, judged: int, drawn: int) -> str:
    rest, cut = judged - len(data), len(data) - drawn
    others = f" Verdicts without an interval are not drawn ({rest:,})." if rest else ""
    if cut:
        others += f" Of each claim the first tasks and models are drawn; {cut:,} more verdicts are in the CSV."
    return (
        "Each claim on an axis of its own: the claimed region, widened by its margin, and "
        "the estimate with its 90 % interval over seeds. A claim is supported where the interval lies wholly inside "
        f"the region and refuted where it lies wholly outside. Ratios (x) are on a log scale.{others}"
    )


def alt(data: pd.DataFrame) -> str:
    text = (f"{row.claim} {row.verdict}, {quantity(row.estimate, row.unit)}" for row in data.itertuples())
    return f"Interval chart of estimates against claimed regions. {'; '.join(text)}."


class _Verdicts(ReportFigure):
    def picture(self, evidence: Evidence) -> Picture | str:
        verdicts = evidence.judged.get("verdicts", ())
        if not any(verdict["verdict"] in VERDICT_COLOURS and verdict["low"] is not None for verdict in verdicts):
            return "no claim was judged by an interval."
        frame = data(evidence.judged, load_claims(evidence.benchmark.claims))
        shown = drawn_verdicts(frame)
        words = caption(frame, len(verdicts), len(shown)), alt(shown)
        return Picture(self.id, self.title, frame, lambda: draw(shown, evidence.benchmark), *words)


FIGURE = _Verdicts(id="verdicts", title="Claims against measurements", order=10)
