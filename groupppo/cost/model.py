"""Seconds and bytes of jobs that nobody has run yet: operations counted from shapes over stated ranges of speed.

The ranges are wide on purpose. They are what such devices have been seen to reach from small to large models, not a
measurement of yours; one earlier run of a cell is worth more.
"""

from dataclasses import dataclass
from typing import Any

from groupppo.config import Arm, Benchmark, Model, Task, is_grouped
from groupppo.draw.wording import in_bytes
from groupppo.errors import BadInput
from groupppo.update.flops import Shape, Work, forward_flops, update_flops


@dataclass(frozen=True)
class Span:
    """A range: what something costs at least and at most."""

    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Span":
        return Span(self.low * factor, self.high * factor)

    def times(self, other: "Span") -> "Span":
        """Of a range of positions, each of a range of seconds."""
        return Span(self.low * other.low, self.high * other.high)

    def over(self, speed: "Span") -> "Span":
        """Work over a range of speeds."""
        return Span(self.low / speed.high, self.high / speed.low)

    def widened(self, factor: float) -> "Span":
        """Both ends moved apart by a factor."""
        return Span(self.low / factor, self.high * factor)

    def text(self, unit: float = 1.0, suffix: str = "") -> str:
        """Both ends in a unit, two digits of each: "0.34 - 1.4"."""
        low, high = (f"{end:,.0f}" if end >= 100 else f"{end:.2g}" for end in (self.low / unit, self.high / unit))
        return f"{low} - {high}{suffix}"

    def bytes_text(self) -> str:
        """Both ends in decimal units: "16 MB - 1.1 GB"."""
        return f"{in_bytes(self.low)} - {in_bytes(self.high)}"


NOTHING = Span(0.0, 0.0)
BYTE_VOCABULARY = 261
"""Tokens of groupppo.tasks.tokenizer, which the models without a vocabulary of their own have."""
_UPDATE, _KV = "algorithm.group_params.update", "algorithm.group_params.kv"
_REFERENCE_POLICY = ("algorithm.use_kl_in_reward", "actor_rollout_ref.actor.use_kl_loss")
_RULE, _DENSITY = "algorithm.group_params.rule", "algorithm.group_params.density"
_DENSITIES = (1 / 16, 1 / 5)
_SHARES = {"singleton": (1.0, 1.0), "prefix_cut": (0.5, 1.0), "gap": (0.5, 1.0)}
"""Chosen tokens over valid tokens by rule, where no key says them; other rules: `_DENSITIES`."""
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
        raise BadInput(model.source, "params", sizes, f"{hint}write them, or a shape.") from error


def step_flops(benchmark: Benchmark, task: Task, model: Model, arm: Arm) -> tuple[Span, Span]:
    """(sampling, all other passes): operations of one training step; responses between half and all of their limit."""
    train, shape, keys = benchmark.train, shape_of(model), benchmark.train.verl | arm.verl
    responses = train.prompts_per_step * train.responses_per_prompt
    sampling, others = list[float](), list[float]()
    for share, density in zip((0.5, 1.0), _densities(keys), strict=True):
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


def _densities(keys: dict[str, Any]) -> tuple[float, float]:
    density = keys.get(_DENSITY)
    if isinstance(density, int | float) and 0 < density <= 1:  # what else is there is refused before a run
        return density, density
    return _SHARES.get(str(keys.get(_RULE)), _DENSITIES)


def _mode(keys: dict[str, Any], share: float) -> str:
    """The update's mode in `update.flops`; `auto` is the cheaper one at the lower end, if it gathers there."""
    mode = keys.get(_UPDATE, "auto") if is_grouped(keys) else "dense"
    if mode == "auto":
        return "dense" if share == 1.0 or _densities(keys)[0] >= 0.5 else "gathered"
    if mode == "streamed":
        return "streamed" if keys.get(_KV) == "recompute" else "streamed_reuse"
    return mode if mode in ("dense", "masked", "gathered") else "dense"


def train_seconds(benchmark: Benchmark, task: Task, model: Model, arm: Arm, device: str) -> Span:
    """Wall-clock seconds of one run; several GPUs share its operations evenly."""
    speed, train = SPEEDS[device], benchmark.train
    sampling, passes = step_flops(benchmark, task, model, arm)
    waves = -(-train.prompts_per_step * train.responses_per_prompt // 256)
    tokens = Span(0.5, 1.0).times(speed.token) * (waves * task.max_response_tokens)
    gpus = ranks(model, device)
    step = speed.step + tokens + sampling.over(speed.decode * gpus) + passes.over(speed.update * gpus)
    return speed.start + step * train.steps


def ranks(model: Model, device: str) -> int:
    """Cores or GPUs that a run of the model holds."""
    return int(model.resources.get("gpu", 1)) if device == "cuda" else 1


def evaluate_seconds(benchmark: Benchmark, task: Task, model: Model, device: str) -> Span:
    """Of one evaluation; responses between half and all of their limit."""
    speed, responses, limit = SPEEDS[device], evaluated(benchmark, task), task.max_response_tokens
    short, long = (Work(task.max_prompt_tokens + size, size, size) for size in (max(1, limit // 2), limit))
    shape = shape_of(model)
    flops = Span(*(responses * sum(forward_flops(shape, work, "dense").values()) for work in (short, long)))
    waves = -(-responses // benchmark.evaluation.batch_size)
    return speed.job + Span(0.5, 1.0).times(speed.token) * (waves * limit) + flops.over(speed.decode)


def evaluated(benchmark: Benchmark, task: Task) -> int:
    """Responses of one evaluation, greedy and sampled."""
    how, test = benchmark.evaluation, task.splits["test"]
    return test + how.repeats * min(how.sampled_prompts, test)


def warmstart_seconds(task: Task, model: Model, device: str) -> Span:
    """From a thirtieth of the steps allowed to all of them; without a warm start, a copy of the model."""
    speed, start = SPEEDS[device], task.warmstart
    if start is None:
        return speed.job
    work = Work(task.max_prompt_tokens + task.max_response_tokens, task.max_response_tokens, 1)
    one = start.batch_size * sum(update_flops(shape_of(model), work, "dense").values())
    step = Span(0.3 * one, one).over(speed.update) + Span(0.005, 0.05)
    return speed.job + step.times(Span(max(1, start.max_steps // 30), start.max_steps))


def folder_bytes(model: Model) -> Span:
    """A Hugging Face folder: two or four bytes a weight, and its tokenizer."""
    return Span(2.0, 4.0) * shape_of(model).parameters + _FOLDER


def run_bytes(benchmark: Benchmark, task: Task, model: Model, arm: Arm) -> Span:
    """Checkpoints of the policy, and of the critic where it is kept, logs, and the evaluation."""
    copies = 2 if benchmark.train.save_critic and benchmark.trains_critic(arm) else 1
    logs = Span(2e5, 2e6) + Span(4e3, 3e4) * benchmark.train.steps
    return folder_bytes(model) * copies + logs + evaluate_bytes(benchmark, task)


def resumable_bytes(benchmark: Benchmark, model: Model, arm: Arm) -> Span:
    """What one run keeps to be resumed from until it has finished."""
    critic = benchmark.trains_critic(arm)
    copies = benchmark.train.resumable_copies(critic)
    if not copies:
        return NOTHING
    weights = 4.0 * copies * shape_of(model).parameters
    # Tokenizer and config beside each Hugging Face copy.
    folders = 2 * (2 if critic and benchmark.train.save_critic else 1)
    return Span(weights, weights + folders * _FOLDER.high)


def evaluate_bytes(benchmark: Benchmark, task: Task) -> Span:
    """lm-eval's samples: some fixed text, and up to six bytes for every token of prompt and response."""
    tokens = task.max_prompt_tokens + task.max_response_tokens
    return Span(300.0, 2000.0 + 6.0 * tokens) * evaluated(benchmark, task)
