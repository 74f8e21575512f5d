"""Held-out accuracies from what they rest on: responses are judged again by the task's own reward.

Responses to scores by item, scores to the means and standard errors of result.json, and these against lm-eval's own
results. Where a bundle holds no samples, its scores by item are where this begins.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from groupppo.config import Benchmark, Task
from groupppo.errors import BadInput
from groupppo.publish.alike import same_number
from groupppo.publish.reading import read_json
from groupppo.records.folders import START
from groupppo.records.plain_json import parse_json
from groupppo.tables.keys import Keys
from groupppo.tasks.reward import scorer
from groupppo.verdicts.item_scores import ItemScores

Difference = tuple[str, object, object]
_FILTER = "responses"
_MEND = "fetch the bundle again."
_QUESTION = ("doc", "target", "arguments")
"""What all evaluations of a task and model ask alike, by item."""
_Asked = dict[tuple[str, str, str], tuple[str, dict[int, Any]]]
"""By task, model and kind of sampling: where an item was asked first, and what."""


def evaluation_differences(folder: Path, benchmark: Benchmark) -> Iterator[Difference]:
    """(place, expected, found) of every number of an evaluation that does not follow from its samples or items."""
    scores, asked = ItemScores(folder), _Asked()
    for file in evaluations(folder):
        keys, name = keys_of(file.relative_to(folder)), file.relative_to(folder).as_posix()
        metrics = read_json(file).get("metrics")
        if not isinstance(metrics, dict):
            yield f"{name}: metrics", "an object", metrics
            continue
        task = benchmark.tasks.get(keys.task)
        if task is not None:
            for sample in sorted(file.parent.glob("samples_*.jsonl")):
                yield from _judged_again(sample, sample.relative_to(folder).as_posix(), keys, task, asked)
        if has_scores(folder, scores, keys):
            yield from _means(name, keys, metrics, scores)
        yield from _reported(file, name, keys.task, metrics)


def evaluations(folder: Path) -> list[Path]:
    """Every result.json, that of the starts and that of the runs."""
    return sorted([*folder.glob(f"evals/*/*/{START}/result.json"), *folder.glob("evals/*/*/*/seed*/result.json")])


def keys_of(file: Path) -> Keys:
    """The run whose checkpoint a result.json, named below the results folder, is about."""
    task, model, arm, *rest = file.parts[1:-1]
    seed = rest[0].removeprefix("seed") if rest else ""
    return Keys(task, model, arm, int(seed) if seed.isdecimal() else None)


def has_scores(folder: Path, scores: ItemScores, keys: Keys) -> bool:
    """Whether a bundle has scores by item of an evaluation, as samples or without."""
    return any(keys.below(folder / "evals").glob("samples_*.jsonl")) or scores.has(keys)


def reports(file: Path) -> list[Path]:
    """lm-eval's own results beside a result.json."""
    return sorted(file.parent.glob("results_*.json"))


def _judged_again(file: Path, name: str, keys: Keys, task: Task, asked: _Asked) -> Iterator[Difference]:
    """The score of every line by the task's reward, and its question and answer by those of other evaluations."""
    judge = scorer(task.reward)
    kind = file.name.removeprefix("samples_").rpartition("_")[0]
    first, known = asked.setdefault((keys.task, keys.model, kind), (name, {}))
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        place = f"{name}: line {number}"
        try:
            row = parse_json(line, file, f"line {number}", _MEND)
            question, responses = {key: row[key] for key in _QUESTION}, row["resps"][0]
            expected = sum(judge(str(text), row["doc"]["answer"]) for text in responses) / len(responses)
            item, metric = row["doc_id"], f"mean@{len(responses)}" if kind.endswith("_sampled") else "accuracy"
            earlier = known.setdefault(item, question)
        except (BadInput, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
            yield place, "a sample of lm-eval", repr(error)[:200]
            return
        if not same_number(expected, row.get(metric)):
            yield f"{place} {metric}", f"{expected}, as the reward of task {task.name} judges", row.get(metric)
        if earlier != question:
            yield f"{place} {', '.join(_QUESTION)}", f"what {first} has", "something else"
        if row.get("filtered_resps") != row["resps"]:
            yield f"{place} filtered_resps", "the responses", "others"


def _means(name: str, keys: Keys, metrics: dict[str, Any], scores: ItemScores) -> Iterator[Difference]:
    for metric, entry in metrics.items():
        stated = entry if isinstance(entry, dict) else {}
        try:
            found = scores.scores(keys, metric)
        except BadInput as error:
            yield f"{name}: {metric}", "scores by item", error.value or error.hint
            continue
        made = {"value": float(found.mean()), "stderr": _stderr(found), "n": len(found)}
        for key, value in made.items():
            # Scores without samples are kept in single precision.
            if not same_number(value, stated.get(key), 1e-6):
                yield f"{name}: {metric} {key}", f"{value} by its items", stated.get(key)


def _stderr(scores: np.ndarray) -> float:
    """As lm-eval has it: of the mean over items."""
    return float(scores.std(ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else 0.0


def _reported(file: Path, name: str, task: str, metrics: dict[str, Any]) -> Iterator[Difference]:
    for report in reports(file):
        results = read_json(report).get("results")
        for metric, entry in metrics.items():
            asked = f"{task}_greedy" if metric == "accuracy" else f"{task}_sampled"
            told = results.get(asked) if isinstance(results, dict) else None
            for key, column in (("value", f"{metric},{_FILTER}"), ("stderr", f"{metric}_stderr,{_FILTER}")):
                ours = entry.get(key) if isinstance(entry, dict) else None
                theirs = told.get(column) if isinstance(told, dict) else None
                if not same_number(ours, theirs):
                    yield f"{name}: {metric} {key}", f"{theirs} as in {report.name}", ours
