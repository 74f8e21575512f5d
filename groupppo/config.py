"""What is compared: benchmark, model, task and arm files, read, checked and turned into dataclasses.

One YAML file is one thing. `load_benchmark("benchmarks/quick.yaml")` reads the matrix and every file it names,
checks each against `groupppo/schemas/` and raises `BadInput` with file, key, value and hint at the first fault.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput, suggest
from groupppo.matched import check_matched
from groupppo.matrix import CellPlan, check_all_used, narrowed_cells
from groupppo.rates import at_rates
from groupppo.schemas import read_checked

REPOSITORY = Path(__file__).resolve().parents[1]
HUB = "hub"
GROUPED = "group_ppo"
"""verl's `algorithm.adv_estimator` of an arm that forms groups."""
MOST_CELLS, MOST_RUNS = 200, 100_000
"""Of a matrix: a page of names and seeds can ask for more than can be listed, and each claim is judged in each cell."""
# Keys that came later. Left out at these values, so that what earlier files say reads, hashes and compares as before.
_LATER: dict[str, Any] = {
    "device": "cpu",
    "reward": "exact",
    "stock": (),
    "shape": None,
    "swept_from": None,
    "checkpoint_every": 25,
    "stall_limit_s": 0,
    "cells": (),
    "compares": (),
    "pilot": None,
}


@dataclass(frozen=True)
class WarmStart:
    """Supervised start of a task: stop as soon as sampled dev accuracy reaches `target_accuracy`."""

    target_accuracy: float
    max_accuracy: float
    max_steps: int
    batch_size: int
    learning_rate: float
    seed: int
    eval_every: int
    eval_prompts: int


@dataclass(frozen=True)
class Task:
    name: str
    title: str
    version: str
    generator: str
    params: dict[str, Any]
    splits: dict[str, int]
    seed: int
    max_prompt_tokens: int
    max_response_tokens: int
    warmstart: WarmStart | None
    source: Path
    reward: str = "exact"
    stock: tuple[str, ...] = ()

    def require_fit(self, positions: float, model: str) -> None:
        """Check that the longest prompt and response fit a model's positions.

        Raises:
            BadInput: they do not; a rollout server would refuse them once the run has begun.
        """
        longest = self.max_prompt_tokens + self.max_response_tokens
        if longest > positions:
            hint = f"keep prompt and response, {longest} tokens, within the {positions} positions of {model}."
            raise BadInput(self.source, "max_response_tokens", self.max_response_tokens, hint)


@dataclass(frozen=True)
class Model:
    """A model and what a run of it takes.

    Attributes:
        resources: of a run on each of its `nodes`, one if it names none.
        shape: its sizes, keys as of `groupppo.update.flops.Shape`; None where nothing is planned with them.
    """

    name: str
    title: str
    factory: str
    params: dict[str, Any]
    seed: int
    resources: dict[str, int]
    verl: dict[str, Any]
    source: Path
    shape: dict[str, Any] | None = None

    @property
    def nodes(self) -> int:
        """Machines of one run."""
        return self.resources.get("nodes", 1)

    @property
    def ranks(self) -> int:
        """Training processes of one run on each of its machines, on CUDA one for each GPU."""
        return self.resources.get("gpu", 1)

    @property
    def published(self) -> bool:
        """Whether its weights are somebody's publication, which may have more embeddings than its tokenizer tokens."""
        return self.factory == HUB


@dataclass(frozen=True)
class Arm:
    """An algorithm.

    Attributes:
        density_from: the arm whose density it copies step by step. swept_from: the arm's file where the benchmark
            trains it at several learning rates (groupppo/rates.py), each under a name of its own.
    """

    name: str
    title: str
    description: str
    verl: dict[str, Any]
    source: Path
    density_from: str | None = None
    swept_from: str | None = None

    @property
    def grouped(self) -> bool:
        """Whether it forms groups."""
        return is_grouped(self.verl)


@dataclass(frozen=True)
class Train:
    """What every arm of a cell shares (design: matched arms). Tokens, prompts and steps are counts.

    Attributes:
        checkpoint_every: steps between checkpoints to resume from; 0 for none.
        stall_limit_s: a run that makes no step for longer is ended; 0 for a limit drawn from its own steps.
    """

    steps: int
    prompts_per_step: int
    responses_per_prompt: int
    mini_batches: int
    epochs: int
    actor_lr: float
    critic_lr: float
    temperature: float
    gamma: float
    lam: float
    rollout: str
    time_limit_s: int
    save_critic: bool = False
    checkpoint_every: int = _LATER["checkpoint_every"]
    stall_limit_s: int = _LATER["stall_limit_s"]
    verl: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    batch_size: int
    repeats: int
    sampled_prompts: int
    seed: int


@dataclass(frozen=True)
class Benchmark:
    """A matrix of models, tasks, arms and seeds, and what its runs share.

    Attributes:
        cells: tasks and models that have fewer arms or seeds than the matrix; who wants to know what is run asks
            `plan` or `plans`.
        compares: keys of verl beside the algorithm in which its arms differ.
    """

    name: str
    title: str
    models: dict[str, Model]
    tasks: dict[str, Task]
    arms: dict[str, Arm]
    seeds: tuple[int, ...]
    reference: str
    train: Train
    evaluation: Evaluation
    claims: Path
    source: Path
    studies: tuple[str, ...] = ()
    profile: Path | None = None
    pilot: Path | None = None
    device: str = "cpu"
    cells: tuple[CellPlan, ...] = ()
    compares: tuple[str, ...] = ()

    def trains_critic(self, arm: Arm) -> bool:
        """Whether runs of an arm train a critic."""
        return trains_critic(self.train.verl | arm.verl)

    def plan(self, task: str, model: str) -> CellPlan:
        """What is run of a task with a model: all arms and seeds unless `cells` says less."""
        whole = CellPlan(task, model, tuple(self.arms), self.seeds)
        return next((cell for cell in self.cells if (cell.task, cell.model) == (task, model)), whole)

    def plans(self) -> list[CellPlan]:
        """The cells that are run, in the order of tasks, then models."""
        plans = (self.plan(task, model) for task in self.tasks for model in self.models)
        return [plan for plan in plans if plan.arms]

    def resolved(self) -> dict[str, Any]:
        """The whole matrix as plain data, sources relative to the repository: what `benchmark.yaml` records."""
        return _plain(recorded(self))


def is_grouped(verl: Mapping[str, Any]) -> bool:
    """Whether a run with these keys of verl's config, dotted, forms groups."""
    return verl.get("algorithm.adv_estimator") == GROUPED


def trains_critic(verl: Mapping[str, Any]) -> bool:
    """Whether a run with these keys of verl's config, dotted, trains a critic."""
    return bool(verl.get("critic.enable", False))


def recorded(thing: Any) -> dict[str, Any]:
    """A dataclass of this module as dictionaries, without the keys in `_LATER` that are at their defaults."""
    found: dict[str, Any] = _without_later(asdict(thing))
    return found


def _without_later(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if key not in _LATER or item != _LATER[key]}
    return {key: _without_later(item) for key, item in kept.items()}


def load_benchmark(path: str | Path) -> Benchmark:
    """Read a benchmark file and every model, task and arm file it names.

    Raises:
        BadInput: a file is missing or not YAML, a key is unknown, missing or out of range, or a name has no file.
    """
    path = Path(path)
    data = _named_file(path, "benchmark")
    home = path.parent
    named = {name: load_arm(_named(home, "arms", name, path)) for name in data["arms"]}
    arms = at_rates(named, data["learning_rates"], path)
    if data["reference"] not in arms:
        raise BadInput(path, "reference", data["reference"], f"name one of the arms: {', '.join(arms)}.")
    cells = len(data["models"]) * len(data["tasks"])
    if cells > MOST_CELLS:
        hint = f"keep models x tasks at most {MOST_CELLS}: write several benchmarks."
        raise BadInput(path, "tasks", f"{cells:,} tasks with a model", hint)
    runs = cells * len(arms) * len(data["seeds"])
    if runs > MOST_RUNS:
        hint = f"keep models x tasks x arms x seeds at most {MOST_RUNS:,}: write several benchmarks."
        raise BadInput(path, "seeds", f"{runs:,} runs", hint)
    _check_density_sources(arms, path)
    models = {name: load_model(_named(home, "models", name, path)) for name in data["models"]}
    tasks = {name: load_task(_named(home, "tasks", name, path)) for name in data["tasks"]}
    claims = home / data["claims"]
    if not claims.is_file():
        raise BadInput(path, "claims", data["claims"], f"name an existing file in {home}.")
    benchmark = Benchmark(
        name=data["name"],
        title=data["title"],
        models=models,
        tasks=tasks,
        arms=arms,
        seeds=tuple(data["seeds"]),
        reference=data["reference"],
        train=Train(**data["train"]),
        evaluation=Evaluation(**data["evaluation"]),
        claims=claims,
        source=path,
        studies=tuple(data["studies"]),
        profile=_beside("profile", data, home, path),
        pilot=_beside("pilot", data, home, path),
        device=data["device"],
        cells=narrowed_cells(data, arms, path),
        compares=tuple(data["compares"]),
    )
    check_all_used(benchmark)
    check_matched(benchmark)
    _check_device(benchmark)
    for task in tasks.values():
        if benchmark.evaluation.sampled_prompts > task.splits["test"]:
            hint = f"write at most {task.splits['test']}, the test prompts of {task.name}."
            raise BadInput(path, "evaluation.sampled_prompts", benchmark.evaluation.sampled_prompts, hint)
    return benchmark


def _beside(key: str, data: dict[str, Any], home: Path, path: Path) -> Path | None:
    name = data.get(key)
    if name is not None and not (home / name).is_file():
        raise BadInput(path, key, name, f"name an existing file in {home}.")
    return None if name is None else home / name


def _check_density_sources(arms: dict[str, Arm], path: Path) -> None:
    """An arm that copies another arm's density needs that arm in the matrix, and one that has a density of its own."""
    for arm in arms.values():
        if arm.density_from is None:
            continue
        if arm.density_from not in arms:
            raise BadInput(path, "arms", list(arms), f"add {arm.density_from}: {arm.name} takes its density from it.")
        if arm.density_from == arm.name or arms[arm.density_from].density_from is not None:
            hint = "name an arm whose density does not come from another arm."
            raise BadInput(arm.source, "density_from", arm.density_from, hint)


def _check_device(benchmark: Benchmark) -> None:
    """The rollout, the models and the starts must be ones that the device has."""
    path, device, rollout = benchmark.source, benchmark.device, benchmark.train.rollout
    on_gpu = device == "cuda"
    if on_gpu and rollout != "vllm":
        raise BadInput(path, "train.rollout", rollout, "write vllm: the others run on a CPU only.")
    for model in benchmark.models.values():
        if on_gpu and ("gpu" not in model.resources or model.shape is None):
            hint = "add gpu and gpu_memory_gb, and the model's shape, for device: cuda, or write device: cpu."
            raise BadInput(model.source, "resources", model.resources, hint)
        if not on_gpu and "gpu" in model.resources:
            hint = f"write cuda: {model.name} is planned for {model.resources['gpu']} GPU(s)."
            raise BadInput(path, "device", device, hint)
    for plan in benchmark.plans():
        task, model = benchmark.tasks[plan.task], benchmark.models[plan.model]
        if task.warmstart is None and not model.published:
            hint = f"add it, or use a model of factory {HUB}: {model.name} has random weights."
            raise BadInput(task.source, "warmstart", None, hint)


def load_task(path: str | Path) -> Task:
    data = _named_file(Path(path), "task")
    data["warmstart"] = WarmStart(**data["warmstart"]) if "warmstart" in data else None
    task = Task(**(data | {"stock": tuple(data.get("stock", ()))}), source=Path(path))
    start = task.warmstart
    if start is None:
        return task
    if start.max_accuracy < start.target_accuracy:
        hint = f"write at least target_accuracy, {start.target_accuracy}."
        raise BadInput(path, "warmstart.max_accuracy", start.max_accuracy, hint)
    for key, value, split in (
        ("batch_size", start.batch_size, "train"),
        ("eval_prompts", start.eval_prompts, "dev"),
    ):
        if value > task.splits[split]:
            raise BadInput(path, f"warmstart.{key}", value, f"write at most {task.splits[split]}, as splits.{split}.")
    return task


def load_model(path: str | Path) -> Model:
    return Model(**_named_file(Path(path), "model"), source=Path(path))


def load_arm(path: str | Path) -> Arm:
    return Arm(**_named_file(Path(path), "arm"), source=Path(path))


def _named(home: Path, kind: str, name: str, asked_by: Path) -> Path:
    path = home / kind / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in (home / kind).glob("*.yaml"))
        hint = f"no such file {path}; {suggest(name, known)}Known: {', '.join(known) or 'none'}."
        raise BadInput(asked_by, kind, name, hint)
    return path


def _named_file(path: Path, kind: str) -> dict[str, Any]:
    data = read_checked(path, kind)
    if data["name"] != path.stem:
        raise BadInput(path, "name", data["name"], f"write the file's own name: {path.stem}.")
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        absolute = value.resolve()
        return str(absolute.relative_to(REPOSITORY) if absolute.is_relative_to(REPOSITORY) else absolute)
    return value
