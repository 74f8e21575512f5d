"""Seconds of each stage of a step."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.figures import each, seeds_in_words
from groupppo.draw.wording import seconds_text
from groupppo.errors import BadInput
from groupppo.report.figures import RunFigure

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
    left = stages[[*style.RUN_KEYS, "step"]].assign(seconds=sign * stages["seconds"])
    left = left.groupby([*style.RUN_KEYS, "step"], sort=False, observed=True)["seconds"].sum()
    # Clock resolution can leave the sum of the stages a hair above the step.
    rest = left.clip(lower=0).groupby(style.RUN_KEYS, sort=False, observed=True).median().reset_index()
    every = pd.concat([parts.astype({"stage": "str"}), rest.assign(stage="rest")], ignore_index=True)
    order = {stage: place for place, stage in enumerate((*STAGES, "rest", WHOLE))}
    every = every.sort_values("stage", key=lambda column: column.map(order), kind="stable", ignore_index=True)
    return style.plain(every[[*style.RUN_KEYS, "stage", "seconds"]])


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """One stacked bar for each arm (mean over seeds of each stage's median), whole steps as diamonds."""
    figure, facets = style.facets(data, benchmark, 0.8, by_arm=0.42)
    for rows, arms, (panel,) in facets:
        mean = rows.groupby(["arm", "stage"])["seconds"].mean().unstack().reindex(list(arms))
        ends = style.stacked_bars(panel, mean, style.STAGE_COLOURS, mean[WHOLE])
        for place, (arm, end) in enumerate(zip(arms, ends, strict=True)):
            style.beside(panel, _seconds_label(mean[WHOLE], arm, benchmark.reference), (end, place), bbox=_CLEAR)
        style.label_rows(panel, [look.label for look in arms.values()])
        panel.set_xlabel("seconds per training step, median over steps")
    found = set(data["stage"])
    stages = [style.patch(colour, stage) for stage, colour in style.STAGE_COLOURS.items() if stage in found]
    style.legend_below(figure, [*stages, style.mark("whole step", "D", style.INK, markersize=4.5)])
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
    "stage_seconds", "Seconds of each stage", 90, lambda rows, _: data(rows), draw, caption, alt, tables=("stages",)
)
