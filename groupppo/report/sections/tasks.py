"""Arms over several tasks together, as the page shows them: interquartile mean and probability of improvement."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.style import LEVEL
from groupppo.draw.wording import MISSING, number, percentage
from groupppo.report.drawing import admissible_rows
from groupppo.report.figures.tasks import (
    METRIC,
    TaskScores,
    has_tasks,
    left_out_told,
    shared_plans,
    task_scores,
    tasks_told,
)
from groupppo.report.sections.study import TextCell, TextTable
from groupppo.stats.across_tasks import (
    FEWEST_SEEDS,
    BootstrapInterval,
    interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)

ONE_TASK = (
    "No model here is run on several tasks: there is nothing to aggregate over tasks, and no performance profile."
)
MOST_MODELS = 10


def across_tasks(evals: pd.DataFrame, runs: pd.DataFrame, benchmark: Benchmark) -> TextTable | None:
    """Each arm with each model over all tasks that it is run on; None where no model is run on several.

    Args:
        evals, runs: the tidy tables; only admissible runs are taken.
    """
    if not has_tasks(benchmark):
        return None
    scores = task_scores(admissible_rows(evals, runs), benchmark)
    shared = shared_plans(benchmark)
    models = [item.model for item in shared][:MOST_MODELS]
    references = {item.model: item for item in scores if item.arm == benchmark.reference}
    rows = [_row(item, references[item.model], benchmark) for item in scores if item.model in models]
    title = benchmark.arms[benchmark.reference].title
    seeds = min((len(item.seeds) for item in scores if item.seeds), default=0)
    narrow = (
        f" With fewer than {FEWEST_SEEDS} seeds these intervals are far too narrow." if seeds < FEWEST_SEEDS else ""
    )
    left = f" The first {MOST_MODELS} of {len(shared)} models." if len(shared) > MOST_MODELS else ""
    narrowed = left_out_told(benchmark)
    left += f" {narrowed}" if narrowed else ""
    tasks = tasks_told(len(item.tasks) for item in shared)
    caption = (
        f"Held-out {METRIC} over {tasks}. Interquartile mean of all seeds and tasks; "
        f"probability that a run beats one of {title} on the same task, averaged over tasks, ties half. Intervals: "
        f"{100 * LEVEL:g} % percentile bootstrap of seeds within tasks.{narrow} They describe; verdicts rest on each "
        f"task's own interval, held to Holm's adjustment over tasks and models.{left}"
    )
    head = ["Arm", "Seeds", "Interquartile mean", f"Better than {title}"]
    return TextTable(caption, head, rows)


def _row(item: TaskScores, reference: TaskScores, benchmark: Benchmark) -> list[TextCell]:
    title = benchmark.arms[item.arm].title
    model = benchmark.models[item.model].title if len(benchmark.models) > 1 else ""
    listed = ", ".join(map(str, item.without[:10])) + (", ..." if len(item.without) > 10 else "")
    without = f"without {listed}: not admissible on every task" if item.without else ""
    seeds = TextCell(str(len(item.seeds)), without)
    if not item.seeds:
        return [TextCell(title, model), seeds, TextCell(MISSING), TextCell(MISSING)]
    mean = stratified_bootstrap(interquartile_mean, item.scores, level=LEVEL)
    better = TextCell(MISSING, "the reference" if item.arm == reference.arm else "no seed in common")
    common = sorted(set(item.seeds) & set(reference.seeds))
    if common and item.arm != reference.arm:
        pair = [one.scores[np.isin(one.seeds, common)] for one in (item, reference)]
        found = stratified_bootstrap(probability_of_improvement, *pair, level=LEVEL, paired=True)
        better = TextCell(percentage(float(found.estimate)), _ends(found, percentage))
    return [TextCell(title, model), seeds, TextCell(number(float(mean.estimate)), _ends(mean, number)), better]


def _ends(found: BootstrapInterval, form: Callable[[float], str]) -> str:
    return f"[{form(float(found.low))}, {form(float(found.high))}]"
