"""Memory of each stage of a step."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import each, seeds_in_words
from groupppo.draw.wording import in_bytes
from groupppo.report.figures import RunFigure
from groupppo.report.figures.stage_seconds import STAGES, WHOLE, refuse_without_steps

AXES = {"peak_bytes": "peak", "rise_bytes": "rise above stage entry"}


def data(stages: pd.DataFrame) -> pd.DataFrame:
    """Memory of every stage in each run.

    Returns:
        task, model, arm, seed, stage, peak_bytes (the largest over steps), rise_bytes (median over steps of peak minus
        memory at stage entry).
    """
    refuse_without_steps(stages)
    kept = stages[stages["stage"].isin([*STAGES, WHOLE])]
    by_stage = kept.astype({"stage": "str"}).groupby([*style.RUN_KEYS, "stage"], sort=False, observed=True)
    return style.plain(
        by_stage.agg(peak_bytes=("peak_bytes", "max"), rise_bytes=("rise_bytes", "median")).reset_index()
    )


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Peak (left) and rise (right) of each stage, one bar for each arm (mean over seeds), a dot for each seed."""
    looks, found = style.arm_looks(benchmark, data), set(data["stage"])
    order = [stage for stage in (*STAGES, WHOLE) if stage in found]
    per_arm = 0.14 * len(order)
    figure, facets = style.facets(data, benchmark, 0.75, columns=len(AXES), by_arm=per_arm)
    for rows, own, panels in facets:
        for panel, (quantity, label) in zip(panels, AXES.items(), strict=True):
            divisor, unit = (1e9, "GB") if rows[quantity].max() >= 1e9 else (1e6, "MB")
            scaled = rows.assign(size=rows[quantity] / divisor)
            for place, (arm, look) in enumerate(own.items()):
                _bars(panel, scaled[scaled["arm"] == arm], order, (place, len(own)), look)
            style.label_rows(panel, ["whole step" if stage == WHOLE else stage for stage in order])
            panel.tick_params(labelleft=panel is panels[0])
            panel.set(xlabel=f"{label}, {unit}")
            panel.set_xlim(left=0)
    style.legend_below(figure, [style.patch(look.colour, look.label, look.hatch) for look in looks.values()])
    return figure


def _bars(panel: Axes, rows: pd.DataFrame, order: list[str], share: tuple[int, int], look: style.Look) -> None:
    """A bar for each stage of `order` in the arm's share, (place, arms), of the stage's height."""
    place, arms = share
    height = 0.8 / arms
    at = pd.Series(np.arange(len(order)) - 0.4 + (place + 0.5) * height, index=order)
    bar: dict[str, Any] = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
    panel.barh(at, rows.groupby("stage")["size"].mean().reindex(order), height, **bar)
    panel.plot(rows["size"], rows["stage"].map(at), ".", color=style.INK, markersize=4, markeredgewidth=0.3, mec="w")


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Memory of each stage. Left: the largest memory during the stage over all steps of a run. Right: how far it "
        "rose above the memory at the stage's entry, median over steps. Bars are means over seeds, dots single seeds; "
        f"{seeds_in_words(data, benchmark)}. The two scales differ. "
        "Arms without a critic have neither values nor update_critic."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]
    shown = each(whole, benchmark, lambda rows, title: f"{title} {in_bytes(rows['peak_bytes'].mean())}")
    return f"Bar chart of stage memory. Peak of whole steps: {shown}"


FIGURE = RunFigure(
    "stage_memory", "Memory of each stage", 100, lambda rows, _: data(rows), draw, caption, alt, tables=("stages",)
)
