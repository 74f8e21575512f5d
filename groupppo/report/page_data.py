"""What the page says, gathered from the results folder into plain texts: no HTML here, and no decision about looks."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Arm, Benchmark
from groupppo.errors import BadInput
from groupppo.report.tables import Tables
from groupppo.report.wording import MISSING, number, percentage, plural, seconds_text

UNSET = "not set"


@dataclass(frozen=True)
class RunRow:
    """One cell of the matrix; `log` is a path relative to the results folder, empty when there is no log."""

    task: str
    model: str
    arm: str
    seed: int
    status: str
    note: str
    steps: str
    wall: str
    startup: str
    rollout: str
    accuracy: str
    log: str


@dataclass(frozen=True)
class Setting:
    key: str
    value: str


@dataclass(frozen=True)
class Differing:
    """A key whose value is not the same in all runs: each value with the runs that have it."""

    key: str
    values: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Provenance:
    runs: int
    shared: list[Setting]
    differing: list[Differing]
    unrecorded: list[str]


@dataclass(frozen=True)
class ArmDifferences:
    """verl keys in which an arm differs from the reference: one row for each key, one value for each arm, in order."""

    arms: list[Arm]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class WarmStartRow:
    task: str
    model: str
    steps: str
    sampled: str
    target: str
    greedy: str
    seconds: str


def matrix(results: Path, benchmark: Benchmark, tables: Tables) -> list[RunRow]:
    """Every planned run in the benchmark's order, then runs outside the matrix."""
    found = {(run.task, run.model, run.arm, int(run.seed)): run for run in tables.runs.itertuples()}
    planned = [
        (task, model, arm, seed)
        for task in benchmark.tasks
        for model in benchmark.models
        for arm in benchmark.arms
        for seed in benchmark.seeds
    ]
    accuracies = _accuracies(tables.evals)
    return [
        _run_row(results, benchmark, keys, found.get(keys), accuracies.get(keys, MISSING))
        for keys in [*planned, *sorted(set(found) - set(planned))]
    ]


def arm_differences(benchmark: Benchmark) -> ArmDifferences:
    """The reference arm first, then the others in the benchmark's order; keys in the order the arms name them."""
    reference = benchmark.arms[benchmark.reference]
    arms = [reference, *(arm for arm in benchmark.arms.values() if arm.name != reference.name)]
    keys = dict.fromkeys(key for arm in arms for key in arm.verl)
    rows = [(key, [_text(arm.verl[key]) if key in arm.verl else UNSET for arm in arms]) for key in keys]
    return ArmDifferences(arms, [(key, values) for key, values in rows if len(set(values)) > 1])


def matched_settings(benchmark: Benchmark) -> list[Setting]:
    """What every arm of a task and model shares."""
    train, evaluation = benchmark.train, benchmark.evaluation
    responses = train.prompts_per_step * train.responses_per_prompt
    settings = {
        "Training steps": f"{train.steps:,}",
        "Prompts per step": f"{train.prompts_per_step:,}",
        "Responses per prompt": f"{train.responses_per_prompt:,} ({responses:,} responses per step)",
        "Passes over a step's batch": f"{train.epochs:,}",
        "Optimiser updates per pass": f"{train.mini_batches:,}",
        "Learning rate, policy": f"{train.actor_lr:g}",
        "Learning rate, critic": f"{train.critic_lr:g} (arms with a critic)",
        "Sampling temperature": f"{train.temperature:g}",
        "Discount gamma": f"{train.gamma:g}",
        "GAE lambda": f"{train.lam:g}",
        "Rollout server": train.rollout,
        "Time limit of a run": seconds_text(train.time_limit_s),
        "Seeds": ", ".join(map(str, benchmark.seeds)),
    }
    settings |= {
        f"Task {task.title}": f"version {task.version}, {task.splits['train']:,} training and {task.splits['test']:,} "
        f"held-out prompts, responses up to {task.max_response_tokens:,} tokens"
        for task in benchmark.tasks.values()
    }
    settings |= {f"Model {model.title}": _text(model.params) for model in benchmark.models.values()}
    settings["Held-out evaluation"] = (
        f"greedy, and {plural(evaluation.repeats, 'sampled response')} per prompt with seed {evaluation.seed}; "
        f"batch size {evaluation.batch_size:,}"
    )
    return [Setting(key, value) for key, value in settings.items()] + [
        Setting(key, _text(value)) for key, value in train.verl.items()
    ]


def warm_starts(results: Path, benchmark: Benchmark) -> list[WarmStartRow]:
    """The last row of each warm start that has left its warmstart.json."""
    rows = []
    for task in benchmark.tasks.values():
        for model in benchmark.models.values():
            file = results / "assets" / "starts" / task.name / model.name / "warmstart.json"
            if not file.is_file():
                continue
            last = read_object(file, "make the warm start again.")
            rows.append(
                WarmStartRow(
                    task=task.title,
                    model=model.title,
                    steps=_text(last.get("step")),
                    sampled=percentage(last.get("sampled_accuracy")),
                    target=percentage(task.warmstart.target_accuracy),
                    greedy=percentage(last.get("greedy_accuracy")),
                    seconds=seconds_text(last.get("seconds")),
                )
            )
    return rows


def provenance(results: Path, benchmark: Benchmark, tables: Tables) -> Provenance:
    """provenance.json of every run, split into what all runs share and what differs.

    Raises:
        BadInput: a provenance.json is not a JSON object.
    """
    records: dict[str, dict[str, str]] = {}
    unrecorded = []
    for run in tables.runs.itertuples():
        label = _run_label(benchmark, run.task, run.model, run.arm, int(run.seed))
        file = _run_folder(results, run.task, run.model, run.arm, int(run.seed)) / "provenance.json"
        if file.is_file():
            records[label] = dict(_flat(read_object(file, "run this cell again.")))
        else:
            unrecorded.append(label)
    shared, differing = [], []
    for key in dict.fromkeys(key for record in records.values() for key in record):
        by_value: dict[str, list[str]] = {}
        for label, record in records.items():
            by_value.setdefault(record.get(key, "not recorded"), []).append(label)
        if len(by_value) == 1:
            shared.append(Setting(key, next(iter(by_value))))
        else:
            differing.append(Differing(key, list(by_value.items())))
    return Provenance(len(records), shared, differing, unrecorded)


def answer(verdicts: list[str]) -> str:
    """One sentence: how many verdicts of each kind, in the order of VERDICTS.

    Args:
        verdicts: the verdict of each claim.
    """
    counts = Counter(verdicts)
    parts = [f"{counts[kind]} {word}" for kind, word in ANSWER_WORDS.items() if counts[kind]]
    if not parts:
        return "No claim was tested."
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Of {plural(len(verdicts), 'verdict')}, {listed}."


ANSWER_WORDS = {
    "supported": "supported",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "identity": "true by arithmetic alone",
    "not testable": "not testable",
    "not measurable here": "not measurable here",
}


def read_object(file: Path, mend: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BadInput: the file is missing, not JSON or not an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(file, "file", None, mend) from error
    except ValueError as error:
        raise BadInput(file, "file", str(error), f"not valid JSON; {mend}") from error
    if not isinstance(value, dict):
        raise BadInput(file, "file", value, f"not a JSON object; {mend}")
    return value


def _run_row(
    results: Path, benchmark: Benchmark, keys: tuple[str, str, str, int], run: Any, accuracy: str
) -> RunRow:
    task, model, arm, seed = keys
    titles = _titles(benchmark, task, model, arm)
    if run is None:
        return RunRow(*titles, seed, "missing", "no record of this run", MISSING, MISSING, MISSING, MISSING, accuracy, "")
    log = _run_folder(results, *keys) / "log.txt"
    return RunRow(
        *titles,
        seed=seed,
        status=run.status if run.admissible or run.status == "failed" else f"{run.status}, excluded",
        note="" if run.admissible else str(run.reason),
        steps=f"{run.steps:,} of {run.planned_steps:,}",
        wall=seconds_text(_float(run.wall_seconds)),
        startup=seconds_text(_float(run.startup_seconds)),
        rollout=str(run.rollout),
        accuracy=accuracy,
        log=log.relative_to(results).as_posix() if log.is_file() else "",
    )


def _accuracies(evals: pd.DataFrame) -> dict[tuple[str, str, str, int], str]:
    rows = evals[(evals["metric"] == "accuracy") & evals["seed"].notna()]
    return {
        (row.task, row.model, row.arm, int(row.seed)): f"{number(row.value)} ± {number(row.stderr)}"
        for row in rows.itertuples()
    }


def _titles(benchmark: Benchmark, task: str, model: str, arm: str) -> tuple[str, str, str]:
    """Titles, or bare names for what the benchmark does not know."""
    homes: tuple[tuple[Mapping[str, Any], str], ...] = (
        (benchmark.tasks, task),
        (benchmark.models, model),
        (benchmark.arms, arm),
    )
    first, second, third = (home[name].title if name in home else name for home, name in homes)
    return first, second, third


def _run_label(benchmark: Benchmark, task: str, model: str, arm: str, seed: int) -> str:
    titles = _titles(benchmark, task, model, arm)
    known = titles if len(benchmark.tasks) * len(benchmark.models) > 1 else titles[2:]
    return f"{', '.join(known)}, seed {seed}"


def _run_folder(results: Path, task: str, model: str, arm: str, seed: int) -> Path:
    return results / "runs" / task / model / arm / f"seed{seed}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(item)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _float(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
