"""Seconds of each stage of a step."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import each, seeds_in_words
from groupppo.draw.wording import seconds_text
from groupppo.errors import BadInput
from groupppo.report.figures import Need, RunFigure

STAGES = tuple(stage for stage in style.STAGE_COLOURS if stage != "rest")
WHOLE = "step"
_CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}


def data(stages: pd.DataFrame) -> pd.DataFrame:
    """Median seconds per step of every stage in each run, and what the stages leave of the whole step.

    Returns:
        task, model, arm, seed, stage, seconds. Stage "rest" is the median over steps of the whole step minus all its
        stages (saving the checkpoint counts as a stage); "step" is the median of the whole step.
    """
    refuse_without_steps(stages)
    known = stages[stages["stage"].isin([*STAGES, WHOLE])]
    parts = known.groupby([*style.RUN_KEYS, "stage"], sort=False, observed=True)["seconds"].median().reset_index()
    sign = np.where(stages["stage"] == WHOLE, 1.0, -1.0)
    left = stages[style.RUN_KEYS].assign(step=stages["step"], seconds=sign * stages["seconds"])
    left = left.groupby([*style.RUN_KEYS, "step"], sort=False, observed=True)["seconds"].sum()
    # Clock resolution can leave the sum of the stages a hair above the step.
    rest = left.clip(lower=0).groupby(style.RUN_KEYS, sort=False, observed=True).median().reset_index()
    every = pd.concat([parts.astype({"stage": "str"}), rest.assign(stage="rest")], ignore_index=True)
    order = {stage: place for place, stage in enumerate((*STAGES, "rest", WHOLE))}
    every = every.sort_values("stage", key=lambda column: column.map(order), kind="stable", ignore_index=True)
    return style.plain(every[[*style.RUN_KEYS, "stage", "seconds"]])


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One stacked bar for each arm (mean over seeds of each stage's median), whole steps as diamonds."""
    looks, facets = style.arm_looks(benchmark), style.cells(data, benchmark)
    bars = [len(style.arms_in(cell.rows(data), benchmark)) for cell in facets]
    figure = Figure(figsize=(style.WIDTH, sum(0.42 * n + 0.75 for n in bars) + 0.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(facets), 1, height_ratios=[n + 0.9 for n in bars]))
    for panel, cell in zip(axes, facets, strict=True):
        rows = cell.rows(data)
        arms = style.arms_in(rows, benchmark)
        mean = rows.groupby(["arm", "stage"])["seconds"].mean().unstack().reindex(arms)
        left = np.zeros(len(arms))
        for stage in [stage for stage in style.STAGE_COLOURS if stage in mean]:
            width = mean[stage].fillna(0).to_numpy()
            colour = style.STAGE_COLOURS[stage]
            panel.barh(arms, width, left=left, color=colour, edgecolor="white", linewidth=0.8, height=0.66)
            left = left + width
        whole = mean[WHOLE].to_numpy()
        panel.plot(whole, range(len(arms)), "D", color=style.INK, markersize=4.5, zorder=3)
        for i, arm in enumerate(arms):
            text = _seconds_label(mean[WHOLE], arm, benchmark.reference)
            at = (max(whole[i], left[i]), i)
            panel.annotate(text, at, xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, bbox=_CLEAR)
        panel.set_yticks(range(len(arms)), [style.wrap(looks[arm].label, 20) for arm in arms])
        panel.set_xlim(0, float(np.maximum(whole, left).max()) * 1.25)
        panel.set(xlabel="seconds per training step, median over steps", title=style.cell_title(cell, benchmark))
        style.as_bars(panel)
    stages = [
        style.patch(colour, stage) for stage, colour in style.STAGE_COLOURS.items() if (data["stage"] == stage).any()
    ]
    whole_step = Line2D([], [], color=style.INK, marker="D", linestyle="none", markersize=4.5, label="whole step")
    style.legend_below(figure, [*stages, whole_step])
    return figure


def _seconds_label(whole: pd.Series, arm: str, reference: str) -> str:
    """Such as "0.73 s (1.02x)": the second number is the ratio to the reference arm, where that has runs."""
    ratio = f" ({whole[arm] / whole[reference]:.2f}x)" if reference in whole and arm != reference else ""
    return f"{seconds_text(float(whole[arm]))}{ratio}"


def refuse_without_steps(stages: pd.DataFrame) -> None:
    if not (stages["stage"] == WHOLE).any():
        hint = f'collect at least one finished run, with a row of stage "{WHOLE}" for each step.'
        raise BadInput("tables/stages.parquet", "rows", len(stages), hint)


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title = benchmark.arms[benchmark.reference].title
    return (
        "Wall-clock seconds of one training step by stage. Each segment is the median over the steps of a run, "
        f"averaged over seeds; {seeds_in_words(data, benchmark)}. The diamond is the median of whole steps, with its "
        f"ratio to {title}; medians of parts need not add up to it. The rest is time between stages, median over "
        "steps. Arms without a critic have neither values nor update_critic."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]

    shown = each(whole, benchmark, lambda rows, title: f"{title} {seconds_text(rows['seconds'].mean())}")
    return f"Stacked bars of stage seconds. Whole steps take: {shown}"


FIGURE = RunFigure(
    id="stage_seconds",
    title="Seconds of each stage",
    order=90,
    needs=(Need("stages", ("stage", "seconds")),),
    data=lambda rows, _: data(rows),
    draw=draw,
    caption=caption,
    alt=alt,
)
