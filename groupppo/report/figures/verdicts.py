"""Estimates and intervals of the judged claims, each against its own region on its own axis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import Picture, place
from groupppo.draw.wording import interval, quantity
from groupppo.errors import BadInput
from groupppo.records.where import Where
from groupppo.report.figures import Evidence, ReportFigure
from groupppo.verdicts.claims import Claims, load_claims

MOST_ROWS = 30
"""Verdicts that are drawn, and one of each claim at least."""
VERDICT_COLOURS = {"supported": "#0a6b47", "refuted": "#a4262c", "inconclusive": "#7a5200"}
NO_EFFECT = {"x": 1.0, "difference in accuracy": 0.0}


def data(judged: Mapping[str, Any], claims: Claims) -> pd.DataFrame:
    """The claims that were judged by an interval, from the content of verdicts.json and the claims that it judges.

    Returns:
        id, task, model, claim, unit, verdict, estimate, low, high, region_low, region_high (claimed region widened by
        the margin; infinite where it has no end), seeds, measured_in (where the evidence is from; empty if from here).

    Raises:
        BadInput: no claim was judged by an interval, or the claims are not those that were judged.
    """
    if judged["claims_sha256"] != claims.sha256:
        files = ", ".join(map(str, claims.sources))
        hint = f"decide the verdicts again: the SHA-256 of {files} is {claims.sha256}."
        raise BadInput("verdicts.json", "claims_sha256", judged["claims_sha256"], hint)
    regions = {claim.id: claim.region for claim in claims.claims}
    shared = ["id", "task", "model", "claim", "unit", "verdict", "estimate", "low", "high", "seeds"]
    rows = [
        {key: entry[key] for key in shared}
        | {"region_low": regions[entry["id"]].low, "region_high": regions[entry["id"]].high}
        | {"measured_in": Where(**entry["elsewhere"]).told() if entry.get("elsewhere") else ""}
        for entry in judged["verdicts"]
        if _by_interval(entry)
    ]
    data = pd.DataFrame(rows)
    style.refuse_empty(data, "verdicts")
    return data


def _by_interval(entry: Mapping[str, Any]) -> bool:
    return entry["verdict"] in VERDICT_COLOURS and entry["low"] is not None


def drawn_verdicts(data: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_ROWS of the verdicts: of every claim the first tasks and models, as many as there is room for."""
    if len(data) <= MOST_ROWS:
        return data
    each = max(1, MOST_ROWS // data["id"].nunique())
    return data.groupby("id", sort=False).head(each).reset_index(drop=True)


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One row for each judged claim: its region as a green stretch, estimate and interval in the verdict's colour."""
    figure = Figure(figsize=(style.WIDTH, 0.78 * len(data) + 0.5), layout="constrained")
    panels = figure.subplots(len(data), 1, squeeze=False)[:, 0]
    for panel, row in zip(panels, data.itertuples(), strict=True):
        # A claim about the cost of an update has no task.
        cell = place(benchmark, row.task, row.model) if row.task else ""
        where = f" Not measured here: {row.measured_in}." if row.measured_in else ""
        _row(panel, row, f"{row.claim}{f' ({cell})' if cell else ''}{where}")
    handles = [
        style.patch(style.MARGIN, "claimed region"),
        style.mark("estimate and 90 % interval", "o", style.INK, linestyle="-", linewidth=2),
        style.mark("no difference", "", **style.DOTTED),
    ]
    style.legend_below(figure, handles)
    return figure


def _row(panel: Axes, row: Any, label: str) -> None:
    ratios, colour = row.unit == "x", VERDICT_COLOURS[row.verdict]
    panel.set_xscale("log" if ratios else "linear")
    panel.margins(x=0.15)
    no_effect = NO_EFFECT.get(row.unit, np.nan)
    wanted = np.array([row.low, row.high, row.estimate, row.region_low, row.region_high, no_effect], dtype=float)
    panel.plot(wanted[np.isfinite(wanted)], np.zeros(np.isfinite(wanted).sum()), linestyle="none")
    low, high = panel.get_xlim()
    panel.axvspan(max(low, row.region_low), min(high, row.region_high), color=style.MARGIN, linewidth=0)
    panel.axvline(no_effect, **style.DOTTED)
    panel.plot([row.low, row.high], [0, 0], color=colour, linewidth=2.4, solid_capstyle="butt")
    panel.plot(row.estimate, 0, "o", color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=0.7)
    panel.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
    panel.spines["left"].set_visible(False)
    panel.grid(visible=False)
    panel.xaxis.set_major_locator(LogLocator(2, numticks=6) if ratios else MaxNLocator(5))
    panel.xaxis.set_major_formatter(lambda tick, _: _tick_label(tick, row.unit))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="x", labelsize=8)
    panel.set_ylabel(style.wrap(label, 30), rotation=0, ha="right", va="center", fontsize=8.5, labelpad=8)
    text = f"{quantity(row.estimate, row.unit)}\n{interval(row.low, row.high, row.unit)}"
    panel.text(1.02, 0.62, row.verdict, transform=panel.transAxes, color=colour, fontweight="bold", fontsize=9)
    panel.text(1.02, 0.5, text, transform=panel.transAxes, color=style.INK, fontsize=8, va="top", linespacing=1.3)


def _tick_label(tick: float, unit: str) -> str:
    """Shorter than the estimate beside the axis, which carries the digits."""
    if unit.startswith("share"):
        return style.percent(tick)
    return f"{tick:.4g}x" if unit == "x" else f"{tick:.4g}"


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
        if not any(map(_by_interval, verdicts)):
            return "no claim was judged by an interval."
        frame = data(evidence.judged, load_claims(evidence.benchmark.claims))
        shown = drawn_verdicts(frame)
        words = caption(frame, len(verdicts), len(shown)), alt(shown)
        return Picture(self.id, self.title, frame, lambda: draw(shown, evidence.benchmark), *words)


FIGURE = _Verdicts("verdicts", "Claims against measurements", 10)
