"""Memory of each stage of a step."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import style
from groupppo.draw.captions import each, many_seeds, seeds_in_words
from groupppo.draw.wording import in_bytes
from groupppo.report.figures import Need, RunFigure
from groupppo.report.figures.stage_seconds import STAGES, WHOLE, refuse_without_steps

BYTES_PER_MB = 1e6
_THIN = {"color": style.INK, "linewidth": 0.8}


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
    looks, facets = style.arm_looks(benchmark), style.cells(data, benchmark)
    arms = style.arms_in(data, benchmark)
    found = set(data["stage"])
    order = [stage for stage in (*STAGES, WHOLE) if stage in found]
    height = len(facets) * (len(order) * (0.1 * len(arms) + 0.22) + 0.75) + 0.4
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    axes = figure.subplots(len(facets), 2, squeeze=False)
    for row, cell in enumerate(facets):
        for column, (quantity, label) in enumerate([("peak_bytes", "peak"), ("rise_bytes", "rise above stage entry")]):
            panel = axes[row, column]
            rows = cell.rows(data)
            divisor, unit = (1e3 * BYTES_PER_MB, "GB") if rows[quantity].max() >= 1e9 else (BYTES_PER_MB, "MB")
            scaled = rows.assign(size=rows[quantity] / divisor)
            shared = {"x": "size", "y": "stage", "hue": "arm", "order": order, "hue_order": arms, "ax": panel}
            palette = {arm: looks[arm].colour for arm in arms}
            single = rows["seed"].nunique() <= style.MOST_SINGLE
            held = ("pi", style.SPREAD[1] - style.SPREAD[0])
            spread: Any = {"errorbar": None} if single else {"errorbar": held, "err_kws": _THIN}
            sns.barplot(scaled, **shared, palette=palette, saturation=1, legend=False, **spread)
            for arm, bars in zip(arms, panel.containers, strict=True):
                for drawn in bars:
                    drawn.set(hatch=looks[arm].hatch, edgecolor="white", linewidth=0)
            if single:
                inks = dict.fromkeys(arms, style.INK)
                edges: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4}
                sns.stripplot(scaled, **shared, palette=inks, dodge=True, jitter=False, size=3, legend=False, **edges)
            panel.set(xlabel=f"{label}, {unit}", ylabel="")
            panel.set_xlim(left=0)
            panel.set_yticks(range(len(order)), ["whole step" if stage == WHOLE else stage for stage in order])
            panel.tick_params(axis="y", length=0, labelleft=column == 0)
            panel.grid(visible=False, axis="y")
        axes[row, 0].set_title(style.cell_title(cell, benchmark))
    style.legend_below(figure, [style.bar(looks[arm]) for arm in arms])
    return figure


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Memory of each stage. Left: the largest memory during the stage over all steps of a run. Right: how far it "
        "rose above the memory at the stage's entry, median over steps. Bars are means over seeds, "
        f"{'thin lines hold 90 % of them' if many_seeds(data) else 'dots single seeds'}; "
        f"{seeds_in_words(data, benchmark)}. The two scales differ. "
        "Arms without a critic have neither values nor update_critic."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]

    shown = each(whole, benchmark, lambda rows, title: f"{title} {in_bytes(rows['peak_bytes'].mean())}")
    return f"Bar chart of stage memory. Peak of whole steps: {shown}"


FIGURE = RunFigure(
    id="stage_memory",
    title="Memory of each stage",
    order=100,
    needs=(Need("stages", ("stage", "peak_bytes", "rise_bytes")),),
    data=lambda rows, _: data(rows),
    draw=draw,
    caption=caption,
    alt=alt,
)
