"""What training cost: seconds and memory of each stage, from the tidy `stages` table.

Each figure has two functions: `<id>_data` computes the tidy frame that is drawn (and saved as CSV beside the picture),
`<id>_figure` draws exactly that frame.
"""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw.style import (
    INK,
    MOST_SINGLE,
    RUN_KEYS,
    SPREAD,
    STAGE_COLOURS,
    WIDTH,
    arm_looks,
    arms_in,
    bar,
    cell_title,
    cells,
    legend_below,
    patch,
    plain,
    wrap,
)
from groupppo.draw.wording import seconds_text
from groupppo.errors import BadInput

STAGES = tuple(stage for stage in STAGE_COLOURS if stage != "rest")
WHOLE = "step"
BYTES_PER_MB = 1e6
_THIN = {"color": INK, "linewidth": 0.8}
_CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}


def stage_seconds_data(stages: pd.DataFrame) -> pd.DataFrame:
    """Median seconds per step of every stage in each run, and what the stages leave of the whole step.

    Args:
        stages: the tidy `stages` table.

    Returns:
        task, model, arm, seed, stage, seconds. Stage "rest" is the median over steps of the whole step minus all its
        stages (saving the checkpoint counts as a stage); "step" is the median of the whole step.

    Raises:
        BadInput: the table is empty or has no row for whole steps.
    """
    _refuse_without_steps(stages)
    known = stages[stages["stage"].isin([*STAGES, WHOLE])]
    parts = known.groupby([*RUN_KEYS, "stage"], sort=False, observed=True)["seconds"].median().reset_index()
    sign = np.where(stages["stage"] == WHOLE, 1.0, -1.0)
    left = stages[RUN_KEYS].assign(step=stages["step"], seconds=sign * stages["seconds"])
    left = left.groupby([*RUN_KEYS, "step"], sort=False, observed=True)["seconds"].sum()
    # Clock resolution can leave the sum of the stages a hair above the step.
    rest = left.clip(lower=0).groupby(RUN_KEYS, sort=False, observed=True).median().reset_index()
    every = pd.concat([parts.astype({"stage": "str"}), rest.assign(stage="rest")], ignore_index=True)
    order = {stage: place for place, stage in enumerate((*STAGES, "rest", WHOLE))}
    every = every.sort_values("stage", key=lambda column: column.map(order), kind="stable", ignore_index=True)
    return plain(every[[*RUN_KEYS, "stage", "seconds"]])


def stage_seconds_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One stacked bar for each arm (mean over seeds of each stage's median), whole steps as diamonds."""
    looks, facets = arm_looks(benchmark), cells(data, benchmark)
    bars = [len(arms_in(cell.rows(data), benchmark)) for cell in facets]
    figure = Figure(figsize=(WIDTH, sum(0.42 * n + 0.75 for n in bars) + 0.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(facets), 1, height_ratios=[n + 0.9 for n in bars]))
    for panel, cell in zip(axes, facets, strict=True):
        rows = cell.rows(data)
        arms = arms_in(rows, benchmark)
        mean = rows.groupby(["arm", "stage"])["seconds"].mean().unstack().reindex(arms)
        left = np.zeros(len(arms))
        for stage in [stage for stage in STAGE_COLOURS if stage in mean]:
            width = mean[stage].fillna(0).to_numpy()
            colour = STAGE_COLOURS[stage]
            panel.barh(arms, width, left=left, color=colour, edgecolor="white", linewidth=0.8, height=0.66)
            left = left + width
        whole = mean[WHOLE].to_numpy()
        panel.plot(whole, range(len(arms)), "D", color=INK, markersize=4.5, zorder=3)
        for i, arm in enumerate(arms):
            text = _seconds_label(mean[WHOLE], arm, benchmark.reference)
            at = (max(whole[i], left[i]), i)
            panel.annotate(text, at, xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, bbox=_CLEAR)
        panel.set_yticks(range(len(arms)), [wrap(looks[arm].label, 20) for arm in arms])
        panel.set_xlim(0, float(np.maximum(whole, left).max()) * 1.25)
        panel.set(xlabel="seconds per training step, median over steps", title=cell_title(cell, benchmark))
        _as_bar_panel(panel)
    stages = [patch(colour, stage) for stage, colour in STAGE_COLOURS.items() if (data["stage"] == stage).any()]
    whole_step = Line2D([], [], color=INK, marker="D", linestyle="none", markersize=4.5, label="whole step")
    legend_below(figure, [*stages, whole_step])
    return figure


def stage_memory_data(stages: pd.DataFrame) -> pd.DataFrame:
    """Memory of every stage in each run.

    Args:
        stages: the tidy `stages` table.

    Returns:
        task, model, arm, seed, stage, peak_bytes (the largest over steps), rise_bytes (median over steps of peak minus
        memory at stage entry).

    Raises:
        BadInput: the table is empty or has no row for whole steps.
    """
    _refuse_without_steps(stages)
    kept = stages[stages["stage"].isin([*STAGES, WHOLE])]
    by_stage = kept.astype({"stage": "str"}).groupby([*RUN_KEYS, "stage"], sort=False, observed=True)
    return plain(by_stage.agg(peak_bytes=("peak_bytes", "max"), rise_bytes=("rise_bytes", "median")).reset_index())


def stage_memory_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Peak (left) and rise (right) of each stage, one bar for each arm (mean over seeds), a dot for each seed."""
    looks, facets = arm_looks(benchmark), cells(data, benchmark)
    arms = arms_in(data, benchmark)
    found = set(data["stage"])
    order = [stage for stage in (*STAGES, WHOLE) if stage in found]
    height = len(facets) * (len(order) * (0.1 * len(arms) + 0.22) + 0.75) + 0.4
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(len(facets), 2, squeeze=False)
    for row, cell in enumerate(facets):
        for column, (quantity, label) in enumerate([("peak_bytes", "peak"), ("rise_bytes", "rise above stage entry")]):
            panel = axes[row, column]
            rows = cell.rows(data)
            divisor, unit = (1e3 * BYTES_PER_MB, "GB") if rows[quantity].max() >= 1e9 else (BYTES_PER_MB, "MB")
            scaled = rows.assign(size=rows[quantity] / divisor)
            shared = {"x": "size", "y": "stage", "hue": "arm", "order": order, "hue_order": arms, "ax": panel}
            palette = {arm: looks[arm].colour for arm in arms}
            single = rows["seed"].nunique() <= MOST_SINGLE
            held = ("pi", SPREAD[1] - SPREAD[0])
            spread: Any = {"errorbar": None} if single else {"errorbar": held, "err_kws": _THIN}
            sns.barplot(scaled, **shared, palette=palette, saturation=1, legend=False, **spread)
            for arm, bars in zip(arms, panel.containers, strict=True):
                for drawn in bars:
                    drawn.set(hatch=looks[arm].hatch, edgecolor="white", linewidth=0)
            if single:
                inks = dict.fromkeys(arms, INK)
                edges: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4}
                sns.stripplot(scaled, **shared, palette=inks, dodge=True, jitter=False, size=3, legend=False, **edges)
            panel.set(xlabel=f"{label}, {unit}", ylabel="")
            panel.set_xlim(left=0)
            panel.set_yticks(range(len(order)), ["whole step" if stage == WHOLE else stage for stage in order])
            panel.tick_params(axis="y", length=0, labelleft=column == 0)
            panel.grid(visible=False, axis="y")
        axes[row, 0].set_title(cell_title(cell, benchmark))
    legend_below(figure, [bar(looks[arm]) for arm in arms])
    return figure


def _seconds_label(whole: pd.Series, arm: str, reference: str) -> str:
    """Such as "0.73 s (1.02x)": the second number is the ratio to the reference arm, where that has runs."""
    ratio = f" ({whole[arm] / whole[reference]:.2f}x)" if reference in whole and arm != reference else ""
    return f"{seconds_text(float(whole[arm]))}{ratio}"


def _as_bar_panel(panel: Axes) -> None:
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)


def _refuse_without_steps(stages: pd.DataFrame) -> None:
    if not (stages["stage"] == WHOLE).any():
        hint = f'collect at least one finished run, with a row of stage "{WHOLE}" for each step.'
        raise BadInput("tables/stages.parquet", "rows", len(stages), hint)
