"""What an endpoint-sparse update costs, in four pictures: measured speed-up, its bound, memory, what 16x would need.

Each figure has two functions: `<id>_data` computes the tidy frame that is drawn (and saved as CSV beside the picture),
`<id>_figure` draws exactly that frame. `write_profile_figures` writes them all as `report.figures` writes its own.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from groupppo.draw.style import (
    INK,
    QUIET,
    WIDTH,
    curve,
    figure_style,
    legend_below,
    line,
    look_at,
    patch,
    wrap,
    write_figure,
)
from groupppo.draw.wording import in_bytes, ratio
from groupppo.profile.config import Profile
from groupppo.profile.tables import ProfileTables
from groupppo.records.where import COLUMNS as FROM
from groupppo.report import captions_profile as words
from groupppo.report.drawing import INDEX, FigureRecord
from groupppo.update.flops import step_bound
from groupppo.update.memory import CAUSES
from groupppo.update.variants import MEASURED

SECONDS, OPERATIONS = "#0072b2", "#a9cfe6"
CAUSE_COLOURS = dict(zip(CAUSES, ("#0072b2", "#f2b134", "#ba5e75", "#bf93ec", "#7f8000"), strict=True))
CAUSE_LABELS = dict(
    zip(
        CAUSES,
        ("activations", "head: logits and their gradients", "copies of the head's gradient", "one layer's work",
         "kept keys and values"),
        strict=True,
    )
)  # fmt: skip
SIXTEEN_MODES = {"gathered": "gathered (exact)", "streamed_reuse": "streamed, K/V of the old-log-prob pass"}
LARGEST = 512.0
GENERATION = (0.0, 1 / 32, 1 / 16, 0.3, 0.5, 0.7)


def speedup_data(tables: ProfileTables) -> pd.DataFrame:
    """One row per setting and variant that was measured, but for dense: both speed-ups over it, and the bound."""
    rows = tables.variants[(tables.variants["status"] == MEASURED) & (tables.variants["variant"] != "dense")]
    keys = ["setting", "model", "response", "density", "checkpointing", "variant", "title"]
    numbers = ["flops_speedup", "seconds_speedup", "seconds_speedup_low", "seconds_speedup_high", "bound", "rounds"]
    # Tables of before do not have the last ones.
    return rows.reindex(columns=[*keys, *numbers, *FROM]).reset_index(drop=True)


def speedup_figure(data: pd.DataFrame) -> Figure:
    """Two bars for each variant, operations above seconds, from 1 on a log axis; whiskers and the bound on them."""
    settings = list(dict.fromkeys(data["setting"]))
    figure, panels = _stacked(data, settings, 0.44)
    ends = data[["flops_speedup", "seconds_speedup_low", "seconds_speedup_high", "bound"]]
    low, high = min(0.8, float(ends.min(axis=None))), float(ends.max(axis=None))
    span = np.log(high / low)
    for panel, setting in zip(panels, settings, strict=True):
        rows = data[data["setting"] == setting]
        at = np.arange(len(rows))
        for offset, column, colour in ((-0.19, "flops_speedup", OPERATIONS), (0.19, "seconds_speedup", SECONDS)):
            panel.barh(at + offset, rows[column] - 1, left=1, height=0.36, color=colour)
        whiskers = (rows["seconds_speedup_low"], rows["seconds_speedup_high"])
        panel.hlines(at + 0.19, *whiskers, color=INK, linewidth=1.1)
        panel.vlines(rows["bound"], at - 0.45, at + 0.45, color="#d55e00", linewidth=1.6)
        for place, row in zip(at, rows.itertuples(), strict=True):
            right = max(row.flops_speedup, row.seconds_speedup_high, 0 if np.isnan(row.bound) else row.bound, 1)
            text = f"{ratio(row.flops_speedup)}, {ratio(row.seconds_speedup)}"
            panel.annotate(text, (right, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
        panel.set_yticks(at, [wrap(title, 34) for title in rows["title"]])
        panel.set(title=words.setting_title(rows.iloc[0]), xscale="log", xlim=(low, high * np.exp(0.3 * span)))
        panel.axvline(1, color=QUIET, linewidth=0.9)
        _as_bars(panel)
        _ratio_axis(panel, "x")
    panels[-1].set_xlabel("speed-up over dense")
    _say_where(figure, data)
    bound = Line2D([], [], color="#d55e00", linestyle="none", marker="|", markersize=12, label="bound in operations")
    legend_below(figure, [patch(OPERATIONS, "operations"), patch(SECONDS, "seconds, 90 % interval"), bound])
    return figure


def bound_data(tables: ProfileTables) -> pd.DataFrame:
    """Bound on an exact update by model, response length and checkpointing, at the lowest density counted."""
    counted = tables.counted
    sparsest = counted.loc[(counted["endpoints"] / counted["response"]).idxmin(), "density"]
    rows = counted[(counted["mode"] == "gathered") & (counted["density"] == sparsest)]
    columns = ["shape", "title", "parameters", "response", "density", "checkpointing", "eta", "head_bound"]
    return rows[[*columns, "update_bound"]].sort_values(["parameters", "checkpointing", "response"])


def bound_figure(data: pd.DataFrame) -> Figure:
    """Lines over response length, one for each model, without checkpointing (left) and with it (right)."""
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    models = list(dict.fromkeys(data["title"]))
    looks = {model: look_at(place, model) for place, model in enumerate(models)}
    for panel, checkpointing in zip(panels, (False, True), strict=True):
        rows = data[data["checkpointing"] == checkpointing]
        for model, look in looks.items():
            own = rows[rows["title"] == model]
            panel.plot(own["response"], own["update_bound"], **curve(look, len(own)))
        panel.set(title=f"{'with' if checkpointing else 'without'} gradient checkpointing", xscale="log")
        panel.set_xticks(sorted(set(rows["response"])), [f"{length:,}" for length in sorted(set(rows["response"]))])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("response length, tokens")
        panel.set_ylim(bottom=1)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    panels[0].set_ylabel("largest exact speed-up of an update")
    legend_below(figure, [line(look) for look in looks.values()])
    return figure


def memory_data(tables: ProfileTables) -> pd.DataFrame:
    """One row per setting, variant and cause: modelled bytes; `measured` is the variant's rise, repeated."""
    rows = tables.variants[tables.variants["status"] == MEASURED]
    rows = rows.reindex(columns=[*rows, *(name for name in FROM if name not in rows)])
    keys = ["setting", "model", "response", "density", "checkpointing", "variant", "title", *FROM]
    parts = rows.rename(columns={f"model_{cause}": cause for cause in CAUSES})
    long = parts.melt([*keys, "rise_bytes", "memory_ratio", "model_error"], list(CAUSES), "cause", "bytes")
    order = {key: place for place, key in enumerate(zip(rows["setting"], rows["variant"], strict=True))}
    places = [order[key] for key in zip(long["setting"], long["variant"], strict=True)]
    return long.assign(place=places).sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def memory_figure(data: pd.DataFrame) -> Figure:
    """One bar for each variant, stacked by modelled cause, its measured peak as a mark."""
    settings = list(dict.fromkeys(data["setting"]))
    heights = data.drop_duplicates(["setting", "variant"])
    figure, panels = _stacked(heights, settings, 0.4)
    for panel, setting in zip(panels, settings, strict=True):
        rows = data[data["setting"] == setting]
        wide = rows.pivot(index="variant", columns="cause", values="bytes").reindex(
            list(dict.fromkeys(rows["variant"]))
        )
        whole = rows.drop_duplicates("variant")
        at, left = np.arange(len(wide)), np.zeros(len(wide))
        for cause in CAUSES:
            width = wide[cause].fillna(0).to_numpy() / 1e6
            panel.barh(at, width, left=left, height=0.62, color=CAUSE_COLOURS[cause], edgecolor="white", linewidth=0.6)
            left = left + width
        measured = whole["rise_bytes"].to_numpy() / 1e6
        panel.plot(measured, at, "D", color=INK, markersize=4.5, zorder=3)
        for place, row in zip(at, whole.itertuples(), strict=True):
            text = f"{in_bytes(row.rise_bytes)} ({ratio(row.memory_ratio)})"
            right = (max(measured[place], left[place]), place)
            panel.annotate(text, right, xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5)
        panel.set_yticks(at, [wrap(title, 34) for title in whole["title"]])
        panel.set(title=words.setting_title(whole.iloc[0]), xlim=(0, float(max(measured.max(), left.max())) * 1.3))
        _as_bars(panel)
    panels[-1].set_xlabel("memory above weights and gradients, MB")
    _say_where(figure, data)
    found = [cause for cause in CAUSES if data.loc[data["cause"] == cause, "bytes"].sum() > 0]
    mark = Line2D([], [], color=INK, marker="D", linestyle="none", markersize=4.5, label="measured peak")
    legend_below(figure, [*(patch(CAUSE_COLOURS[cause], CAUSE_LABELS[cause]) for cause in found), mark])
    return figure


def sixteen_data(tables: ProfileTables, profile: Profile) -> pd.DataFrame:
    """Step speed-up over the speed-up of all but generation, and where exact and streamed updates lie on that axis.

    Rows of kind "curve" hold x, y and `generation`; rows of kind "mode" hold the least (x) and greatest (y) speed-up of
    all but generation over the models, lengths and checkpointing counted, at the lowest density.
    """
    places = np.geomspace(1, LARGEST, 121)
    curves = [
        {"kind": "curve", "generation": share, "x": x, "y": step_bound(share, {"rest": 1.0}, {"rest": float(x)})}
        for share in GENERATION
        for x in places
    ]
    steps = tables.steps
    sparsest = bound_data(tables)["density"].iloc[0]
    modes = []
    for mode in SIXTEEN_MODES:
        found = steps[(steps["mode"] == mode) & (steps["density"] == sparsest) & ~steps["known"]]["rest_speedup"]
        modes.append({"kind": "mode", "mode": mode, "x": found.min(), "y": found.max()})
    return pd.DataFrame(curves + modes).assign(need=profile.counted.need)


def sixteen_figure(data: pd.DataFrame) -> Figure:
    """One curve for each share of generation; bands where exact and streamed updates lie."""
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    panel = figure.subplots()
    curves, modes = data[data["kind"] == "curve"], data[data["kind"] == "mode"]
    need, top = float(data["need"].iloc[0]), 64.0
    for colour, mode in zip(("#009e73", "#e08a00"), modes.itertuples(), strict=True):
        panel.axvspan(mode.x, mode.y, color=colour, alpha=0.25, linewidth=0)
    shares = sorted(set(curves["generation"]))
    palette = sns.color_palette("crest", len(shares))
    for colour, share in zip(palette, shares, strict=True):
        own = curves[curves["generation"] == share]
        panel.plot(own["x"], own["y"], color=colour)
        limit = "" if share == 0 else f": below {1 / share:.3g}x"
        end = own[own["y"] <= top].iloc[-1]
        text = f"generation {100 * share:.3g} %{limit}"
        panel.annotate(text, (end["x"], end["y"]), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    panel.axhline(need, color="#d55e00", linewidth=1.2)
    panel.annotate(f"claimed {need:g}x", (1.05, need), xytext=(0, 3), textcoords="offset points", color="#b04a00")
    panel.set(xscale="log", yscale="log", xlim=(1, LARGEST), ylim=(1, top * 1.1))
    panel.set(xlabel="speed-up of all of a step but generation", ylabel="speed-up of the whole step")
    _ratio_axis(panel, "both")
    bands = [
        patch(colour, SIXTEEN_MODES[mode]) for colour, mode in zip(("#b2e0d4", "#f7deb5"), modes["mode"], strict=True)
    ]
    legend_below(figure, bands)
    return figure


@dataclass(frozen=True)
class _Plan:
    id: str
    title: str
    data: Callable[[ProfileTables, Profile], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    caption: Callable[[pd.DataFrame, ProfileTables], str]
    alt: Callable[[pd.DataFrame], str]


PLANS = (
    _Plan("profile_speedup", "Measured speed-up of an update against its bound", lambda t, _: speedup_data(t),
          speedup_figure, words.speedup, words.speedup_alt),
    _Plan("profile_bound", "Largest exact speed-up by model and response length", lambda t, _: bound_data(t),
          bound_figure, words.bound, words.bound_alt),
    _Plan("profile_memory", "Memory of an update by cause", lambda t, _: memory_data(t),
          memory_figure, words.memory, words.memory_alt),
    _Plan("profile_sixteen", "What the claimed speed-up of a step would need", sixteen_data,
          sixteen_figure, words.sixteen, words.sixteen_alt),
)  # fmt: skip


def write_profile_figures(
    tables: ProfileTables, profile: Profile, out: Path, *, keep: bool = False
) -> list[FigureRecord]:
    """Draw every figure into `out` as `<id>.svg`, `<id>.png` and `<id>.csv`, and write `figures.json`; with `keep`,
    pictures that are there stay as they are."""
    out.mkdir(parents=True, exist_ok=True)
    records = []
    with figure_style():
        for plan in PLANS:
            data = plan.data(tables, profile)
            files = write_figure(out, plan.id, data, partial(plan.draw, data), keep=keep)
            records.append(FigureRecord(plan.id, plan.title, plan.caption(data, tables), files, plan.alt(data)))
    text = json.dumps([asdict(record) for record in records], indent=1, ensure_ascii=False)
    (out / INDEX).write_text(text + "\n", encoding="utf-8")
    return records


def _stacked(data: pd.DataFrame, settings: list[str], row_height: float) -> tuple[Figure, list[Axes]]:
    """One panel under the other for each setting, as high as it has variants."""
    bars = [int((data["setting"] == setting).sum()) for setting in settings]
    height = sum(row_height * n + 0.6 for n in bars) + 0.8
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(settings), 1, squeeze=False, height_ratios=[n + 0.9 for n in bars])
    return figure, list(panels[:, 0])


def _say_where(figure: Figure, data: pd.DataFrame) -> None:
    """In the picture itself, which is shown without its caption too."""
    text = wrap(words.measured_told(data), 110)
    figure.suptitle(text, x=0.01, ha="left", fontsize=8.5, fontweight="normal", color=QUIET)


def _as_bars(panel: Axes) -> None:
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)


def _ratio_axis(panel: Axes, which: str) -> None:
    axes = [panel.xaxis] if which == "x" else [panel.xaxis, panel.yaxis]
    for axis in axes:
        low, high = axis.get_view_interval()
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if low <= tick <= high]
        axis.set_ticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.set_minor_locator(NullLocator())
