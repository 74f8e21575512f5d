"""Seconds and bytes of jobs that nobody has run yet: operations counted from shapes over stated ranges of speed.

The ranges are wide on purpose. They are what such devices have been seen to reach from small to large models, not a
measurement of yours; one earlier run of a cell is worth more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from groupppo.config import Arm, Benchmark, Model, Task, is_grouped
from groupppo.errors import BadInput
from groupppo.update.flops import Shape, Work, forward_flops, update_flops


@dataclass(frozen=True)
class Span:
    """A range: what something costs at least and at most."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"no range of a cost: {self.low} to {self.high}")

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Span":
        return Span(self.low * factor, self.high * factor)

    def over(self, speed: "Span") -> "Span":
        """Work over a range of speeds."""
        return Span(self.low / speed.high, self.high / speed.low)

    def widened(self, factor: float) -> "Span":
        """Both ends moved apart by a factor."""
        return Span(self.low / factor, self.high * factor)

    def below(self, limit: float) -> "Span":
        return Span(min(self.low, limit), min(self.high, limit))

    def text(self, unit: float = 1.0, suffix: str = "") -> str:
        """Both ends in a unit, two digits of each: "0.34 - 1.4"."""
        return f"{_short(self.low / unit)} - {_short(self.high / unit)}{suffix}"

    def bytes_text(self) -> str:
        """Both ends in the decimal unit that fits the higher one: "16 - 81 MB"."""
        unit, name = next(((10.0**power, name) for power, name in _UNITS if self.high >= 10.0**power), (1.0, "B"))
        return self.text(unit, f" {name}")


NOTHING = Span(0.0, 0.0)
_UNITS = ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB"))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def around(values: Iterable[float]) -> Span:
    """The range of some values."""
    found = list(values)
    return Span(min(found), max(found))


def largest(spans: Iterable[Span]) -> Span:
    """The largest of both ends; there must be one."""
    found = list(spans)
    return Span(max(span.low for span in found), max(span.high for span in found))


def total(spans: Iterable[Span]) -> Span:
    return sum(spans, NOTHING)


BYTE_VOCABULARY = 261
"""Tokens of groupppo.tasks.tokenizer, which the models without a vocabulary of their own have."""
_UPDATE, _KV = "algorithm.group_params.update", "algorithm.group_params.kv"
_REFERENCE_POLICY = ("algorithm.use_kl_in_reward", "actor_rollout_ref.actor.use_kl_loss")
_DENSITIES = (1 / 16, 1 / 5)
_FOLDER = Span(2e4, 2e7)  # bytes of a Hugging Face folder next to its weights


@dataclass(frozen=True)
class Speed:
    """Ranges of what one core or GPU achieves.

    Attributes:
        update, decode: operations per second in passes over whole sequences, and while tokens are sampled.
        token: seconds that one position of a batch takes to sample, however small the model.
        step: seconds of a training step next to its operations. start: seconds before a training run's first step.
        job: seconds that any other job takes to import and to end.
    """

    update: Span
    decode: Span
    token: Span
    step: Span
    start: Span
    job: Span


SPEEDS = {
    # One core, float32 or bfloat16: overhead decides for 0.1 M parameters, matrix products for 500 M.
    "cpu": Speed(Span(2e9, 150e9), Span(0.5e9, 50e9), Span(0.003, 0.06), Span(0.5, 5), Span(15, 90), Span(5, 60)),
    # One data-centre GPU, bfloat16: 5 % to 45 % of a peak near 1e15 in updates, less in sampling. Never measured here.
    "cuda": Speed(
        Span(50e12, 450e12), Span(2e12, 150e12), Span(0.005, 0.05), Span(2, 30), Span(60, 300), Span(10, 120)
    ),
}


def shape_of(model: Model) -> Shape:
    """The shape that a model states, or that of one which is built from sizes.

    Raises:
        BadInput: it states none, and its parameters do not hold the sizes.
    """
    sizes: dict[str, Any] = model.params
    try:
        if model.shape is not None:
            return Shape(**model.shape)
        heads, hidden = int(sizes["attention_heads"]), int(sizes["hidden_size"])
        return Shape(
            hidden=hidden,
            layers=int(sizes["layers"]),
            intermediate=int(sizes["intermediate_size"]),
            heads=heads,
            kv_heads=int(sizes["key_value_heads"]),
            head_dim=hidden // heads,
            vocabulary=int(sizes.get("vocabulary", BYTE_VOCABULARY)),
            tied=True,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        hint = "its cost is counted from hidden_size, layers, attention_heads, key_value_heads and intermediate_size; "
        raise BadInput(model.source, "params", sizes, f"{hint}write them, or run one of its cells first.") from error


def step_flops(benchmark: Benchmark, task: Task, model: Model, arm: Arm) -> tuple[Span, Span]:
    """(sampling, all other passes): operations of one training step; responses between half and all of their limit."""
    train, shape, keys = benchmark.train, shape_of(model), benchmark.train.verl | arm.verl
    responses = train.prompts_per_step * train.responses_per_prompt
    sampling, others = list[float](), list[float]()
    for share, density in zip((0.5, 1.0), _DENSITIES, strict=True):
        response = max(1, round(share * task.max_response_tokens))
        work = Work(task.max_prompt_tokens + response, response, max(1, round(density * response)))
        forward, critic = forward_flops(shape, work, "dense"), update_flops(shape, work, "dense")
        once = sum(forward.values())
        other = once + train.epochs * sum(update_flops(shape, work, _mode(keys, share)).values())
        other += once * any(keys.get(key, False) for key in _REFERENCE_POLICY)
        if benchmark.trains_critic(arm):  # whose head is one column
            other += once - forward["head"] + train.epochs * (sum(critic.values()) - critic["head"])
        sampling.append(responses * once)
        others.append(responses * other)
    return Span(*sampling), Span(*others)


def _mode(keys: dict[str, Any], share: float) -> str:
    """The update's mode in `update.flops`; `auto` is the cheaper one at the lower end."""
    mode = keys.get(_UPDATE, "auto") if is_grouped(keys) else "dense"
    if mode == "auto":
        return "dense" if share == 1.0 else "gathered"
    if mode == "streamed":
        return "streamed" if keys.get(_KV) == "recompute" else "streamed_reuse"
    return mode if mode in ("dense", "masked", "gathered") else "dense"


def gpus(model: Model) -> int:
    """GPUs that a run of the model holds, 1 where it says nothing."""
    return int(model.resources.get("gpu", 1))


def train_seconds(benchmark: Benchmark, task: Task, model: Model, arm: Arm, device: str) -> Span:
    """Wall-clock seconds of one run; several GPUs share its operations evenly."""
    speed, train = SPEEDS[device], benchmark.train
    sampling, passes = step_flops(benchmark, task, model, arm)
    waves = -(-train.prompts_per_step * train.responses_per_prompt // 256)
    positions = Span(0.5, 1.0) * (waves * task.max_response_tokens)
    tokens = Span(positions.low * speed.token.low, positions.high * speed.token.high)
    ranks = gpus(model) if device == "cuda" else 1
    step = speed.step + tokens + sampling.over(speed.decode * ranks) + passes.over(speed.update * ranks)
    return speed.start + step * train.steps


def evaluate_seconds(benchmark: Benchmark, task: Task, model: Model, device: str) -> Span:
    speed, how, shape = SPEEDS[device], benchmark.evaluation, shape_of(model)
    responses = evaluated(benchmark, task)
    limit = task.max_response_tokens
    flops = [
        responses * sum(forward_flops(shape, Work(task.max_prompt_tokens + r, r, r), "dense").values())
        for r in (max(1, limit // 2), limit)
    ]
    positions = -(-responses // how.batch_size) * limit
    tokens = Span(0.5 * positions * speed.token.low, positions * speed.token.high)
    return speed.job + tokens + Span(*flops).over(speed.decode)


def evaluated(benchmark: Benchmark, task: Task) -> int:
    """Responses of one evaluation, greedy and sampled."""
    how, test = benchmark.evaluation, task.splits["test"]
    return test + how.repeats * min(how.sampled_prompts, test)


def warmstart_seconds(task: Task, model: Model, device: str) -> Span:
    """From a thirtieth of the steps allowed to all of them; without a warm start, a copy of the model."""
    speed, start, shape = SPEEDS[device], task.warmstart, shape_of(model)
    if start is None:
        return speed.job
    tokens = task.max_prompt_tokens + task.max_response_tokens
    one = start.batch_size * sum(update_flops(shape, Work(tokens, task.max_response_tokens, 1), "dense").values())
    step = Span(0.3 * one, one).over(speed.update) + Span(0.005, 0.05)
    return speed.job + Span(step.low * max(1, start.max_steps // 30), step.high * start.max_steps)


def train_bytes(benchmark: Benchmark, model: Model, arm: Arm) -> Span:
    """Checkpoint in two or four bytes a weight, with its tokenizer; the critic's where kept; logs."""
    copies = 2 if benchmark.train.save_critic and benchmark.trains_critic(arm) else 1
    weights = Span(2.0, 4.0) * shape_of(model).parameters + _FOLDER
    return weights * copies + Span(2e5, 2e6) + Span(4e3, 3e4) * benchmark.train.steps


def resumable_bytes(benchmark: Benchmark, arm: Arm, weights: Span) -> Span:
    """What one run keeps to be resumed from until it has finished.

    Args:
        weights: bytes of one network in float32.
    """
    critic = benchmark.trains_critic(arm)
    copies = benchmark.train.resumable_copies(critic)
    if not copies:
        return NOTHING
    # Tokenizer and config beside each Hugging Face copy.
    folders = 2 * (2 if critic and benchmark.train.save_critic else 1)
    return weights * copies + Span(0.0, folders * _FOLDER.high)


def evaluate_bytes(benchmark: Benchmark, task: Task) -> Span:
    """lm-eval's samples: some fixed text, and up to six bytes for every token of prompt and response."""
    tokens = task.max_prompt_tokens + task.max_response_tokens
    return Span(300.0, 2000.0 + 6.0 * tokens) * evaluated(benchmark, task)
