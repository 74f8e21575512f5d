"""What a grouping rule reads, and what it returns.

A rule gets `Tokens` and says for each of them whether and why a group closes there (`Cause`); `Groups` are made of
that. Rules that compare variances read a `Score`: a proxy for the token's score vector, the gradient of its
log-probability, which nobody can afford to store.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from groupppo.errors import BadInput


@dataclass(frozen=True)
class Tokens:
    """A batch of B responses padded to T tokens. Everything but the mask is optional; a rule says what it needs.

    Attributes:
        mask: (B, T) bool, the valid tokens. Holes are allowed: a token outside the mask belongs to no group.
        advantages: (B, T) per-token advantages before whitening.
        rewards: (B, T) token-level rewards.
        values: (B, T) values of the state before each token.
        log_probs: (B, T) log-probability of each token under the policy to be trained, before its update.
        rollout_log_probs: (B, T) the same as the rollout server computed it.
        entropies: (B, T) entropy of the policy at each token, in nats.
        sum_pi_squared: (B, T) sum over the vocabulary of the squared probabilities.
        seeds: (B,) int64, a seed per response, so that random choices depend on nothing else of the batch.
    """

    mask: Tensor
    advantages: Tensor | None = None
    rewards: Tensor | None = None
    values: Tensor | None = None
    log_probs: Tensor | None = None
    rollout_log_probs: Tensor | None = None
    entropies: Tensor | None = None
    sum_pi_squared: Tensor | None = None
    seeds: Tensor | None = None

    def get(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            BadInput: it was not given.
        """
        tensor = getattr(self, name)
        if tensor is None:
            raise BadInput("Tokens", name, None, "the grouping rule or its score needs this tensor; pass it.")
        assert isinstance(tensor, Tensor)
        return tensor


@dataclass(frozen=True)
class Score:
    """Score vectors of a batch, reduced to one number each.

    Attributes:
        values: (B, T) float64. Squared norms of orthogonal vectors, or signed scalars.
        orthogonal: true where the vectors of a group add up like orthogonal ones.
    """

    values: Tensor
    orthogonal: bool


def unit(tokens: Tokens) -> Score:
    """Every token's vector has norm 1: no information, r_ppo = sum A^2 and r_grpo = n A_t^2."""
    return Score(torch.ones_like(tokens.mask, dtype=torch.float64), orthogonal=True)


def logit_norm(tokens: Tokens) -> Score:
    """Squared norm of the gradient with respect to the token's own logits, 1 - 2 p + sum_v pi(v)^2."""
    probability = tokens.get("log_probs").double().exp()
    return Score((1.0 - 2.0 * probability + tokens.get("sum_pi_squared").double()).clamp(min=0.0), orthogonal=True)


def log_ratio(tokens: Tokens) -> Score:
    """The origin's scalar: rollout log-probability minus the trainer's. Its size is set by numerics alone."""
    gap = tokens.get("rollout_log_probs").double() - tokens.get("log_probs").double()
    return Score(gap, orthogonal=False)


SCORES: dict[str, Callable[[Tokens], Score]] = {"unit": unit, "logit_norm": logit_norm, "log_ratio": log_ratio}

# The fields of `Tokens` that each score reads.
SCORE_NEEDS: dict[str, tuple[str, ...]] = {
    "unit": (),
    "logit_norm": ("log_probs", "sum_pi_squared"),
    "log_ratio": ("log_probs", "rollout_log_probs"),
}


class Cause(IntEnum):
    """Why a group closed at its endpoint."""

    NONE = 0
    CRITERION = 1
    CAP = 2
    END = 3


@dataclass(frozen=True)
class Groups:
    """Groups of a batch of B responses padded to T tokens.

    Attributes:
        endpoints: (B, T) bool, the last token of each group; inside the response mask.
        index: (B, T) int64, number of a token's group within its response from 0; -1 outside the mask.
        cause: (B, T) int8 `Cause` at endpoints, `Cause.NONE` elsewhere.
    """

    endpoints: Tensor
    index: Tensor
    cause: Tensor

    @classmethod
    def from_cause(cls, cause: Tensor, mask: Tensor) -> "Groups":
        """Build from the cause of closing at every token; (B, T) int8 and (B, T) bool."""
        endpoints = (cause != Cause.NONE) & mask
        # A token belongs to the group after the last endpoint strictly before it.
        before = endpoints.long().cumsum(dim=1) - endpoints.long()
        return cls(endpoints, torch.where(mask, before, -1), torch.where(endpoints, cause, Cause.NONE))

    def sums(self, values: Tensor) -> Tensor:
        """(B, T): at every token the sum of `values` over its group, zero outside the mask, whose values are unread."""
        inside, index = self.index >= 0, self.index.clamp(min=0)
        values = torch.where(inside, values, 0.0)
        return torch.where(inside, torch.zeros_like(values).scatter_add_(1, index, values).gather(1, index), 0.0)


def last_valid(mask: Tensor) -> Tensor:
    """(B, T) bool, true at the last valid token of every response that has one."""
    remaining = mask.long().flip(1).cumsum(dim=1).flip(1)
    return mask & (remaining == 1)


def close_share(priority: Tensor, mask: Tensor, density: float | None) -> Tensor:
    """Close at round(density * N) of the batch's N valid tokens, (B, T) int8 `Cause`.

    Each response's last valid token is one of them; the others are those of highest priority over the whole batch, at
    equal priority the first ones. A density too low for one endpoint per response leaves the last tokens alone.

    Args:
        priority: (B, T) float.
        mask: (B, T) bool.
        density: endpoints over valid tokens, in (0, 1].

    Raises:
        BadInput: no density was given.
    """
    if density is None:
        hint = "give the density of this step, a number above 0 and at most 1."
        raise BadInput("group_tokens", "density", None, hint)
    last = last_valid(mask)
    wanted = int(density * int(mask.sum()) + 0.5) - int(last.sum())
    cause = torch.where(last, Cause.END, Cause.NONE).to(torch.int8)
    places = (mask & ~last).flatten().nonzero().flatten()
    if wanted > 0:
        order = torch.sort(priority.flatten()[places], descending=True, stable=True).indices
        cause.view(-1)[places[order[:wanted]]] = Cause.CRITERION
    return cause
