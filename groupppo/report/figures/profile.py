"""What an endpoint-sparse update costs, in four pictures: measured speed-up, its bound, memory, what 16x would need."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from groupppo.draw import style
from groupppo.draw.blocks import FigureRecord
from groupppo.draw.figures import Picture, write_figures
from groupppo.draw.wording import in_bytes, percentage, plural, plurals, ratio
from groupppo.profile.config import Profile
from groupppo.profile.tables import ProfileTables
from groupppo.records.where import COLUMNS as FROM
from groupppo.records.where import where_of
from groupppo.update.flops import step_bound
from groupppo.update.memory import CAUSES
from groupppo.update.variants import MEASURED

KEYS = ["setting", "model", "response", "density", "checkpointing", "variant", "title"]
SECONDS, OPERATIONS, BOUND = "#0072b2", "#a9cfe6", "#d55e00"
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
SIXTEEN_COLOURS = {"gathered": "#b2e0d4", "streamed_reuse": "#f7deb5"}
LARGEST, TOP = 512.0, 64.0
GENERATION = (0.0, 1 / 32, 1 / 16, 0.3, 0.5, 0.7)


def speedup_data(tables: ProfileTables) -> pd.DataFrame:
    """One row per setting and variant that was measured, but for dense: both speed-ups over it, and the bound."""
    rows = tables.variants[(tables.variants["status"] == MEASURED) & (tables.variants["variant"] != "dense")]
    numbers = ["flops_speedup", "seconds_speedup", "seconds_speedup_low", "seconds_speedup_high", "bound", "rounds"]
    # Tables of before do not have the last ones.
    return rows.reindex(columns=[*KEYS, *numbers, *FROM]).reset_index(drop=True)


def speedup_figure(data: pd.DataFrame) -> Figure:
    """Two bars for each variant, operations above seconds, from 1 on a log axis; whiskers and the bound on them."""
    figure, panels = _by_setting(data, 0.44)
    shown = data[["flops_speedup", "seconds_speedup", "seconds_speedup_low", "seconds_speedup_high", "bound"]]
    low, high = min(0.8, float(shown.min(axis=None))), float(shown.max(axis=None))
    for rows, panel in panels:
        at, ends = np.arange(len(rows)), shown.loc[rows.index].max(axis=1).clip(lower=1)
        panel.barh(at - 0.19, rows["flops_speedup"] - 1, 0.36, 1, color=OPERATIONS)
        panel.barh(at + 0.19, rows["seconds_speedup"] - 1, 0.36, 1, color=SECONDS)
        panel.hlines(at + 0.19, rows["seconds_speedup_low"], rows["seconds_speedup_high"], style.INK, linewidth=1.1)
        panel.vlines(rows["bound"], at - 0.45, at + 0.45, BOUND, linewidth=1.6)
        for place, (row, end) in enumerate(zip(rows.itertuples(), ends, strict=True)):
            style.beside(panel, f"{ratio(row.flops_speedup)}, {ratio(row.seconds_speedup)}", (end, place))
        panel.axvline(1, color=style.QUIET, linewidth=0.9)
        panel.set(xscale="log", xlim=(low, high * (high / low) ** 0.3), xlabel="speed-up over dense")
        _ratios(panel.xaxis)
    operations, seconds = style.patch(OPERATIONS, "operations"), style.patch(SECONDS, "seconds, 90 % interval")
    style.legend_below(figure, [operations, seconds, style.mark("bound in operations", "|", BOUND, markersize=12)])
    return figure


def speedup(tables: ProfileTables) -> Picture:
    data = speedup_data(tables)
    variants = tables.variants
    pairs = zip(variants["threads"], variants["device"], strict=True)
    devices = sorted({f"{plural(int(threads), 'thread')} of a {device.upper()}" for threads, device in pairs})
    counts = plurals(data["rounds"], "round")
    exact = data[data["bound"].notna()]
    best = (exact["flops_speedup"] / exact["bound"]).max()
    caption = (
        f"{measured_in_words(data)} "
        "Forward and backward pass of the policy loss over one sequence, by variant: how much fewer operations and "
        f"seconds it takes than the dense one. Measured on {' and '.join(devices)}, random weights, {counts} in turns; "
        "whiskers are 90 % intervals of the ratio within a round. The vertical mark is the bound on operations of an "
        f"exact update; the best exact variant reaches {percentage(best)} of it. Seconds may pass the bound where the "
        "dense update waits for memory and not for arithmetic: compare them with the dense update with a fused head. "
        f"Streamed variants are approximate and have no such bound. {_streamed(data)}{_not_run(variants)}"
    ).strip()

    def variant(row: Any) -> str:
        return f"{row.title} {ratio(row.flops_speedup)} in operations, {ratio(row.seconds_speedup)} in seconds"

    alt = f"Bar chart of speed-ups over dense. {_listed(data, variant)}."
    title = "Measured speed-up of an update against its bound"
    return Picture("profile_speedup", title, data, partial(speedup_figure, data), caption, alt)


def _streamed(data: pd.DataFrame) -> str:
    """What a streamed update gains with the pass that makes its keys and values, and without, where both ran."""
    both = ["streamed_recompute", "streamed_reuse"]
    listed = []
    for _, rows in data[data["variant"].isin(both)].groupby("setting", sort=False):
        if len(rows) == 2:
            of = rows.set_index("variant").loc[both].itertuples()
            whole, bare = (
                f"{ratio(row.flops_speedup)} in operations and {ratio(row.seconds_speedup)} in seconds" for row in of
            )
            listed.append(f"at {setting_title(rows.iloc[0])} {whole}, and {bare} where an earlier pass has made them")
    gains = f"With the pass that makes its keys and values a streamed update gains {'; '.join(listed)}. "
    return gains if listed else ""


def _not_run(variants: pd.DataFrame) -> str:
    rows = variants[variants["status"] != MEASURED].drop_duplicates(["variant", "reason"])
    listed = [f"{row.title}: {row.status}, {row.reason}" for row in rows.itertuples()]
    return f"Without a bar: {'; '.join(listed)}." if listed else ""


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
    looks = {model: style.look_at(place, model) for place, model in enumerate(dict.fromkeys(data["title"]))}
    for panel, checkpointing in zip(panels, (False, True), strict=True):
        rows = data[data["checkpointing"] == checkpointing]
        for model, look in looks.items():
            own = rows[rows["title"] == model]
            panel.plot(own["response"], own["update_bound"], **style.curve(look, len(own)))
        lengths = sorted(set(rows["response"]))
        panel.set(title=f"{'with' if checkpointing else 'without'} gradient checkpointing", xscale="log")
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("response length, tokens")
        panel.set_ylim(bottom=1)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}x")
    panels[0].set_ylabel("largest exact speed-up of an update")
    style.legend_below(figure, [style.line(look) for look in looks.values()])
    return figure


def bound(tables: ProfileTables) -> Picture:
    data = bound_data(tables)
    low, high = (data.loc[data["update_bound"].agg(which)] for which in ("idxmin", "idxmax"))
    shares = f"{percentage(data['eta'].min())} to {percentage(data['eta'].max())}"

    def place(row: pd.Series) -> str:
        return f"{row['title']}, response {row['response']:,}, {'' if row['checkpointing'] else 'no '}checkpointing"

    caption = (
        f"Counted from shapes at density {data['density'].iloc[0]}: the most an update with the dense gradient can "
        "gain over the dense one from computing the head and the last layer at endpoints only. It goes from "
        f"{ratio(low['update_bound'])} ({place(low)}) to {ratio(high['update_bound'])} ({place(high)}): it is the "
        f"head's share of the work, {shares}, that can be saved, and the share falls with the size of the model and, "
        "through attention, with the length of the response."
    )
    listed = [
        f"{model} {ratio(rows['update_bound'].min())} to {ratio(rows['update_bound'].max())}"
        for model, rows in data.groupby("title", sort=False)
    ]
    alt = f"Line chart of the largest exact speed-up over response length. {'; '.join(listed)}."
    title = "Largest exact speed-up by model and response length"
    return Picture("profile_bound", title, data, partial(bound_figure, data), caption, alt)


def memory_data(tables: ProfileTables) -> pd.DataFrame:
    """One row per setting, variant and cause: modelled bytes; `rise_bytes` is the variant's measured rise, repeated."""
    rows = tables.variants[tables.variants["status"] == MEASURED].reset_index(drop=True)
    shared = [*KEYS, *FROM, "rise_bytes", "memory_ratio", "model_error"]
    parts = rows.rename(columns={f"model_{cause}": cause for cause in CAUSES}).reindex(columns=[*shared, *CAUSES])
    long = parts.melt(shared, list(CAUSES), "cause", "bytes", ignore_index=False)
    return long.sort_index(kind="stable").reset_index(drop=True)


def memory_figure(data: pd.DataFrame) -> Figure:
    """One bar for each variant, stacked by modelled cause, its measured peak as a mark."""
    figure, panels = _by_setting(data, 0.4)
    for rows, panel in panels:
        whole = rows.drop_duplicates("variant").set_index("variant")
        wide = rows.pivot(index="variant", columns="cause", values="bytes").reindex(whole.index)
        ends = style.stacked_bars(panel, wide / 1e6, CAUSE_COLOURS, whole["rise_bytes"] / 1e6)
        for place, (row, end) in enumerate(zip(whole.itertuples(), ends, strict=True)):
            style.beside(panel, f"{in_bytes(row.rise_bytes)} ({ratio(row.memory_ratio)})", (end, place))
        panel.set_xlabel("memory above weights and gradients, MB")
    found = data[data["bytes"] > 0]["cause"].unique()
    causes = [style.patch(CAUSE_COLOURS[cause], CAUSE_LABELS[cause]) for cause in CAUSES if cause in found]
    style.legend_below(figure, [*causes, style.mark("measured peak", "D", style.INK, markersize=4.5)])
    return figure


def memory(tables: ProfileTables) -> Picture:
    data = memory_data(tables)
    whole = data.drop_duplicates(["setting", "variant"])
    error = whole["model_error"].abs().max()
    outside = whole[whole["model_error"].isna()]["title"].unique()
    rest = f" {', '.join(outside)}: measured only." if len(outside) else ""
    held = tables.variants[tables.variants["held_bytes"] > 0]
    most = in_bytes(held["held_bytes"].max())
    kept = f" Kept keys and values of an earlier pass take up to {most}." if len(held) else ""
    caption = (
        f"{measured_in_words(data)} "
        "Memory an update needs above weights and gradients, at its fullest moment. Bars are the memory model, by "
        "cause; the mark is the measured peak, with its ratio to dense. The model is off by at most "
        f"{percentage(error)}.{rest}{kept} {_gathered(whole)}"
    )
    listed = _listed(whole, lambda row: f"{row.title} {in_bytes(row.rise_bytes)}")
    alt = f"Stacked bar chart of update memory. Measured peaks: {listed}."
    title = "Memory of an update by cause"
    return Picture("profile_memory", title, data, partial(memory_figure, data), caption, alt)


def _gathered(whole: pd.DataFrame) -> str:
    """The ratio to dense in every setting: one of them says little about another."""
    rows = whole[whole["variant"] == "gathered"]
    listed = "; ".join(f"{ratio(row['memory_ratio'])} at {setting_title(row)}" for _, row in rows.iterrows())
    return f"The exact update takes of a dense one's {listed}." if listed else ""


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
    for mode in data[data["kind"] == "mode"].itertuples():
        panel.axvspan(mode.x, mode.y, color=SIXTEEN_COLOURS[mode.mode], linewidth=0)
    curves = data[data["kind"] == "curve"].groupby("generation")
    for colour, (share, own) in zip(sns.color_palette("crest", len(curves)), curves, strict=True):
        panel.plot(own["x"], own["y"], color=colour)
        limit = "" if share == 0 else f": below {1 / share:.3g}x"
        end = own[own["y"] <= TOP].iloc[-1]
        style.beside(panel, f"generation {100 * share:.3g} %{limit}", (end["x"], end["y"]))
    need = float(data["need"].iloc[0])
    panel.axhline(need, color=BOUND, linewidth=1.2)
    panel.text(1.05, need * 1.04, f"claimed {need:g}x", color="#b04a00")
    panel.set(xscale="log", yscale="log", xlim=(1, LARGEST), ylim=(1, TOP * 1.1))
    panel.set(xlabel="speed-up of all of a step but generation", ylabel="speed-up of the whole step")
    for axis in (panel.xaxis, panel.yaxis):
        _ratios(axis)
    style.legend_below(figure, [style.patch(SIXTEEN_COLOURS[mode], label) for mode, label in SIXTEEN_MODES.items()])
    return figure


def sixteen(tables: ProfileTables, profile: Profile) -> Picture:
    data = sixteen_data(tables, profile)
    need = data["need"].iloc[0]
    modes = data[data["kind"] == "mode"].set_index("mode")
    gathered, streamed = modes.loc["gathered"], modes.loc["streamed_reuse"]
    steps = tables.steps[~tables.steps["known"]]
    exact = steps[steps["mode"] == "gathered"]
    best = exact["step_speedup"].max()
    reach = exact["needed_generation"].notna().any()
    could = "could" if reach else "cannot, at any share of generation,"
    caption = (
        f"Speed-up of a whole training step when all but generation gets faster. A step in which generation takes more "
        f"than {percentage(1 / need)} cannot be {need:g} times as fast, whatever the update does. Bands: what "
        "updates reach on that axis over all models, lengths and checkpointing counted, with old and reference "
        "log-probabilities as dense passes, for endpoints are known only after them: exact "
        f"{ratio(gathered['x'])} to {ratio(gathered['y'])}, streamed (approximate) {ratio(streamed['x'])} to "
        f"{ratio(streamed['y'])}. An exact update {could} make a step {need:g} times as fast; with generation at "
        f"{percentage(exact['generation'].min())} of a dense step it gives {ratio(best)} at best."
    )
    ends = data[data["kind"] == "curve"].groupby("generation")["y"].last()
    listed = [f"generation {percentage(share)} ends at {ratio(end)}" for share, end in ends.items()]
    alt = f"Line chart of step speed-up over the speed-up of all but generation. {'; '.join(listed)}."
    title = "What the claimed speed-up of a step would need"
    return Picture("profile_sixteen", title, data, partial(sixteen_figure, data), caption, alt)


def _by_setting(data: pd.DataFrame, by_variant: float) -> tuple[Figure, list[tuple[pd.DataFrame, Axes]]]:
    """A panel for each setting with a row for each variant; the picture says itself where it was measured."""
    settings = [rows for _, rows in data.groupby("setting", sort=False)]
    titles = [list(rows.drop_duplicates("variant")["title"]) for rows in settings]
    height = sum(by_variant * len(listed) + 0.6 for listed in titles) + 0.8
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    panels = figure.subplots(len(settings), 1, squeeze=False, height_ratios=[len(listed) + 0.9 for listed in titles])
    for panel, rows, listed in zip(panels[:, 0], settings, titles, strict=True):
        panel.set_title(setting_title(rows.iloc[0]))
        style.label_rows(panel, listed, 34)
    text = style.wrap(measured_in_words(data), 110)
    figure.suptitle(text, x=0.01, ha="left", fontsize=8.5, fontweight="normal", color=style.QUIET)
    return figure, list(zip(settings, panels[:, 0], strict=True))


def _ratios(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(2, numticks=12))
    axis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_minor_locator(NullLocator())


def _listed(data: pd.DataFrame, describe: Callable[[Any], str]) -> str:
    """What is said of each row, by setting."""
    return ". ".join(
        f"{setting_title(rows.iloc[0])}: {'; '.join(map(describe, rows.itertuples()))}"
        for _, rows in data.groupby("setting", sort=False)
    )


def setting_title(row: pd.Series) -> str:
    """Such as "Qwen2.5-0.5B, response 1,024, density 1/16, checkpointing"."""
    stored = "checkpointing" if row["checkpointing"] else "no checkpointing"
    return f"{row['model']}, response {row['response']:,}, density {row['density']}, {stored}"


def measured_in_words(rows: pd.DataFrame) -> str:
    """Where the rows of the table `variants` were measured, first of all whether that was not for these results."""
    where = where_of(rows)
    listed = where.told()
    return f"{listed[0].upper()}{listed[1:]}." if where.here else f"Not measured in this results folder: {listed}."


def profile_pictures(tables: ProfileTables, profile: Profile) -> list[Picture]:
    """The figures of a profile."""
    return [speedup(tables), bound(tables), memory(tables), sixteen(tables, profile)]


def draw_profile(tables: ProfileTables, profile: Profile, out: Path, *, keep: bool = False) -> list[FigureRecord]:
    """As `draw_figures`, of a profile."""
    return write_figures(profile_pictures(tables, profile), out, keep=keep)
