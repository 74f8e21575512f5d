"""Performance profiles: the share of runs, over all tasks and seeds, whose held-out accuracy lies above a threshold.

Definitions are those of `groupppo.stats.across_tasks`.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw import figures, style
from groupppo.draw.figures import Picture
from groupppo.draw.wording import number, plural, plurals
from groupppo.report.figures import Evidence, ReportFigure, admissible_rows
from groupppo.stats.across_tasks import FEWEST_SEEDS, performance_profile, stratified_bootstrap

METRIC = "accuracy"
POINTS = 101
MOST_BANDS = 4
"""Arms up to which a panel shows bands; of more they hide one another."""


@dataclass(frozen=True)
class TaskScores:
    """Accuracies of an arm with a model.

    Attributes:
        scores: shape (seeds, tasks), tasks in the benchmark's order. seeds: those that have a score on every task.
        without: planned on every task, but without a score on some, and left out.
    """

    model: str
    arm: str
    scores: np.ndarray
    seeds: tuple[int, ...]
    without: tuple[int, ...]


@dataclass(frozen=True)
class Shared:
    """What all `tasks` of a model are run with; `left_out` says in words what only some are run with."""

    model: str
    tasks: list[str]
    arms: list[str]
    seeds: list[int]
    left_out: list[str]


def shared_plans(benchmark: Benchmark) -> list[Shared]:
    """For each model that is run on several tasks, all in the benchmark's order."""
    found = []
    for model in benchmark.models:
        plans = [plan for plan in benchmark.plans() if plan.model == model]
        if len(plans) < 2:
            continue
        arms = {arm: [arm in plan.arms for plan in plans] for arm in benchmark.arms}
        seeds = {seed: [seed in plan.seeds for plan in plans] for seed in benchmark.seeds}
        left_out = [benchmark.arms[arm].title for arm, has in arms.items() if any(has) and not all(has)]
        left_out += [f"seed {seed}" for seed, has in seeds.items() if any(has) and not all(has)]
        every = [arm for arm, has in arms.items() if all(has)], [seed for seed, has in seeds.items() if all(has)]
        found.append(Shared(model, [plan.task for plan in plans], *every, left_out))
    return found


def left_out(benchmark: Benchmark) -> str:
    """A sentence for each model on what is left out of it because not every task is run with it; or nothing."""
    shared, models = shared_plans(benchmark), benchmark.models
    text = [
        f"Left out with {models[item.model].title}, as not every task is run with them: {', '.join(item.left_out)}."
        for item in shared
        if item.left_out
    ]
    several = {item.model for item in shared}
    alone = [model.title for name, model in models.items() if name not in several]
    return " ".join([*text, *([f"Left out, as they are run on one task: {', '.join(alone)}."] if alone else [])])


def task_scores(evals: pd.DataFrame, benchmark: Benchmark) -> list[TaskScores]:
    """Scores by model and arm, in the benchmark's order; an arm without any complete seed has an empty array.

    Of each model with several tasks, the arms and seeds that all of them are run with (`shared_plans`).

    Args:
        evals: rows of the tidy table that may be shown.
        benchmark: the matrix.
    """
    rows = evals[(evals["metric"] == METRIC) & (evals["arm"] != style.START)]
    found = []
    for shared in shared_plans(benchmark):
        for arm in shared.arms:
            own = rows[(rows["model"] == shared.model) & (rows["arm"] == arm) & rows["seed"].isin(shared.seeds)]
            wide = own.pivot(index="seed", columns="task", values="value").reindex(columns=shared.tasks)
            complete = wide.dropna()
            seeds = tuple(int(seed) for seed in complete.index)
            without = tuple(seed for seed in shared.seeds if seed not in seeds)
            found.append(TaskScores(shared.model, arm, complete.to_numpy(float), seeds, without))
    return found


def data(scores: list[TaskScores]) -> pd.DataFrame:
    """The profile of every arm with a complete seed.

    Returns:
        model, arm, threshold, share (of runs above it), low, high (90 % bootstrap over seeds within tasks, at each
        threshold), seeds, tasks.
    """
    known = [item for item in scores if item.scores.size]
    frames = []
    for item in known:
        own = np.concatenate([other.scores.ravel() for other in known if other.model == item.model])
        thresholds = np.linspace(*style.share_limits(pd.DataFrame(own)), POINTS)
        profile = partial(performance_profile, thresholds=thresholds)
        found = stratified_bootstrap(profile, item.scores, level=style.LEVEL)
        columns = {"threshold": thresholds, "share": found.estimate, "low": found.low, "high": found.high}
        seeds, tasks = item.scores.shape
        frames.append(pd.DataFrame({"model": item.model, "arm": item.arm, **columns, "seeds": seeds, "tasks": tasks}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """A panel for each model, a line for each arm."""
    models = data.groupby("model", sort=False)
    figure = Figure(figsize=(style.WIDTH, 3.0 * len(models) + 0.5), layout="constrained")
    for panel, (model, rows) in zip(figure.subplots(len(models), 1, squeeze=False)[:, 0], models, strict=True):
        arms = style.arm_looks(benchmark, rows)
        for arm, look in arms.items():
            own = rows[rows["arm"] == arm]
            if len(arms) <= MOST_BANDS:
                band = {"color": look.colour, "alpha": 0.15, "linewidth": 0}
                panel.fill_between(own["threshold"], own["low"], own["high"], **band)
            panel.plot(own["threshold"], own["share"], drawstyle="steps-post", **style.curve(look, len(own)))
        panel.set_title(style.wrap(benchmark.models[model].title, 72))
        panel.set(xlabel=f"threshold of held-out {METRIC}", ylabel="share of runs above it", ylim=(-0.02, 1.02))
        panel.yaxis.set_major_formatter(style.percent)
    style.legend_below(figure, map(style.line, style.arm_looks(benchmark, data).values()))
    return figure


def caption(data: pd.DataFrame, scores: list[TaskScores], benchmark: Benchmark) -> str:
    many = data.groupby("model", observed=True)["arm"].nunique().max() > MOST_BANDS
    bands = "" if many else " Bands are 90 % bootstrap intervals at each threshold, over seeds within tasks."
    too_few = not many and data["seeds"].min() < FEWEST_SEEDS
    narrow = f" With fewer than {FEWEST_SEEDS} seeds they are too narrow." if too_few else ""
    left = {item.arm: len(item.without) for item in scores if item.without}
    without = ", ".join(f"{benchmark.arms[arm].title} ({plural(count, 'seed')})" for arm, count in left.items())
    missing = f" Left out, as a run of that seed is not admissible on some task: {without}." if without else ""
    return (
        f"Share of runs over {plurals(data['tasks'], 'task')} and {plurals(data['seeds'], 'seed')} whose held-out "
        "accuracy lies above the threshold. A line that lies higher everywhere is an arm that does better on the "
        f"whole.{bands}{narrow}{missing} {left_out(benchmark)}"
    ).strip()


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    sentences = []
    for model in dict.fromkeys(data["model"]):
        rows = data[(data["model"] == model) & (data["share"] >= 0.5)]
        medians = rows.groupby("arm", observed=True)["threshold"].max()
        text = [f"{benchmark.arms[arm].title} {number(medians[arm])}" for arm in benchmark.arms if arm in medians]
        sentences.append(f"{benchmark.models[model].title}: half of the runs lie above: {'; '.join(text)}.")
    return f"Step chart of performance profiles. {' '.join(sentences)}"


class _Profiles(ReportFigure):
    def picture(self, evidence: Evidence) -> Picture | str:
        tables, benchmark = evidence.tables, evidence.benchmark
        rows = pd.concat([tables.cell("evals", plan.task, plan.model) for plan in benchmark.plans()], ignore_index=True)
        scores = task_scores(admissible_rows(rows, tables.runs), benchmark)
        frame = data(scores)
        if frame.empty:
            return f"no seed of any arm is admissible on every task. {figures.excluded(tables.runs)}"
        models = list(dict.fromkeys(frame["model"]))
        shown = frame[frame["model"].isin(models[: style.MOST_FACETS])]
        words = f"{caption(shown, scores, benchmark)} {figures.left_out(len(models), 'models')}".strip()
        return Picture(self.id, self.title, frame, lambda: draw(shown, benchmark), words, alt(shown, benchmark))


FIGURE = _Profiles(
    "profiles",
    "Performance profiles over tasks",
    110,
    tables=("evals",),
    asked=lambda benchmark: bool(shared_plans(benchmark)),
)
