"""What the page says about the benchmark, as plain texts: no HTML here, and no decision about looks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.algorithm import GroupParams, known_rules
from groupppo.algorithm.params import COMMON, HOME
from groupppo.config import Arm, Benchmark
from groupppo.draw.wording import percentage, plural, seconds_text
from groupppo.matrix import CellPlan
from groupppo.records.folders import ResultsFolder
from groupppo.records.plain_json import read_object as read_object

UNSET = "not set"


@dataclass(frozen=True)
class Setting:
    key: str
    value: str


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


def arm_differences(benchmark: Benchmark) -> ArmDifferences:
    """The reference arm first, then the others in the benchmark's order; keys in the order the arms name them."""
    reference = benchmark.arms[benchmark.reference]
    arms = [reference, *(arm for arm in benchmark.arms.values() if arm.name != reference.name)]
    keys = dict.fromkeys(key for arm in arms for key in arm.verl)
    rows = [(key, [_value(arm, key) for arm in arms]) for key in keys]
    return ArmDifferences(arms, [(key, values) for key, values in rows if len(set(values)) > 1])


def _value(arm: Arm, key: str) -> str:
    """What the arm sets the key to, or the default that it gets; `UNSET` where the key does nothing for it."""
    if key in arm.verl:
        return as_text(arm.verl[key])
    name = key.removeprefix(f"{HOME}.")
    if not arm.grouped or name == key:
        return UNSET
    rule = known_rules()[arm.verl.get(f"{HOME}.rule", GroupParams.rule)]
    return as_text(getattr(GroupParams, name)) if name in COMMON or name in rule.uses else UNSET


def compared(benchmark: Benchmark) -> str:
    """That arms differ in more than the algorithm, for the head of the report; empty where they do not."""
    if not benchmark.compares:
        return ""
    listed = ", ".join(benchmark.compares)
    return f"Arms differ in {listed} beside the algorithm: no difference between them is the algorithm's alone."


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
        "Seeds": ", ".join(map(str, benchmark.seeds)) + (", where no row below says fewer" if benchmark.cells else ""),
    }
    settings |= {
        f"{benchmark.tasks[cell.task].title}, {benchmark.models[cell.model].title}": _narrowed(cell, benchmark)
        for cell in benchmark.cells
    }
    settings |= {
        f"Task {task.title}": f"version {task.version}, {task.splits['train']:,} training and {task.splits['test']:,} "
        f"held-out prompts, responses up to {task.max_response_tokens:,} tokens"
        for task in benchmark.tasks.values()
    }
    settings |= {f"Model {model.title}": as_text(model.params) for model in benchmark.models.values()}
    settings["Held-out evaluation"] = (
        f"greedy, and {plural(evaluation.repeats, 'sampled response')} to each of the first "
        f"{plural(evaluation.sampled_prompts, 'prompt')} with seed {evaluation.seed}; "
        f"batch size {evaluation.batch_size:,}"
    )
    return [Setting(key, value) for key, value in settings.items()] + [
        Setting(key, as_text(value)) for key, value in train.verl.items()
    ]


def _narrowed(cell: CellPlan, benchmark: Benchmark) -> str:
    """What a task and model with fewer arms or seeds than the matrix is run with, in words."""
    if not cell.arms:
        return "not run"
    titles = ", ".join(benchmark.arms[arm].title for arm in cell.arms)
    return f"{_listed_seeds(cell.seeds)} of {titles if len(cell.arms) < len(benchmark.arms) else 'all arms'}"


def _listed_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def warm_starts(results: Path, benchmark: Benchmark) -> list[WarmStartRow]:
    """The last row of each warm start that has left its warmstart.json."""
    rows = []
    for plan in benchmark.plans():
        task, model = benchmark.tasks[plan.task], benchmark.models[plan.model]
        file = ResultsFolder(results).start(task.name, model.name) / "warmstart.json"
        if task.warmstart is None or not file.is_file():
            continue
        last = read_object(file, "make the warm start again.")
        rows.append(
            WarmStartRow(
                task=task.title,
                model=model.title,
                steps=as_text(last.get("step")),
                sampled=percentage(last.get("sampled_accuracy")),
                target=percentage(task.warmstart.target_accuracy),
                greedy=percentage(last.get("greedy_accuracy")),
                seconds=seconds_text(last.get("seconds")),
            )
        )
    return rows


def answer(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """A few sentences: how many of the verdicts are of each kind, those on measurements from elsewhere counted apart,
    and how many claims are not asked here."""
    asked = [verdict for verdict in verdicts if verdict["asked"]]
    own = Counter(verdict["verdict"] for verdict in asked if verdict["elsewhere"] is None)
    others = Counter(verdict["verdict"] for verdict in asked if verdict["elsewhere"] is not None)
    here = "on what was run here" if others else ""
    sentences = [_counted(own, here) if own else " ".join(["No claim was tested", here]).strip() + "."]
    if others:
        published = [verdict["elsewhere"]["published"] for verdict in asked if verdict["elsewhere"]]
        place = "on published measurements, not made here" if all(published) else "on measurements made elsewhere"
        sentences.append(_counted(others, place))
    unasked = len(verdicts) - len(asked)
    if unasked:
        sentences.append(f"{unasked} more {'is' if unasked == 1 else 'are'} about what this benchmark leaves out.")
    return " ".join(sentences)


def _counted(counts: Counter[str], of_what: str) -> str:
    """Such as "Of 3 verdicts, 1 is supported and 2 are refuted."""
    told = [(counts[kind], words) for kind, words in ANSWERS.items() if counts[kind]]
    parts = [f"{count} {'is' if count == 1 else 'are'} {words}" for count, words in told]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Of {' '.join([plural(counts.total(), 'verdict'), of_what]).strip()}, {listed}."


ANSWERS = {
    "supported": "supported",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "identity": "true by arithmetic alone",
    "not testable": "not testable",
    "not measurable here": "not measurable here",
}


def as_text(value: Any) -> str:
    """A value from a YAML or JSON file in plain words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)
