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
        packed: without padding (`use_remove_padding`). ranks: of data-parallel training.
        gpu: in the config of a run on GPUs without flash-attn: bfloat16 over float32 weights, layers checkpointed.
        computes: "gathered" where our engine computes endpoints only; verl's own passes else.
        divides_by: whose tokens divide the loss; anything but "all" is a mistake, and so is a shift of the endpoints.
    """

    role: Role
    reading: str = "endpoint_endpoints"
    tokens: int | None = None
    responses: int | None = None
    packed: bool = False
    ranks: int = 1
    mini_batches: int = 1
    epochs: int = 1
    computes: Literal["", "gathered"] = ""
    divides_by: Literal["all", "micro_batch", "rank"] = "all"
    shift: int = 0
    gpu: bool = False

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
    ways = [(False, {"tokens": 30}), (True, {"tokens": 60}), (False, {"responses": 1}), (True, {"responses": 3})]
    if reading != "endpoint_endpoints":
        return [Update(role, reading, packed=packed, ranks=1 + packed, **split) for packed, split in ways[:2]]
    ways.append((False, {"tokens": WHOLE}))
    return [Update(role, reading, packed=packed, ranks=ranks, **split) for packed, split in ways for ranks in (1, 2)]


def several_steps(role: Role) -> list[Update]:
    """Two epochs of two mini-batches, in ways that must not matter."""
    ways = ((1, {"tokens": 30}), (2, {"responses": 1}))
    return [Update(role, ranks=ranks, mini_batches=2, epochs=2, packed=ranks == 2, **split) for ranks, split in ways]


def gathered(role: Role, reading: str) -> list[Update]:
    """The same step by the passes that compute endpoints only."""
    ways = ((1, {"tokens": WHOLE}), (2, {"tokens": 30}), (2, {"responses": 1}))
    return [Update(role, reading, computes="gathered", ranks=ranks, **split) for ranks, split in ways]


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


def without_flash_attention(role: Role) -> list[Update]:
    """As a run on GPUs takes it with train.attention: sdpa; the last one is a mistake."""
    ways = [Update(role, responses=3, computes=computes, gpu=True) for computes in ("", "gathered")]
    return [*ways, replace(ways[1], shift=1)]


def all_updates() -> list[Update]:
    found = [*without_flash_attention("policy"), *without_flash_attention("value")]
    for role, readings in READINGS_OF_ROLE.items():
        for reading in readings:
            found += every_way(role, reading) + gathered(role, reading)
        found += [*several_steps(role), one_response_at_a_time(role), *mistakes(role), *gathered_elsewhere(role)]
    return found
