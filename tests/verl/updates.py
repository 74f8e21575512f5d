"""One hand-made batch, and the updates on it that verl's engines and the plain formulas must agree on."""

from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

from groupppo.algorithm import GroupParams
from groupppo.algorithm.loss import GroupBatch, LossMask
from groupppo.verl.group_stage import GroupStage

Role = Literal["policy", "value"]
# The engines of a run on CPUs, padded as it is or packed, and those of one on GPUs: as it is but in float32, with all
# activations stored, and as it is; without flash attention; with verl's fused head, which comes last, for verl gives it
# to a whole class.
ON_CPU = ("padded", "packed")
ON_GPU = ("float32", "stored", "bfloat16", "sdpa_float32", "sdpa_bfloat16", "fused")

# The responses, two to a prompt; 1 is a token of the policy, 0 one that it did not write, such as a tool's answer.
# The first six, one rank's where there are two, have most of the tokens.
RESPONSES = (
    "11111111111111", "1",
    "1111000111100111", "0000000",
    "111111111", "1111111111111111111",
    "11", "0001111",
    "1", "0000",
    "1101", "11111",
)  # fmt: skip
PROMPT_LENGTHS = (5, 5, 8, 8, 3, 3, 6, 6, 1, 1, 7, 7)
LEARNING_RATE: dict[Role, float] = {"policy": 0.1, "value": 0.003}

READINGS = {
    f"{spread}_{normalizer}": GroupParams(spread=spread, loss_normalizer=normalizer, group_max_size=4)
    for spread, normalizer in product(("endpoint", "group"), ("endpoints", "tokens"))
}


@dataclass(frozen=True)
class Batch:
    """Responses padded to (B, T) at the right, prompt and response in one row of `input_ids`, (B, S)."""

    input_ids: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    response_mask: Tensor
    token_level_rewards: Tensor
    values: Tensor
    old_log_probs: Tensor

    def save(self, file: Path) -> None:
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, file)

    @classmethod
    def load(cls, file: Path) -> "Batch":
        return cls(**load_file(file))

    def losses(self, reading: str) -> GroupBatch:
        """What GROUP-PPO's advantage stage makes of the batch."""
        stage = GroupStage(READINGS[reading], gamma=0.97, lam=0.9, seed=1)
        batch = {field.name: getattr(self, field.name) for field in fields(self)}
        return stage.run(batch, [f"step1_{row}" for row in range(len(self.input_ids))], step=1).losses


@dataclass(frozen=True)
class Update:
    """One call of verl's `train_mini_batch`.

    Attributes:
        tokens, responses: size of a micro-batch, by at most so many tokens (`use_dynamic_bsz`) or in responses.
        engine: one of ON_CPU or ON_GPU. ranks: of data-parallel training.
        computes: "gathered" or "streamed" where our engine computes endpoints only; verl's own passes else.
        window, kept: of `streamed`, the tokens before each endpoint that flow, too, and whether keys and values are
            those of the log-probability pass; stale is the mistake that they are those of other weights.
        divides_by: whose tokens divide the loss; anything but "all" is a mistake, and so is a shift of the endpoints.
    """

    role: Role
    reading: str = "endpoint_endpoints"
    tokens: int | None = None
    responses: int | None = None
    engine: str = "padded"
    ranks: int = 1
    mini_batches: int = 1
    epochs: int = 1
    computes: Literal["", "gathered", "streamed"] = ""
    window: int = 0
    kept: bool = False
    stale: bool = False
    divides_by: Literal["all", "micro_batch", "rank"] = "all"
    shift: int = 0

    @property
    def name(self) -> str:
        return "-".join(str(getattr(self, field.name)) for field in fields(self))

    def rows(self, rank: int) -> list[int]:
        """Rows of the batch that a rank gets, so that the ranks together go through the same mini-batches as one."""
        total = len(RESPONSES)
        block = total // (self.mini_batches * self.ranks)
        return [row for row in range(total) if row // block % self.ranks == rank]

    def mask(self, losses: GroupBatch) -> LossMask:
        mask = losses.policy if self.role == "policy" else losses.value
        return LossMask(mask.counts.roll(self.shift, dims=1), mask.divides)


WHOLE = 10_000
# With spread `group` the policy loss counts, and is divided by, all tokens; the value loss always counts endpoints.
READINGS_OF_ROLE: dict[Role, tuple[str, ...]] = {
    "policy": ("endpoint_endpoints", "endpoint_tokens", "group_endpoints"),
    "value": ("endpoint_endpoints", "endpoint_tokens"),
}


def every_way(role: Role, reading: str) -> list[Update]:
    """One step on the whole batch, in the ways that must not matter, of one reading in all of them."""
    ways = [(0, {"tokens": 30}), (1, {"tokens": 60}), (0, {"responses": 1}), (1, {"responses": 3})]
    if reading != "endpoint_endpoints":
        return [Update(role, reading, engine=ON_CPU[way], ranks=1 + way, **split) for way, split in ways[:2]]
    ways.append((0, {"tokens": WHOLE}))
    return [Update(role, reading, engine=ON_CPU[way], ranks=ranks, **split) for way, split in ways for ranks in (1, 2)]


def several_steps(role: Role) -> list[Update]:
    """Two epochs of two mini-batches, in ways that must not matter."""
    ways = (("padded", 1, {"tokens": 30}), ("packed", 2, {"responses": 1}))
    return [Update(role, engine=way, ranks=ranks, mini_batches=2, epochs=2, **split) for way, ranks, split in ways]


def gathered(role: Role, reading: str) -> list[Update]:
    """The same step by the passes that compute endpoints only."""
    ways = ((1, {"tokens": WHOLE}), (2, {"tokens": 30}), (2, {"responses": 1}))
    return [Update(role, reading, computes="gathered", ranks=ranks, **split) for ranks, split in ways]


def streamed(engine: str) -> list[Update]:
    """The policy's step by the approximate pass, in ways that must not matter for each window."""
    ways = ((0, 1, False, {"tokens": 60}), (0, 2, True, {"tokens": 30}), (3, 2, False, {"responses": 1}))
    ways += ((3, 1, True, {"tokens": WHOLE}), (3, 2, True, {"responses": 3}))
    stream = Update("policy", engine=engine, computes="streamed")
    return [replace(stream, window=window, ranks=ranks, kept=kept, **split) for window, ranks, kept, split in ways]


def one_response_at_a_time(role: Role) -> Update:
    """A mini-batch for every response, also for those without a valid token."""
    return Update(role, tokens=WHOLE, mini_batches=len(RESPONSES))


def mistakes(role: Role) -> list[Update]:
    divided = [Update(role, responses=size, divides_by="micro_batch") for size in (1, 3)]
    return [*divided, Update(role, tokens=WHOLE, ranks=2, divides_by="rank"), Update(role, tokens=WHOLE, shift=1)]


def gathered_elsewhere(role: Role) -> list[Update]:
    """Passes at endpoints only, in the other ways of training, the last of them a mistake."""
    others = [*several_steps(role), one_response_at_a_time(role), Update(role, tokens=WHOLE, shift=1)]
    return [replace(update, computes="gathered") for update in others]


def on_gpu(role: Role, engine: str, computes: str) -> list[Update]:
    """The step of reading A by the engines of a GPU's run, in ways that must not matter."""
    ways = ((1, {"tokens": 60}), (2, {"tokens": 30}))
    if engine.startswith("sdpa"):
        ways = ((1, {"responses": 3}), (2, {"responses": 1}))
    if engine == "float32":
        ways += ((1, {"tokens": WHOLE}), (2, {"responses": 1}))
    return [Update(role, engine=engine, computes=computes, ranks=ranks, **split) for ranks, split in ways]


def steps_on_gpu(role: Role, computes: str) -> list[Update]:
    return [replace(update, engine="float32", computes=computes) for update in several_steps(role)]


def mistakes_on_gpu(role: Role) -> list[Update]:
    """Endpoints one token late, masked and gathered, and streamed, which can also have stale keys and values."""
    wrong = [Update(role, tokens=60, engine="float32", computes=mode, shift=1) for mode in ("", "gathered")]
    wrong.append(replace(wrong[1], engine="sdpa_bfloat16"))
    if role == "policy":
        stream = Update("policy", tokens=60, engine="float32", computes="streamed")
        wrong += [replace(stream, shift=1), replace(stream, kept=True, stale=True)]
    return wrong


def of_gpus() -> list[Update]:
    found = [update for engine in ("float32", "stored", "bfloat16") for update in streamed(engine)]
    for role, computes in product(READINGS_OF_ROLE, ("", "gathered")):
        for engine in ON_GPU if role == "policy" else ON_GPU[:-1]:
            found += on_gpu(role, engine, computes)
        found += steps_on_gpu(role, computes)
    return [*found, *mistakes_on_gpu("policy"), *mistakes_on_gpu("value")]


def of_cpus() -> list[Update]:
    found = streamed("padded")
    for role, readings in READINGS_OF_ROLE.items():
        for reading in readings:
            found += every_way(role, reading) + gathered(role, reading)
        found += [*several_steps(role), one_response_at_a_time(role), *mistakes(role), *gathered_elsewhere(role)]
    return found
