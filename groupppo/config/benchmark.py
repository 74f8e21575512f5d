"""A benchmark: the matrix of models, tasks, arms and seeds, read with every file that it names.

`load_benchmark("benchmarks/quick.yaml")` raises `BadInput` with file, key, value and hint at the first fault.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from groupppo.config.arms import clip_notes, match_faults
from groupppo.config.files import (
    LATER,
    ONE,
    SEVERAL,
    UNIQUE,
    BesideName,
    Form,
    Maybe,
    Name,
    Names,
    Rate,
    Seeds,
    Title,
    VerlKey,
    read_form,
)
from groupppo.config.things import (
    FOLDER,
    HUB,
    Arm,
    Evaluation,
    Model,
    Task,
    Train,
    load_arm,
    load_model,
    load_task,
    recorded,
    trains_critic,
)
from groupppo.errors import BadInput, suggest

MOST_CELLS, MOST_RUNS = 200, 100_000
"""Of a matrix: a page of names and seeds can ask for more than can be listed, and each claim is judged in each cell."""
T = TypeVar("T")
CELLS = "cells"
RATE_KEY = "actor_rollout_ref.actor.optim.lr"
_Listed = Annotated[Names, Field(min_length=1)]
_ONE_OR_SEVERAL = Discriminator(lambda value: SEVERAL if isinstance(value, list | tuple) else ONE)
_LearningRate = Annotated[
    Annotated[Rate, Tag(ONE)] | Annotated[tuple[Rate, ...], Field(min_length=2), UNIQUE, Tag(SEVERAL)], _ONE_OR_SEVERAL
]
_Claims = Annotated[
    Annotated[BesideName, Tag(ONE)] | Annotated[Names, Field(min_length=1, max_length=20), Tag(SEVERAL)],
    _ONE_OR_SEVERAL,
]


@dataclass(frozen=True)
class _Cell:
    task: str
    """One of the tasks."""
    model: str
    """One of the models."""
    arms: Maybe[Annotated[tuple[str, ...], UNIQUE]] = None
    """The arms it is run with, the reference among them, swept ones by the name of each rate; [] if it is not run.
    Left out: all."""
    seeds: Maybe[Seeds] = None
    """The seeds it is run with. Left out: all."""


@dataclass(frozen=True, kw_only=True)
class _Setting:
    title: Title
    """Label in tables and figures, after the model's."""
    mini_batches: Maybe[Annotated[int, Field(ge=1, le=10_000)]] = None
    """Optimiser updates in one pass over a step's batch, instead of train's."""
    verl: dict[VerlKey, Any] = field(default_factory=dict)
    """Keys of verl's config, dotted, such as trainer.critic_warmup or actor_rollout_ref.rollout.dtype."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkFile(Form):
    """A benchmark, the matrix models x tasks x arms x seeds."""

    name: Name
    """Folder name under results/, in lower case letters, digits and _."""
    title: Title
    """One line for the report."""
    models: _Listed
    """Names of files in models/."""
    tasks: _Listed
    """Names of files in tasks/."""
    arms: _Listed
    """Names of files in arms/."""
    seeds: Seeds
    """Training seeds, whole numbers from 0 to 2^32 - 1; the unit of replication."""
    settings: dict[Name, _Setting] = field(default_factory=dict)
    """Ways to train that each model is run with, by name: cells of their own, MODEL_SETTING, with the same start."""
    cells: tuple[_Cell, ...] = ()
    """Tasks and models that are run with fewer arms or seeds than the matrix has; any other pair has them all."""
    reference: str
    """The dense arm that all others are compared with."""
    compares: Annotated[tuple[VerlKey, ...], UNIQUE] = ()
    """Keys of verl beside the algorithm that arms may set, for they are what is compared; the report says so first."""
    claims: _Claims
    """Claims under test: names of files in claims/, as [group_ppo], of which those about arms of the matrix are judged;
    or one file beside this one, as mine.yaml."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where runs train: cpu, or cuda for NVIDIA GPUs with vLLM rollouts."""
    profile: Maybe[BesideName] = None
    """A profile beside this file whose measured costs the report shows."""
    pilot: Maybe[BesideName] = None
    """A benchmark beside this file that swept its arms' learning rates; the report shows the sweep. Run it first."""
    studies: Names = ()
    """Names of studies (groupppo/studies/), run for every task and model on the reference arm's first seed."""
    train: Train
    """What every arm of a cell shares."""
    learning_rates: dict[Name, _LearningRate] = field(default_factory=dict)
    """Learning rates of the policy for single arms, by name, instead of train.actor_lr; a list trains the arm at each
    of them."""
    evaluation: Evaluation
    """How lm-eval measures held-out accuracy."""


@dataclass(frozen=True)
class CellPlan:
    """What is run of a task with a model, in the matrix's order; without any arm it is not run."""

    task: str
    model: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(arm, seed) of every training run."""
        return list(product(self.arms, self.seeds))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with what its file names; `plan` and `plans` say what is run. `BenchmarkFile` describes the rest."""

    name: str
    title: str
    models: dict[str, Model]
    tasks: dict[str, Task]
    arms: dict[str, Arm]
    seeds: tuple[int, ...]
    reference: str
    train: Train
    evaluation: Evaluation
    claims: Path | tuple[Path, ...]
    source: Path
    studies: tuple[str, ...] = ()
    profile: Path | None = None
    pilot: Path | None = field(default=None, metadata=LATER)
    device: str = field(default="cpu", metadata=LATER)
    cells: tuple[CellPlan, ...] = field(default=(), metadata=LATER)
    compares: tuple[str, ...] = field(default=(), metadata=LATER)

    @property
    def claims_files(self) -> list[Path]:
        return [self.claims] if isinstance(self.claims, Path) else list(self.claims)

    def trains_critic(self, arm: Arm) -> bool:
        """Whether runs of an arm train a critic."""
        return trains_critic(self.train.verl | arm.verl)

    def weights(self, name: str) -> Model:
        """The model that has those weights, one of the matrix or one that settings of it share."""
        return self.models.get(name) or next(each for each in self.models.values() if each.weights == name)

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
        return dict(recorded(self))

    def notes(self) -> list[str]:
        """What may be meant and will not do what its name says: an arm that clips where no update can be clipped."""
        return clip_notes(self.name, self.arms, self.train, list(self.models.values()))

    def faults(self) -> Iterator[BadInput]:
        """What does not go together."""
        yield from _density_faults(self)
        yield from _unused(self)
        yield from match_faults(self.arms, self.compares, self.source)
        yield from _device_faults(self)
        for task in self.tasks.values():
            asked, most = self.evaluation.sampled_prompts, task.splits["test"]
            if asked > most:
                hint = f"write at most {most}, the test prompts of {task.name}."
                yield BadInput(self.source, "evaluation.sampled_prompts", asked, hint)


def load_benchmark(path: str | Path) -> Benchmark:
    """Read a benchmark file and every model, task and arm file it names.

    Raises:
        BadInput: a file is missing or not YAML, a key is unknown, missing or out of range, a name has no file, or two
            settings do not go together.
    """
    path = Path(path)
    file = read_form(path, BenchmarkFile)
    arms = at_rates(_named(path, "arms", file.arms, load_arm), file.learning_rates, path)
    if file.reference not in arms:
        raise BadInput(path, "reference", file.reference, f"name one of the arms: {', '.join(arms)}.")
    models = at_settings(_named(path, "models", file.models, load_model), file, path)
    cells = len(models) * len(file.tasks)
    runs = cells * len(arms) * len(file.seeds)
    if cells > MOST_CELLS:
        hint = f"keep models x tasks at most {MOST_CELLS}: write several benchmarks."
        raise BadInput(path, "tasks", f"{cells:,} tasks with a model", hint)
    if runs > MOST_RUNS:
        hint = f"keep models x tasks x arms x seeds at most {MOST_RUNS}: write several benchmarks."
        raise BadInput(path, "seeds", f"{runs:,} runs", hint)
    same = ("name", "title", "seeds", "reference", "train", "evaluation", "studies", "device", "compares")
    named = {key: getattr(file, key) for key in ("claims", "profile", "pilot")}
    beside: dict[str, Any] = {key: path.parent / name for key, name in named.items() if isinstance(name, str)}
    for key, other in beside.items():
        if not other.is_file():
            listed = f", or files of {path.parent / 'claims'} in a list, as [group_ppo]" if key == "claims" else ""
            raise BadInput(path, key, other.name, f"name an existing file in {path.parent}{listed}.")
    if not isinstance(file.claims, str):
        beside["claims"] = tuple(_named(path, "claims", file.claims, Path).values())
    benchmark = Benchmark(
        **{key: getattr(file, key) for key in same},
        **beside,
        models=models,
        tasks=_named(path, "tasks", file.tasks, load_task),
        arms=arms,
        source=path,
        cells=_narrowed_cells(file, arms, models, path),
    )
    for fault in benchmark.faults():
        raise fault
    return benchmark


def _named(asked_by: Path, kind: str, names: Sequence[str], load: Callable[[Path], T]) -> dict[str, T]:
    """Things of a folder beside a benchmark by name; BadInput for a name without a file."""
    home = asked_by.parent / kind
    for name in names:
        if not (home / f"{name}.yaml").is_file():
            known = sorted(file.stem for file in home.glob("*.yaml"))
            hint = f"no such file {home / name}.yaml; {suggest(name, known)}Known: {', '.join(known) or 'none'}."
            raise BadInput(asked_by, kind, name, hint)
    return {name: load(home / f"{name}.yaml") for name in names}


# verl's key of a mini-batch's prompts, for the policy and for a critic, which an arm may do without.
_MINI_BATCH = ("actor_rollout_ref.actor.ppo_mini_batch_size", "critic.ppo_mini_batch_size")


def at_settings(models: Mapping[str, Model], file: BenchmarkFile, source: Path) -> dict[str, Model]:
    """The models of a matrix, each once in each setting, as tiny_four_updates; without settings as they are.

    Raises:
        BadInput: a step's prompts do not make so many mini-batches, a key is set for all cells, too, or a name is
            another model's.
    """
    if not file.settings:
        return dict(models)
    found: dict[str, Model] = {}
    for model in models.values():
        for key, setting in file.settings.items():
            name, keys, prompts = f"{model.name}_{key}", dict(setting.verl), file.train.prompts_per_step
            if setting.mini_batches is not None:
                if prompts % setting.mini_batches:
                    hint = f"write a divisor of prompts_per_step ({prompts})."
                    raise BadInput(source, f"settings.{key}.mini_batches", setting.mini_batches, hint)
                keys |= dict.fromkeys(_MINI_BATCH, prompts // setting.mini_batches)
            for said in keys:
                if said in file.train.verl:
                    hint = f"leave it out of train.verl, or of settings.{key}: only one of them can hold."
                    raise BadInput(source, f"train.verl.{said}", file.train.verl[said], hint)
            if name in models or name in found:
                raise BadInput(source, f"settings.{key}", name, "write another name: this is a model of the matrix.")
            title, verl = f"{model.title}, {setting.title}", model.verl | keys
            found[name] = replace(model, name=name, title=title, verl=verl, setting_of=model.name)
    return found


def rate_name(arm: str, rate: float) -> str:
    """The name of an arm at one rate of a sweep; the rate in millionths, a point written as p."""
    return f"{arm}_lr{rate * 1e6:g}u".replace(".", "p")


def rate_title(title: str, rate: float) -> str:
    """The title of an arm at one rate of a sweep."""
    return f"{title}, rate {rate:g}"


def at_rates(arms: Mapping[str, Arm], rates: Mapping[str, float | Sequence[float]], source: Path) -> dict[str, Arm]:
    """The arms of a matrix, each at its learning rate; a swept one once at each, as group_ppo_lr30u for 3.0e-5.

    A mask changes the scale of a gradient, so a fair comparison tunes every arm alike.

    Raises:
        BadInput: a rate is for an arm that is not in the matrix or has one in its own file, or an arm takes its density
            from one that is not trained at the same rates.
    """
    for name in rates:
        if name not in arms:
            raise BadInput(source, "learning_rates", name, f"name one of the arms: {', '.join(arms)}.")
        if RATE_KEY in arms[name].verl:
            hint = f"leave it out: {source} says it, too."
            raise BadInput(arms[name].source, RATE_KEY, arms[name].verl[RATE_KEY], hint)
    swept = {name: list(rate) for name, rate in rates.items() if isinstance(rate, Sequence)}
    tuned: dict[str, Arm] = {}
    for arm in arms.values():
        other, own = arm.density_from, rates.get(arm.name)
        if other in swept and not set(swept.get(arm.name, [None])) <= set(swept[other]):
            hint = f"write the rates of {other}, from which it takes its density: {swept[other]}."
            value = list(own) if isinstance(own, Sequence) else own
            raise BadInput(source, f"learning_rates.{arm.name}", value, hint)
        if not isinstance(own, Sequence):
            tuned[arm.name] = arm if own is None else replace(arm, verl=arm.verl | {RATE_KEY: own})
            continue
        for rate in own:
            name = rate_name(arm.name, rate)
            tuned[name] = replace(
                arm,
                name=name,
                title=rate_title(arm.title, rate),
                verl=arm.verl | {RATE_KEY: rate},
                swept_from=arm.name,
                density_from=rate_name(other, rate) if other in swept else other,
            )
    return tuned


def _narrowed_cells(
    file: BenchmarkFile, arms: Mapping[str, Arm], models: Mapping[str, Model], source: Path
) -> tuple[CellPlan, ...]:
    """The entries of `cells`, in the file's order; BadInput for one that is not in the matrix, says nothing or what an
    earlier one says, or leaves out the reference or the arm that another one takes its density from.
    """
    plans: dict[tuple[str, str], CellPlan] = {}
    for place, entry in enumerate(file.cells):
        key, cell = f"{CELLS}[{place}]", (entry.task, entry.model)
        named: tuple[tuple[str, Sequence[Any], Sequence[Any]], ...] = (
            ("task", [entry.task], file.tasks),
            ("model", [entry.model], list(models)),
            ("arms", entry.arms or (), list(arms)),
            ("seeds", entry.seeds or (), file.seeds),
        )
        for kind, names, known in named:
            for name in names:
                if name not in known:
                    hint = f"{suggest(name, known)}The matrix has: {', '.join(map(str, known))}."
                    raise BadInput(source, f"{key}.{kind}", name, hint)
        if entry.arms is None and entry.seeds is None:
            hint = "name the arms or seeds that it is run with, or arms: [] for none, or leave the entry out."
            raise BadInput(source, key, {"task": entry.task, "model": entry.model}, hint)
        if cell in plans:
            raise BadInput(source, key, ", ".join(cell), "write one entry for a task and model.")
        kept = tuple(name for name in arms if entry.arms is None or name in entry.arms)
        needed = {file.reference: "the others are compared with it, or write [] for a cell that is not run"}
        needed |= {arms[name].density_from or name: f"{name} takes its density from it" for name in kept}
        for other, why in needed.items() if kept else ():
            if other not in kept:
                raise BadInput(source, f"{key}.arms", list(kept), f"add {other}: {why}.")
        seeds = tuple(seed for seed in file.seeds if entry.seeds is None or seed in entry.seeds)
        plans[cell] = CellPlan(*cell, kept, seeds)
    return tuple(plans.values())


def _density_faults(benchmark: Benchmark) -> Iterator[BadInput]:
    """An arm that copies another arm's density needs that arm in the matrix, and one that has a density of its own."""
    arms = benchmark.arms
    for arm in arms.values():
        other = arm.density_from
        if other is not None and other not in arms:
            yield BadInput(benchmark.source, "arms", list(arms), f"add {other}: {arm.name} takes its density from it.")
        elif other is not None and arms[other].density_from is not None:
            hint = "name an arm whose density does not come from another arm."
            yield BadInput(arm.source, "density_from", other, hint)


def _unused(benchmark: Benchmark) -> Iterator[BadInput]:
    """Something is in the matrix that no cell is run with."""
    plans, source = benchmark.plans(), benchmark.source
    if not plans:
        yield BadInput(source, CELLS, "no cell left", "run at least one task with one model.")
        return
    used: dict[str, set[str | int]] = {
        "tasks": {plan.task for plan in plans},
        "models": {plan.model for plan in plans},
        "arms": {arm for plan in plans for arm in plan.arms},
        "seeds": {seed for plan in plans for seed in plan.seeds},
    }
    for key, run in used.items():
        for name in getattr(benchmark, key):
            if name not in run:
                hint = f"leave it out, or add it to one of the {CELLS}: none is run with it."
                yield BadInput(source, key, name, hint)


def _device_faults(benchmark: Benchmark) -> Iterator[BadInput]:
    """The rollout, the models and the starts must be ones that the device has."""
    path, device, rollout = benchmark.source, benchmark.device, benchmark.train.rollout
    on_gpu = device == "cuda"
    if on_gpu and rollout != "vllm":
        yield BadInput(path, "train.rollout", rollout, "write vllm: the others run on a CPU only.")
    if not on_gpu and benchmark.train.attention == "sdpa":
        yield BadInput(path, "train.attention", "sdpa", "leave it out: runs on a CPU have no other.")
    for model in benchmark.models.values():
        if on_gpu and ("gpu" not in model.resources or model.shape is None):
            hint = "add gpu and gpu_memory_gb, and the model's shape, for device: cuda, or write device: cpu."
            yield BadInput(model.source, "resources", model.resources, hint)
        if not on_gpu and "gpu" in model.resources:
            hint = f"write cuda: {model.name} is planned for {model.resources['gpu']} GPU(s)."
            yield BadInput(path, "device", device, hint)
    for plan in benchmark.plans():
        task, model = benchmark.tasks[plan.task], benchmark.models[plan.model]
        if task.warmstart is None and not model.published:
            hint = f"add it, or use a model of factory {HUB} or {FOLDER}: {model.name} has random weights."
            yield BadInput(task.source, "warmstart", None, hint)
