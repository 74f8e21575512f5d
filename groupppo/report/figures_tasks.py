"""Performance profiles: the share of runs, over all tasks and seeds, whose held-out accuracy lies above a threshold.

`task_scores` picks the scores, `profiles_data` computes the tidy frame that is drawn (and saved as CSV beside the
picture), `profiles_figure` draws it. Definitions are those of `groupppo.verdicts.across_tasks`.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.report.style import (
    LEVEL,
    START,
    arm_looks,
    dash_pattern,
    grid,
    legend_below,
    line,
    percent,
    share_limits,
    wrap,
)
from groupppo.verdicts.across_tasks import performance_profile, stratified_bootstrap

METRIC = "accuracy"
POINTS = 101
MOST_BANDS = 4
"""Arms up to which a panel shows bands; of more they hide one another."""


@dataclass(frozen=True)
class TaskScores:
    """Accuracies of an arm with a model.

    Attributes:
        scores: shape (seeds, tasks), tasks in the benchmark's order. seeds: those that have a score on every task.
        without: seeds of the benchmark that have not, and are left out.
    """

    model: str
    arm: str
    scores: np.ndarray
    seeds: tuple[int, ...]
    without: tuple[int, ...]


def has_tasks(benchmark: Benchmark) -> bool:
    return len(benchmark.tasks) > 1


def task_scores(evals: pd.DataFrame, benchmark: Benchmark) -> list[TaskScores]:
    """Scores by model and arm, in the benchmark's order; an arm without any complete seed has an empty array.

    Args:
        evals: rows of the tidy table that may be shown.
    """
    rows = evals[(evals["metric"] == METRIC) & (evals["arm"] != START) & evals["seed"].isin(benchmark.seeds)]
    found = []
    for model in benchmark.models:
        for arm in benchmark.arms:
            own = rows[(rows["model"] == model) & (rows["arm"] == arm)]
            wide = own.pivot(index="seed", columns="task", values="value").reindex(columns=list(benchmark.tasks))
            complete = wide.dropna()
            seeds = tuple(int(seed) for seed in complete.index)
            without = tuple(seed for seed in benchmark.seeds if seed not in seeds)
            found.append(TaskScores(model, arm, complete.to_numpy(float), seeds, without))
    return found


def profiles_data(scores: list[TaskScores]) -> pd.DataFrame:
    """The profile of every arm with a complete seed.

    Returns:
        model, arm, threshold, share (of runs above it), low, high (90 % bootstrap over seeds within tasks, at each
        threshold), seeds, tasks.
    """
    known = [item for item in scores if item.scores.size]
    frames = []
    for item in known:
        own = [other.scores.ravel() for other in known if other.model == item.model]
        thresholds = np.linspace(*share_limits(pd.DataFrame({"value": np.concatenate(own)})), POINTS)
        profile = partial(performance_profile, thresholds=thresholds)
        found = stratified_bootstrap(profile, item.scores, level=LEVEL)
        columns = {"threshold": thresholds, "share": found.estimate, "low": found.low, "high": found.high}
        seeds, tasks = item.scores.shape
        frames.append(pd.DataFrame({"model": item.model, "arm": item.arm, **columns, "seeds": seeds, "tasks": tasks}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def profiles_figure(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """A panel for each model, a line for each arm."""
    looks, models = arm_looks(benchmark), list(dict.fromkeys(data["model"]))
    figure, axes = grid(len(models), 1, 3.0)
    for panel, model in zip(axes[:, 0], models, strict=True):
        rows = data[data["model"] == model]
        arms = [arm for arm in benchmark.arms if arm in set(rows["arm"])]
        for arm in arms:
            own, look = rows[rows["arm"] == arm], looks[arm]
            if len(arms) <= MOST_BANDS:
                band = {"color": look.colour, "alpha": 0.15, "linewidth": 0}
                panel.fill_between(own["threshold"], own["low"], own["high"], **band)
            style = {"color": look.colour, "linestyle": dash_pattern(look), "drawstyle": "steps-post"}
            panel.plot(own["threshold"], own["share"], **style)
        panel.set_title(wrap(benchmark.models[model].title, 72))
        panel.set(xlabel=f"threshold of held-out {METRIC}", ylabel="share of runs above it", ylim=(-0.02, 1.02))
        panel.yaxis.set_major_formatter(percent)
    legend_below(figure, [line(looks[arm]) for arm in benchmark.arms if arm in set(data["arm"])])
    return figure
