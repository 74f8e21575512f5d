"""Arms over several tasks together: interquartile mean and probability of improvement."""

from collections.abc import Callable, Iterator

import numpy as np

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, Link, Section, Table, Text, TextCell, with_interval
from groupppo.draw.style import LEVEL
from groupppo.draw.wording import MISSING, number, percentage, plurals
from groupppo.report.figures import admissible_rows
from groupppo.report.figures.tasks import METRIC, TaskScores, left_out, shared_plans, task_scores
from groupppo.report.sections import Results
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


def sections(results: Results) -> Iterator[Section]:
    table = across_tasks(results)
    more = ("The whole distribution: ", Link("performance profiles", "#figure-profiles"), ".")
    blocks: list[Block] = [table, Text(more, "small")] if table else [Text(ONE_TASK)]
    yield Section("across", "Across tasks", "Across tasks", 30, blocks, markdown=True)


def across_tasks(results: Results) -> Table | None:
    """Each arm with each model over all tasks that it is run on; None where no model is run on several."""
    benchmark = results.benchmark
    shared = shared_plans(benchmark)
    if not shared:
        return None
    scores = task_scores(admissible_rows(results.evals, results.runs), benchmark)
    references = {item.model: item for item in scores if item.arm == benchmark.reference}
    rows = [_row(item, references[item.model], benchmark) for item in scores]
    title = benchmark.arms[benchmark.reference].title
    seeds = min((len(item.seeds) for item in scores if item.seeds), default=0)
    few = f" With fewer than {FEWEST_SEEDS} seeds these intervals are far too narrow." if seeds < FEWEST_SEEDS else ""
    tasks = plurals((len(item.tasks) for item in shared), "task")
    caption = (
        f"Held-out {METRIC} over {tasks}. Interquartile mean of all seeds and tasks; "
        f"probability that a run beats one of {title} on the same task, averaged over tasks, ties half. Intervals: "
        f"{100 * LEVEL:g} % percentile bootstrap of seeds within tasks.{few} They describe; verdicts rest on each "
        f"task's own interval, held to Holm's adjustment over tasks and models. {left_out(benchmark)}"
    ).rstrip()
    head = ["Arm", "Seeds", "Interquartile mean", f"Better than {title}"]
    return Table("Across tasks", caption, head, rows, whole="tables/evals.parquet")


def _row(item: TaskScores, reference: TaskScores, benchmark: Benchmark) -> list[TextCell]:
    model = benchmark.models[item.model].title if len(benchmark.models) > 1 else ""
    listed = ", ".join(map(str, item.without[:10])) + (", ..." if len(item.without) > 10 else "")
    without = f"without {listed}: not admissible on every task" if item.without else ""
    common = sorted(set(item.seeds) & set(reference.seeds))
    mean, better = TextCell(MISSING), TextCell(MISSING)
    if item.seeds:
        mean = _interval(stratified_bootstrap(interquartile_mean, item.scores, level=LEVEL), number)
        better = TextCell(MISSING, "the reference" if item.arm == reference.arm else "no seed in common")
    if common and item.arm != reference.arm:
        pair = [one.scores[np.isin(one.seeds, common)] for one in (item, reference)]
        won = stratified_bootstrap(probability_of_improvement, *pair, level=LEVEL, paired=True)
        better = _interval(won, percentage)
    return [TextCell(benchmark.arms[item.arm].title, model), TextCell(str(len(item.seeds)), without), mean, better]


def _interval(of: BootstrapInterval, form: Callable[[float | None], str]) -> TextCell:
    return with_interval(float(of.estimate), float(of.low), float(of.high), form)
