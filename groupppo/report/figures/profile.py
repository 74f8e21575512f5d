"""What an endpoint-sparse update costs, in four pictures: measured speed-up, its bound, memory, what 16x would need."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from groupppo.draw import style
from groupppo.draw.figures import FigureRecord, Picture, write_figures
from groupppo.draw.wording import in_bytes, percentage, plural, ratio
from groupppo.profile.config import Profile
from groupppo.profile.tables import ProfileTables
from groupppo.update.flops import step_bound
from groupppo.update.memory import CAUSES
from groupppo.update.variants import MEASURED
from groupppo.where import COLUMNS as FROM
from groupppo.where import where_of

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
        panel.hlines(at + 0.19, *whiskers, color=style.INK, linewidth=1.1)
        panel.vlines(rows["bound"], at - 0.45, at + 0.45, color="#d55e00", linewidth=1.6)
        for place, row in zip(at, rows.itertuples(), strict=True):
            right = max(row.flops_speedup, row.seconds_speedup_high, 0 if np.isnan(row.bound) else row.bound, 1)
            text = f"{ratio(row.flops_speedup)}, {ratio(row.seconds_speedup)}"
            panel.annotate(text, (right, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
        panel.set_yticks(at, [style.wrap(title, 34) for title in rows["title"]])
        panel.set(title=setting_title(rows.iloc[0]), xscale="log", xlim=(low, high * np.exp(0.3 * span)))
        panel.axvline(1, color=style.QUIET, linewidth=0.9)
        style.as_bars(panel)
        _ratio_axis(panel, "x")
    panels[-1].set_xlabel("speed-up over dense")
    _say_where(figure, data)
    bound = Line2D([], [], color="#d55e00", linestyle="none", marker="|", markersize=12, label="bound in operations")
    style.legend_below(
        figure, [style.patch(OPERATIONS, "operations"), style.patch(SECONDS, "seconds, 90 % interval"), bound]
    )
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
    figure = Figure(figsize=(style.WIDTH, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    models = list(dict.fromkeys(data["title"]))
    looks = {model: style.look_at(place, model) for place, model in enumerate(models)}
    for panel, checkpointing in zip(panels, (False, True), strict=True):
        rows = data[data["checkpointing"] == checkpointing]
        for model, look in looks.items():
            own = rows[rows["title"] == model]
            panel.plot(own["response"], own["update_bound"], **style.curve(look, len(own)))
        panel.set(title=f"{'with' if checkpointing else 'without'} gradient checkpointing", xscale="log")
        panel.set_xticks(sorted(set(rows["response"])), [f"{length:,}" for length in sorted(set(rows["response"]))])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("response length, tokens")
        panel.set_ylim(bottom=1)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    panels[0].set_ylabel("largest exact speed-up of an update")
    style.legend_below(figure, [style.line(look) for look in looks.values()])
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
        panel.plot(measured, at, "D", color=style.INK, markersize=4.5, zorder=3)
        for place, row in zip(at, whole.itertuples(), strict=True):
            text = f"{in_bytes(row.rise_bytes)} ({ratio(row.memory_ratio)})"
            right = (max(measured[place], left[place]), place)
            panel.annotate(text, right, xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5)
        panel.set_yticks(at, [style.wrap(title, 34) for title in whole["title"]])
        panel.set(title=setting_title(whole.iloc[0]), xlim=(0, float(max(measured.max(), left.max())) * 1.3))
        style.as_bars(panel)
    panels[-1].set_xlabel("memory above weights and gradients, MB")
    _say_where(figure, data)
    found = [cause for cause in CAUSES if data.loc[data["cause"] == cause, "bytes"].sum() > 0]
    mark = Line2D([], [], color=style.INK, marker="D", linestyle="none", markersize=4.5, label="measured peak")
    style.legend_below(figure, [*(style.patch(CAUSE_COLOURS[cause], CAUSE_LABELS[cause]) for cause in found), mark])
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
    figure = Figure(figsize=(style.WIDTH, 4.0), layout="constrained")
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
        style.patch(colour, SIXTEEN_MODES[mode])
        for colour, mode in zip(("#b2e0d4", "#f7deb5"), modes["mode"], strict=True)
    ]
    style.legend_below(figure, bands)
    return figure


def _stacked(data: pd.DataFrame, settings: list[str], row_height: float) -> tuple[Figure, list[Axes]]:
    """One panel under the other for each setting, as high as it has variants."""
    bars = [int((data["setting"] == setting).sum()) for setting in settings]
    height = sum(row_height * n + 0.6 for n in bars) + 0.8
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    panels = figure.subplots(len(settings), 1, squeeze=False, height_ratios=[n + 0.9 for n in bars])
    return figure, list(panels[:, 0])


def _say_where(figure: Figure, data: pd.DataFrame) -> None:
    """In the picture itself, which is shown without its caption too."""
    text = style.wrap(measured_in_words(data), 110)
    figure.suptitle(text, x=0.01, ha="left", fontsize=8.5, fontweight="normal", color=style.QUIET)


def _ratio_axis(panel: Axes, which: str) -> None:
    axes = [panel.xaxis] if which == "x" else [panel.xaxis, panel.yaxis]
    for axis in axes:
        low, high = axis.get_view_interval()
        ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if low <= tick <= high]
        axis.set_ticks(ticks, [f"{tick:g}x" for tick in ticks])
        axis.set_minor_locator(NullLocator())


def setting_title(row: pd.Series) -> str:
    """Such as "Qwen2.5-0.5B, response 1,024, density 1/16, checkpointing"."""
    stored = "checkpointing" if row["checkpointing"] else "no checkpointing"
    return f"{row['model']}, response {row['response']:,}, density {row['density']}, {stored}"


def measured_in_words(rows: pd.DataFrame) -> str:
    """Where the rows of the table `variants` were measured, first of all whether that was not for these results."""
    where = where_of(rows)
    listed = where.told()
    return f"{listed[0].upper()}{listed[1:]}." if where.here else f"Not measured in this results folder: {listed}."


def speedup_caption(data: pd.DataFrame, tables: ProfileTables) -> str:
    variants = tables.variants
    devices = sorted({f"{n} thread{'s' * (n > 1)} of a {d.upper()}" for d, n in _pairs(variants, "device", "threads")})
    rounds = sorted(set(data["rounds"].astype(int)))
    counts = plural(rounds[0], "round") if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]} rounds"
    exact = data[data["bound"].notna()]
    best = (exact["flops_speedup"] / exact["bound"]).max()
    return (
        f"{measured_in_words(data)} "
        "Forward and backward pass of the policy loss over one sequence, by variant: how much fewer operations and "
        f"seconds it takes than the dense one. Measured on {' and '.join(devices)}, random weights, {counts} in turns; "
        "whiskers are 90 % intervals of the ratio within a round. The vertical mark is the bound on operations of an "
        f"exact update; the best exact variant reaches {percentage(best)} of it. Seconds may pass the bound where the "
        "dense update waits for memory and not for arithmetic: compare them with the dense update with a fused head. "
        f"Streamed variants are approximate and have no such bound. {_streamed(data)}{_not_run(variants)}"
    ).strip()


def speedup_alt(data: pd.DataFrame) -> str:
    listed = [
        f"{setting_title(rows.iloc[0])}: "
        + "; ".join(
            f"{row.title} {ratio(row.flops_speedup)} in operations, {ratio(row.seconds_speedup)} in seconds"
            for row in rows.itertuples()
        )
        for _, rows in data.groupby("setting", sort=False)
    ]
    return f"Bar chart of speed-ups over dense. {'. '.join(listed)}."


def bound_caption(data: pd.DataFrame, _tables: ProfileTables) -> str:
    low, high = (data.loc[data["update_bound"].agg(which)] for which in ("idxmin", "idxmax"))
    shares = f"{percentage(data['eta'].min())} to {percentage(data['eta'].max())}"
    return (
        f"Counted from shapes at density {data['density'].iloc[0]}: the most an update with the dense gradient can "
        "gain over the dense one from computing the head and the last layer at endpoints only. It goes from "
        f"{ratio(low['update_bound'])} ({_place(low)}) to {ratio(high['update_bound'])} ({_place(high)}): it is the "
        f"head's share of the work, {shares}, that can be saved, and the share falls with the size of the model and, "
        "through attention, with the length of the response."
    )


def bound_alt(data: pd.DataFrame) -> str:
    listed = [
        f"{model} {ratio(rows['update_bound'].min())} to {ratio(rows['update_bound'].max())}"
        for model, rows in data.groupby("title", sort=False)
    ]
    return f"Line chart of the largest exact speed-up over response length. {'; '.join(listed)}."


def memory_caption(data: pd.DataFrame, tables: ProfileTables) -> str:
    whole = data.drop_duplicates(["setting", "variant"])
    error = whole["model_error"].abs().max()
    outside = whole[whole["model_error"].isna()]["title"].unique()
    rest = f" {', '.join(outside)}: measured only." if len(outside) else ""
    held = tables.variants[tables.variants["held_bytes"] > 0]
    kept = (
        f" Kept keys and values of an earlier pass take up to {in_bytes(held['held_bytes'].max())}."
        if len(held)
        else ""
    )
    return (
        f"{measured_in_words(data)} "
        "Memory an update needs above weights and gradients, at its fullest moment. Bars are the memory model, by "
        "cause; the mark is the measured peak, with its ratio to dense. The model is off by at most "
        f"{percentage(error)}.{rest}{kept} {_gathered(whole)}"
    )


def memory_alt(data: pd.DataFrame) -> str:
    whole = data.drop_duplicates(["setting", "variant"])
    listed = [
        f"{setting_title(rows.iloc[0])}: "
        + "; ".join(f"{row.title} {in_bytes(row.rise_bytes)}" for row in rows.itertuples())
        for _, rows in whole.groupby("setting", sort=False)
    ]
    return f"Stacked bar chart of update memory. Measured peaks: {'. '.join(listed)}."


def sixteen_caption(data: pd.DataFrame, tables: ProfileTables) -> str:
    need = data["need"].iloc[0]
    modes = data[data["kind"] == "mode"].set_index("mode")
    gathered, streamed = modes.loc["gathered"], modes.loc["streamed_reuse"]
    steps = tables.steps[~tables.steps["known"]]
    exact = steps[steps["mode"] == "gathered"]
    best = exact["step_speedup"].max()
    reach = exact["needed_generation"].notna().any()
    could = "could" if reach else "cannot, at any share of generation,"
    return (
        f"Speed-up of a whole training step when all but generation gets faster. A step in which generation takes more "
        f"than {percentage(1 / need)} cannot be {need:g} times as fast, whatever the update does. Bands: what "
        "updates reach on that axis over all models, lengths and checkpointing counted, with old and reference "
        "log-probabilities as dense passes, for endpoints are known only after them: exact "
        f"{ratio(gathered['x'])} to {ratio(gathered['y'])}, streamed (approximate) {ratio(streamed['x'])} to "
        f"{ratio(streamed['y'])}. An exact update {could} make a step {need:g} times as fast; with generation at "
        f"{percentage(exact['generation'].min())} of a dense step it gives {ratio(best)} at best."
    )


def sixteen_alt(data: pd.DataFrame) -> str:
    curves = data[data["kind"] == "curve"]
    ends = curves.sort_values("x").groupby("generation").tail(1).sort_values("generation")
    listed = [f"generation {percentage(row.generation)} ends at {ratio(row.y)}" for row in ends.itertuples()]
    return f"Line chart of step speed-up over the speed-up of all but generation. {'; '.join(listed)}."


def _streamed(data: pd.DataFrame) -> str:
    """What a streamed update gains with the pass that makes its keys and values, and without, where both ran."""
    listed = []
    for _, rows in data.groupby("setting", sort=False):
        of = rows.set_index("variant")
        if {"streamed_recompute", "streamed_reuse"} <= set(of.index):
            whole, bare = (
                f"{ratio(of.loc[name, 'flops_speedup'])} in operations and {ratio(of.loc[name, 'seconds_speedup'])} in "
                "seconds"
                for name in ("streamed_recompute", "streamed_reuse")
            )
            listed.append(f"at {setting_title(rows.iloc[0])} {whole}, and {bare} where an earlier pass has made them")
    return (
        f"With the pass that makes its keys and values a streamed update gains {'; '.join(listed)}. " if listed else ""
    )


def _gathered(whole: pd.DataFrame) -> str:
    """The ratio to dense in every setting: one of them says little about another."""
    rows = whole[whole["variant"] == "gathered"]
    listed = "; ".join(f"{ratio(row['memory_ratio'])} at {setting_title(row)}" for _, row in rows.iterrows())
    return f"The exact update takes of a dense one's {listed}." if listed else ""


def _place(row: pd.Series) -> str:
    return f"{row['title']}, response {row['response']:,}, {'' if row['checkpointing'] else 'no '}checkpointing"


def _pairs(table: pd.DataFrame, first: str, second: str) -> set[tuple[str, int]]:
    return {(str(a), int(b)) for a, b in zip(table[first], table[second], strict=True)}


def _not_run(variants: pd.DataFrame) -> str:
    rows = variants[variants["status"] != MEASURED].drop_duplicates(["variant", "reason"])
    listed = [f"{row.title}: {row.status}, {row.reason}" for row in rows.itertuples()]
    return f"Without a bar: {'; '.join(listed)}." if listed else ""


@dataclass(frozen=True)
class ProfileFigure:
    """A figure of a profile, found by being here; `data` makes the frame that is drawn."""

    id: str
    title: str
    data: Callable[[ProfileTables, Profile], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    caption: Callable[[pd.DataFrame, ProfileTables], str]
    alt: Callable[[pd.DataFrame], str]

    def picture(self, tables: ProfileTables, profile: Profile) -> Picture:
        frame = self.data(tables, profile)
        words = self.caption(frame, tables), self.alt(frame)
        return Picture(self.id, self.title, frame, lambda: self.draw(frame), *words)


FIGURES = (
    ProfileFigure(
        "profile_speedup",
        "Measured speed-up of an update against its bound",
        lambda tables, _: speedup_data(tables),
        speedup_figure,
        speedup_caption,
        speedup_alt,
    ),
    ProfileFigure(
        "profile_bound",
        "Largest exact speed-up by model and response length",
        lambda tables, _: bound_data(tables),
        bound_figure,
        bound_caption,
        bound_alt,
    ),
    ProfileFigure(
        "profile_memory",
        "Memory of an update by cause",
        lambda tables, _: memory_data(tables),
        memory_figure,
        memory_caption,
        memory_alt,
    ),
    ProfileFigure(
        "profile_sixteen",
        "What the claimed speed-up of a step would need",
        sixteen_data,
        sixteen_figure,
        sixteen_caption,
        sixteen_alt,
    ),
)


def draw_profile(tables: ProfileTables, profile: Profile, out: Path, *, keep: bool = False) -> list[FigureRecord]:
    """As `draw_figures`, of a profile."""
    return write_figures([figure.picture(tables, profile) for figure in FIGURES], out, keep=keep)
