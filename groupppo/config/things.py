"""What a benchmark is made of: tasks, models and arms, one file each, and what all of its runs share."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from groupppo.config.allowed import require_inside
from groupppo.config.files import (
    AS_WRITTEN,
    LATER,
    Count,
    Form,
    KeysOf,
    Maybe,
    Name,
    Names,
    Prose,
    PythonName,
    Rate,
    Seed,
    Title,
    VerlKey,
    read_form,
)
from groupppo.errors import BadInput
from groupppo.records.folders import REPOSITORY
from groupppo.records.plain_json import read_bytes

HUB, FOLDER = "hub", "folder"
"""Factories of models that somebody else has made."""
FILE = "file"
"""The generator of tasks whose questions and answers are in a file of the user's."""
REWARDS, LARGEST_REWARD = "rewards", 20_000
"""The folder of Python files that judge responses, beside those of tasks, and the bytes of one at most."""
GROUPED = "group_ppo"
"""verl's `algorithm.adv_estimator` of an arm that forms groups."""


@dataclass(frozen=True)
class WarmStart:
    """Supervised start of a task."""

    target_accuracy: Annotated[float, Field(gt=0, lt=1), AS_WRITTEN]
    """Stop at this sampled dev accuracy."""
    max_accuracy: Rate
    """Fail above this: RL would have no room."""
    max_steps: Count
    """Fail when the target is not reached by then."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)]
    """Demonstrations in one step."""
    learning_rate: Rate
    """Peak learning rate, in (0, 1]."""
    seed: Seed
    """Seed of the demonstration order."""
    eval_every: Count
    """Steps between two dev evaluations."""
    eval_prompts: Count
    """Dev prompts in one evaluation."""


@dataclass(frozen=True)
class _Splits:
    train: Count
    """Training prompts."""
    dev: Count
    """Prompts that stop the warm start."""
    test: Count
    """Held-out prompts; 1,000 or more for published results."""


@dataclass(frozen=True)
class Task(Form):
    """A task, prompts with an exact 0/1 reward."""

    name: Name
    """The file's own name."""
    title: Title
    """Label in tables and figures."""
    version: Annotated[str, Field(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
    """Raised whenever prompts or scoring change, such as "1.0" (quoted)."""
    generator: Name
    """Generator registered in groupppo.tasks."""
    params: dict[str, Any]
    """Keyword arguments of the generator."""
    splits: Annotated[dict[str, int], KeysOf(_Splits)]
    """Distinct prompts in each split."""
    seed: Seed
    """Seed of the prompt generator."""
    max_prompt_tokens: Count
    """Longest prompt, chat template included."""
    max_response_tokens: Count
    """Longest response."""
    warmstart: Maybe[WarmStart] = None
    """The supervised start shared by all arms and seeds; without it they share the model as downloaded."""
    source: SkipJsonSchema[Path] = Path()
    reward: Literal["exact", "math", "reasoning_gym", "python"] = field(default="exact", metadata=LATER)
    """How a response is judged; each gives 0 or 1."""
    stock: Names = field(default=(), metadata=LATER)
    """lm-eval's own tasks on the same subject; they download from the Hugging Face hub."""
    reward_file: Maybe[PythonName] = field(default=None, metadata=LATER)
    """For reward: python: a file in rewards/, beside tasks/, with a function score(response, answer). It is code: who
    starts a run allows it."""
    reward_text: SkipJsonSchema[str] = field(default="", metadata=LATER)

    @property
    def reward_params(self) -> dict[str, str]:
        """Of a reward of the user's, what tells that it has changed; nothing for the others."""
        return {"reward_sha256": hashlib.sha256(self.reward_text.encode()).hexdigest()} if self.reward_text else {}

    def faults(self) -> Iterator[BadInput]:
        """A reward without its file, a warm start that cannot end, or that looks at more prompts than there are."""
        if (self.reward == "python") != (self.reward_file is not None):
            hint = "write reward: python with reward_file: NAME.py, or neither."
            yield BadInput(self.source, "reward_file", self.reward_file, hint)
        start = self.warmstart
        if start is None:
            return
        if start.max_accuracy < start.target_accuracy:
            hint = f"write at least target_accuracy, {start.target_accuracy}."
            yield BadInput(self.source, "warmstart.max_accuracy", start.max_accuracy, hint)
        for key, split in (("batch_size", "train"), ("eval_prompts", "dev")):
            value, most = getattr(start, key), self.splits[split]
            if value > most:
                yield BadInput(self.source, f"warmstart.{key}", value, f"write at most {most}, as splits.{split}.")

    def require_fit(self, positions: float, model: str) -> None:
        """Raise BadInput unless the longest prompt and response fit a model's positions, as a rollout server asks."""
        longest = self.max_prompt_tokens + self.max_response_tokens
        if longest > positions:
            hint = f"keep prompt and response, {longest} tokens, within the {positions} positions of {model}."
            raise BadInput(self.source, "max_response_tokens", self.max_response_tokens, hint)


@dataclass(frozen=True)
class _Resources:
    mem_mb: Annotated[int, Field(ge=1, le=100_000_000)]
    """Peak memory of one run, in MB."""
    cpus: Maybe[Annotated[int, Field(ge=1, le=4096)]] = None
    """CPU cores of one run."""
    nodes: Maybe[Annotated[int, Field(ge=1, le=4096)]] = None
    """Machines of one run, one if left out; more need Slurm."""
    gpu: Maybe[Annotated[int, Field(ge=1, le=64)]] = None
    """GPUs of one run in each machine."""
    gpu_memory_gb: Maybe[Annotated[float, Field(gt=0, le=10_000), AS_WRITTEN]] = None
    """Memory of one GPU in GB (10^9 bytes); the plan is refused where a run needs more."""
    runtime: Maybe[Annotated[int, Field(ge=1, le=525_600)]] = None
    """Longest run, in minutes; without it the benchmark's time_limit_s counts."""


@dataclass(frozen=True)
class _Shape:
    hidden: Count
    """Channels."""
    layers: Count
    """Decoder layers."""
    intermediate: Count
    """Channels inside the MLP."""
    heads: Count
    """Query heads."""
    kv_heads: Count
    """Key and value heads."""
    head_dim: Count
    """Channels of a head."""
    vocabulary: Count
    """Rows of the embedding."""
    tied: bool
    """Whether the head's weights are the embedding's."""
    query_key_norm: bool = False
    """Whether queries and keys are normalised, as in Qwen3."""


@dataclass(frozen=True)
class Model(Form):
    """A model."""

    name: Name
    """The file's own name."""
    title: Title
    """Label in tables and figures."""
    factory: Name
    """Function in groupppo.models that builds the model's folder."""
    params: dict[str, Any]
    """Keyword arguments of the factory."""
    seed: Seed
    """Seed of the random initial weights."""
    resources: Annotated[dict[str, int], KeysOf(_Resources)]
    """What one training run of this model needs on each of its machines."""
    verl: dict[VerlKey, Any] = field(default_factory=dict)
    """Keys of verl's config this model needs, dotted."""
    source: SkipJsonSchema[Path] = Path()
    shape: Annotated[dict[str, Any] | None, KeysOf(_Shape)] = field(default=None, metadata=LATER)
    """Sizes to plan a GPU's memory with; the downloaded model is checked against them."""
    setting_of: Maybe[Name] = field(default=None, metadata=LATER)
    """In a bundle: the model of which this is one setting. In your own files use settings."""

    @property
    def weights(self) -> str:
        """The model whose weights, and whose warm start, it shares: another one's where it is a setting of that."""
        return self.setting_of or self.name

    def faults(self) -> Iterator[BadInput]:
        """GPUs without their memory, or the memory of no GPU."""
        for key, other in (("gpu", "gpu_memory_gb"), ("gpu_memory_gb", "gpu")):
            if key in self.resources and other not in self.resources:
                yield BadInput(self.source, f"resources.{other}", None, f"add this key: {key} needs it.")

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
        return self.factory in (HUB, FOLDER)


@dataclass(frozen=True)
class Arm(Form):
    """An arm, one training algorithm as a difference in verl's config."""

    name: Name
    """The file's own name."""
    title: Title
    """Label in tables and figures."""
    description: Prose
    """What the arm is, in one or two sentences."""
    verl: Annotated[dict[VerlKey, Any], Field(min_length=1)]
    """Keys of verl's config that make this arm what it is, dotted."""
    source: SkipJsonSchema[Path] = Path()
    density_from: Maybe[Name] = None
    """An arm of the same matrix whose density, step by step, the rule of this arm has to match."""
    swept_from: Maybe[Name] = field(default=None, metadata=LATER)
    """In a bundle: the arm of which this is one learning rate. In your own files use learning_rates."""

    @property
    def grouped(self) -> bool:
        """Whether it forms groups."""
        return is_grouped(self.verl)


@dataclass(frozen=True, kw_only=True)
class Train:
    """What every arm of a cell shares."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    """Training steps, at least 1."""
    prompts_per_step: Annotated[int, Field(ge=1, le=1_000_000)]
    """Prompts in one step, from 1 to the training prompts of the task."""
    responses_per_prompt: Annotated[int, Field(ge=1, le=10_000)]
    """Responses sampled for one prompt, at least 1."""
    mini_batches: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimiser updates in one pass over a step's batch."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    """Passes over a step's batch."""
    actor_lr: Rate
    """Learning rate of the policy, in (0, 1]."""
    critic_lr: Rate
    """Learning rate of the critic, in (0, 1]."""
    temperature: Annotated[float, Field(gt=0, le=100), AS_WRITTEN] = 1.0
    """Sampling temperature of rollouts and of sampled evaluation, in (0, 100]."""
    gamma: Rate = 1.0
    """Discount, in (0, 1]."""
    lam: Annotated[float, Field(ge=0, le=1), AS_WRITTEN] = 1.0
    """Lambda of GAE, in [0, 1]."""
    rollout: Literal["transformers", "vllm"] = "vllm"
    """Rollout server."""
    attention: Literal["flash_attention_2", "sdpa"] = field(default="flash_attention_2", metadata=LATER)
    """On GPUs: `flash_attention_2` on packed rows, which needs the package flash-attn, or torch's own, `sdpa`, on
    padded rows. A CPU has the latter."""
    time_limit_s: Annotated[int, Field(ge=1, le=31_536_000)] = 3600
    """Wall-clock limit of one run, in seconds."""
    save_critic: bool = False
    """Keep each run's trained critic beside its policy; studies on rollouts need the reference's."""
    checkpoint_every: Annotated[int, Field(ge=0, le=1_000_000)] = field(default=25, metadata=LATER)
    """Steps between the checkpoints that an interrupted run goes on from; 0 for none. A shorter run has none."""
    stall_limit_s: Annotated[int, Field(ge=0, le=31_536_000)] = field(default=0, metadata=LATER)
    """End a run that finishes no step for so many seconds, its start included; 0: 20 times its longest step and at
    least 10 minutes, half an hour for the start."""
    verl: dict[VerlKey, Any] = field(default_factory=dict)
    """Further keys of verl's config for every arm, dotted."""

    def resumable_copies(self, critic: bool) -> int:
        """How many times a network's float32 weights a run takes on disk, at most, to be resumed from.

        Two checkpoints, for the last one stays until the next one is written, each with weights and the optimizer's two
        moments, and a Hugging Face copy of what is kept at the end; 0 where a run makes none before its last step.
        """
        if not 0 < self.checkpoint_every < self.steps:
            return 0
        return 2 * (3 + 1 + (3 + self.save_critic if critic else 0))


@dataclass(frozen=True)
class Evaluation:
    """How lm-eval measures held-out accuracy."""

    batch_size: Annotated[int, Field(ge=1, le=100_000)]
    """Fixed batch size; sampled outputs repeat only with it."""
    repeats: Annotated[int, Field(ge=1, le=10_000)]
    """Sampled responses per prompt for mean@k."""
    sampled_prompts: Count
    """Test prompts that are sampled, the first ones; greedy accuracy takes all."""
    seed: Seed
    """Seed of the sampled responses."""


def load_task(path: str | Path) -> Task:
    """A task, with the text of its own reward; BadInput where a file is missing or at fault."""
    task = read_form(Path(path), Task)
    if task.reward_file is None:
        return task
    home = beside(task.source, REWARDS)
    file = require_inside(home / task.reward_file, task.source, "reward_file", REPOSITORY, home)
    if not file.is_file():
        raise BadInput(task.source, "reward_file", task.reward_file, f"write {file}, or name a file that is there.")
    try:
        text = read_bytes(file, "put the file back.", LARGEST_REWARD).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(file, "file", str(error), "save it as UTF-8.") from error
    if not text.strip():
        raise BadInput(file, "file", text, "write a function score(response, answer).")
    for character in text:
        if not (character.isprintable() or character in "\n\t"):
            hint = "write it as an escape, for nobody sees it and no record can hold it."
            raise BadInput(file, "file", f"the character U+{ord(character):04X}", hint)
    return replace(task, reward_text=text)


def beside(source: Path, folder: str) -> Path:
    """A folder of the benchmark that the file of a task or a model is of."""
    return source.parent.parent / folder


def own_path(thing: "Task | Model") -> Path | None:
    """The file or folder of the user's that a task or a model is made of; its path begins at the benchmark's folder."""
    kind = thing.generator if isinstance(thing, Task) else thing.factory
    named = thing.params.get("path")
    return thing.source.parent.parent / named if kind in (FILE, FOLDER) and isinstance(named, str) else None


def own_files(*things: "Task | Model") -> list[Path]:
    """The files of `own_path` that are there, sorted."""
    found: set[Path] = set()
    for path in filter(None, map(own_path, things)):
        try:
            found |= {file for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()}
        except (OSError, ValueError):
            continue  # the check of the thing names it
    return sorted(found)


def load_model(path: str | Path) -> Model:
    return read_form(Path(path), Model)


def load_arm(path: str | Path) -> Arm:
    return read_form(Path(path), Arm)


def is_grouped(verl: Mapping[str, Any]) -> bool:
    """Whether a run with these keys of verl's config, dotted, trains on chosen tokens."""
    return verl.get("algorithm.adv_estimator") == GROUPED or verl.get("algorithm.group_params.rule") is not None


def trains_critic(verl: Mapping[str, Any]) -> bool:
    """Whether a run with these keys of verl's config, dotted, trains a critic."""
    return bool(verl.get("critic.enable", False))


def recorded(thing: Any) -> Any:
    """What records say of this package's dataclasses: plain data, paths relative to the repository.

    Fields marked `LATER` that are at their defaults are left out.
    """
    if is_dataclass(thing):
        values = [(each, getattr(thing, each.name)) for each in fields(thing)]
        return {
            each.name: recorded(value)
            for each, value in values
            if not (each.metadata == LATER and value == each.default)
        }
    if isinstance(thing, dict):
        return {str(key): recorded(value) for key, value in thing.items()}
    if isinstance(thing, Path):
        place = thing.resolve()
        return str(place.relative_to(REPOSITORY) if place.is_relative_to(REPOSITORY) else place)
    return [recorded(value) for value in thing] if isinstance(thing, list | tuple) else thing
