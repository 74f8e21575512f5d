"""What was compared and how: arms, the settings that they share, their start, the method and its limits, the data."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from groupppo.algorithm import GroupParams, known_rules
from groupppo.algorithm.params import COMMON, HOME, default_of
from groupppo.config import GROUPED, Arm, Benchmark
from groupppo.draw.blocks import Block, Link, List, Row, Section, Span, Table, Terms, Text, TextCell, Words, code
from groupppo.draw.wording import percentage, seconds_text
from groupppo.measure.stages import DEFINITION
from groupppo.records.plain_json import read_object
from groupppo.report.render import prose
from groupppo.report.sections import Results

UNSET = "not set"


def sections(results: Results) -> Iterator[Section]:
    benchmark = results.benchmark
    first, *others = _arms(benchmark)
    described: list[tuple[Words, Words]] = [
        ((first.title, Span(" (reference)", "quiet")), first.description),
        *((arm.title, arm.description) for arm in others),
    ]
    yield Section("arms", "Arms", "Arms", 91, [Terms(described), arm_differences(benchmark)])
    rows: list[Row] = [[key, TextCell(value, mark="break")] for key, value in matched_settings(benchmark).items()]
    caption = "What all arms of a task and model share, by the key of the benchmark's file where it is one."
    shared = Table("Matched settings", caption, ["Setting", "Value"], rows, kind="prose")
    yield Section("settings", "Matched settings", "Matched settings", 92, [shared])
    yield Section("start", "Warm start", "Warm start", 93, [warm_starts(results)])
    devices = ", ".join(sorted(set(results.runs["device"].dropna()))) or "no device"
    method = prose("method.j2", level=f"{100 * results.judged.level:g} %", devices=devices, memory=DEFINITION)
    yield Section("method", "Method and limits", "Method and limits", 94, method)
    tables = sorted(path.relative_to(results.folder).as_posix() for path in results.folder.glob("tables/*.parquet"))
    files = ["verdicts.json", *tables, "benchmark.yaml"]
    yield Section("data", "Data", "Data", 99, [List([Link(name, name) for name in files])])


def arm_differences(benchmark: Benchmark) -> Table:
    """verl keys in which an arm differs from the reference: the reference first, then the others in the benchmark's
    order; keys in the order the arms name them."""
    arms = _arms(benchmark)
    keys = dict.fromkeys(key for arm in arms for key in arm.verl)
    values = pd.DataFrame({key: [_value(arm, key) for arm in arms] for key in keys})
    values = values.loc[:, values.nunique() > 1]
    rows: list[Row] = [
        [
            arm.title,
            *(
                TextCell(code(value), mark="quiet" if place and value == values[key][0] else "")
                for key, value in values.loc[place].items()
            ),
        ]
        for place, arm in enumerate(arms)
    ]
    caption = (
        f"Keys of verl's config in which an arm differs from {arms[0].title}. Everything else is the same in all arms."
    )
    return Table("How arms differ", caption, ["Arm", *map(code, values)], rows)


def _arms(benchmark: Benchmark) -> list[Arm]:
    """The reference, then the others."""
    return sorted(benchmark.arms.values(), key=lambda arm: arm.name != benchmark.reference)


def _value(arm: Arm, key: str) -> str:
    """What the arm sets the key to, or the default that it gets; `UNSET` where the key does nothing for it."""
    if key in arm.verl:
        return as_text(arm.verl[key])
    name = key.removeprefix(f"{HOME}.")
    if not arm.grouped or name == key:
        return UNSET
    rule = known_rules()[arm.verl.get(f"{HOME}.rule", GroupParams.rule)]
    default = default_of(name, stock=arm.verl.get("algorithm.adv_estimator") != GROUPED)
    return as_text(default) if name in COMMON or name in rule.uses else UNSET


def matched_settings(benchmark: Benchmark) -> dict[str, str]:
    """What every arm of a task and model shares."""
    recorded = benchmark.resolved()
    settings = {"seeds": as_text(benchmark.seeds)}
    for part in ("train", "evaluation"):
        settings |= {f"{part}.{key}": as_text(value) for key, value in recorded[part].items() if value != {}}
    for task in benchmark.tasks.values():
        settings[f"Task {task.title}"] = (
            f"version {task.version}, {task.splits['train']:,} training and {task.splits['test']:,} held-out prompts, "
            f"responses up to {task.max_response_tokens:,} tokens"
        )
    return settings | {f"Model {model.title}": as_text(model.params) for model in benchmark.models.values()}


def warm_starts(results: Results) -> Block:
    """The last row of each warm start that has left its warmstart.json."""
    rows = []
    for plan in results.benchmark.plans():
        task, model = results.benchmark.tasks[plan.task], results.benchmark.models[plan.model]
        file = results.folder / "assets" / "starts" / task.name / model.weights / "warmstart.json"
        if task.warmstart is not None and file.is_file():
            last = read_object(file, "make the warm start again.")
            shares = (last.get("sampled_accuracy"), task.warmstart.target_accuracy, last.get("greedy_accuracy"))
            ends = (as_text(last.get("step")), *map(percentage, shares), seconds_text(last.get("seconds")))
            rows.append([task.title, model.title, *ends])
    caption = "The supervised start that all arms and seeds of a task and model share. Accuracy on the dev split."
    head = ["Task", "Model", "Steps", "Sampled accuracy", "Target", "Greedy accuracy", "Time"]
    none = Text("This results folder holds no record of the warm start.")
    return Table("Warm starts", caption, head, rows, kind="prose") if rows else none


def as_text(value: Any) -> str:
    """A value from a YAML or JSON file as JSON, a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
