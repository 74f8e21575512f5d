"""What was compared and how: arms, the settings that they share, their start, the method and its limits, the data."""

from collections.abc import Iterator, Mapping
from typing import Any

from groupppo.algorithm import GroupParams, known_rules
from groupppo.algorithm.params import COMMON, HOME
from groupppo.config import Arm, Benchmark, CellPlan
from groupppo.draw.blocks import Block, Link, Row, Section, Span, Table, Terms, Text, TextCell, Words, code, listed
from groupppo.draw.wording import percentage, plural, seconds_text
from groupppo.measure.stages import DEFINITION
from groupppo.records.plain_json import read_object
from groupppo.report.sections import Results

UNSET = "not set"
METHOD = (
    "The unit of replication is the training seed. Arms that share a seed share start checkpoint, prompt order, "
    "sampling seed and evaluation, so that arms are compared by the difference within a seed. Intervals are {level} "
    "paired t intervals over those differences (ratios on the log scale); with two seeds they are wide, because two "
    "seeds know little.",
    "A claim is judged by where its interval lies against its region, the claimed one widened by the claim's margin. "
    "An interval that crosses the region's border decides nothing, and “no significant difference” is never read as "
    "“equal”. The standard error of an accuracy covers the held-out prompts and says nothing about the spread over "
    "training seeds. Where a claim is judged on several tasks or models, both ends of its interval are held to Holm's"
    " adjustment over them.",
    "{trained}CPU evidence decides only what a CPU can decide: densities, accuracies, and ratios of seconds or bytes "
    "where the reading does the same work on every device. It decides nothing about the seconds or bytes of a GPU; "
    "such claims are not measurable here.",
    "Memory: {memory}",
)


def sections(results: Results) -> Iterator[Section]:
    benchmark = results.benchmark
    arms = _arms(benchmark)
    described = [
        ((arm.title, Span(" (reference)", "quiet")) if place == 0 else arm.title, arm.description)
        for place, arm in enumerate(arms)
    ]
    yield Section("arms", "Arms", "Arms", 91, [Terms(described), arm_differences(benchmark)])
    rows: list[Row] = [[key, TextCell(value, mark="break")] for key, value in matched_settings(benchmark).items()]
    shared = Table(
        "Matched settings", "What all arms of a task and model share.", ["Setting", "Value"], rows, kind="prose"
    )
    yield Section("settings", "Matched settings", "Matched settings", 92, [shared])
    yield Section("start", "Warm start", "Warm start", 93, [warm_starts(results)])
    devices = sorted(set(results.runs["device"].dropna()))
    trained = "All runs trained on a CPU. " if devices == ["cpu"] else f"Runs trained on: {', '.join(devices)}. "
    words = {"level": f"{100 * results.judged.level:g} %", "trained": trained if devices else "", "memory": DEFINITION}
    method = [Text(paragraph.format(**words)) for paragraph in METHOD]
    yield Section("method", "Method and limits", "Method and limits", 94, method)
    yield Section("data", "Data", "Data", 99, [Terms(list(_files(results)))])


def arm_differences(benchmark: Benchmark) -> Table:
    """verl keys in which an arm differs from the reference: the reference first, then the others in the benchmark's
    order; keys in the order the arms name them."""
    arms = _arms(benchmark)
    keys = dict.fromkeys(key for arm in arms for key in arm.verl)
    values = {key: [_value(arm, key) for arm in arms] for key in keys}
    differing = [key for key in keys if len(set(values[key])) > 1]
    rows: list[Row] = [
        [
            arm.title,
            *(
                TextCell(
                    code(values[key][place]), mark="quiet" if place and values[key][place] == values[key][0] else ""
                )
                for key in differing
            ),
        ]
        for place, arm in enumerate(arms)
    ]
    caption = (
        f"Keys of verl's config in which an arm differs from {arms[0].title}. Everything else is the same in all arms."
    )
    return Table("How arms differ", caption, ["Arm", *map(code, differing)], rows)


def _arms(benchmark: Benchmark) -> list[Arm]:
    reference = benchmark.arms[benchmark.reference]
    return [reference, *(arm for arm in benchmark.arms.values() if arm.name != reference.name)]


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


def matched_settings(benchmark: Benchmark) -> dict[str, str]:
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
    return settings | {key: as_text(value) for key, value in train.verl.items()}


def _narrowed(cell: CellPlan, benchmark: Benchmark) -> str:
    """What a task and model with fewer arms or seeds than the matrix is run with, in words."""
    if not cell.arms:
        return "not run"
    titles = ", ".join(benchmark.arms[arm].title for arm in cell.arms)
    seeds = f"seed{'s' if len(cell.seeds) > 1 else ''} {', '.join(map(str, cell.seeds))}"
    return f"{seeds} of {titles if len(cell.arms) < len(benchmark.arms) else 'all arms'}"


def warm_starts(results: Results) -> Block:
    """The last row of each warm start that has left its warmstart.json."""
    rows = []
    for plan in results.benchmark.plans():
        task, model = results.benchmark.tasks[plan.task], results.benchmark.models[plan.model]
        file = results.folder / "assets" / "starts" / task.name / model.name / "warmstart.json"
        if task.warmstart is None or not file.is_file():
            continue
        last = read_object(file, "make the warm start again.")
        shares = (last.get("sampled_accuracy"), task.warmstart.target_accuracy, last.get("greedy_accuracy"))
        ends = [as_text(last.get("step")), *map(percentage, shares), seconds_text(last.get("seconds"))]
        rows.append([task.title, model.title, *ends])
    if not rows:
        return Text("This results folder holds no record of the warm start.")
    caption = "The supervised start that all arms and seeds of a task and model share. Accuracy on the dev split."
    head = ["Task", "Model", "Steps", "Sampled accuracy", "Target", "Greedy accuracy", "Time"]
    return Table("Warm starts", caption, head, rows, kind="prose")


def _files(results: Results) -> Iterator[tuple[str, Words]]:
    tables = sorted(path.relative_to(results.folder).as_posix() for path in results.folder.glob("tables/*.parquet"))
    yield "Verdicts", Link("verdicts.json", "verdicts.json")
    yield "Tidy tables", listed([Link(name, name) for name in tables])
    yield "The resolved matrix", Link("benchmark.yaml", "benchmark.yaml")


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
