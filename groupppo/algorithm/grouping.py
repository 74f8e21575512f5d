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
        advantages: (B, T) per-token advantages: dense GAE before whitening, or what an estimator of verl's gave.
        returns: (B, T) targets of a critic that an estimator of verl's gave.
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
    returns: Tensor | None = None
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

    A rule that chooses tokens one by one closes a group at each of them. What follows the last one of a response is
    then a group without an endpoint, unless the estimator needs one there.

    Attributes:
        endpoints: (B, T) bool, the last token of each group, the chosen one; inside the response mask.
        index: (B, T) int64, number of a token's group within its response from 0; -1 outside the mask.
        cause: (B, T) int8 `Cause` at endpoints, `Cause.NONE` elsewhere.
        weights: (B, T) float64, how much each endpoint counts in a loss, zero elsewhere; None where each counts once.
    """

    endpoints: Tensor
    index: Tensor
    cause: Tensor
    weights: Tensor | None = None

    @classmethod
    def from_cause(cls, cause: Tensor, mask: Tensor, weights: Tensor | None = None) -> "Groups":
        """Build from the cause of closing at every token, (B, T) int8, the mask, (B, T) bool, and maybe weights."""
        endpoints = (cause != Cause.NONE) & mask
        # A token belongs to the group after the last endpoint strictly before it.
        before = endpoints.long().cumsum(dim=1) - endpoints.long()
        return cls(endpoints, torch.where(mask, before, -1), torch.where(endpoints, cause, Cause.NONE), weights)

    def sums(self, values: Tensor) -> Tensor:
        """(B, T): at every token the sum of `values` over its group, zero outside the mask, whose values are unread."""
        inside, index = self.index >= 0, self.index.clamp(min=0)
        values = torch.where(inside, values, 0.0)
        return torch.where(inside, torch.zeros_like(values).scatter_add_(1, index, values).gather(1, index), 0.0)


def last_valid(mask: Tensor) -> Tensor:
    """(B, T) bool, true at the last valid token of every response that has one."""
    remaining = mask.long().flip(1).cumsum(dim=1).flip(1)
    return mask & (remaining == 1)


def chosen(selected: Tensor, mask: Tensor, ends: bool) -> Tensor:
    """Close a group at each of the selected tokens, (B, T) int8 `Cause`.

    Args:
        selected: (B, T) bool, inside the mask.
        mask: (B, T) bool.
        ends: whether the last valid token of a response closes a group, too.
    """
    cause = torch.where(last_valid(mask) & ends, Cause.END, Cause.NONE).to(torch.int8)
    cause[selected] = Cause.CRITERION
    return cause


def share_of_highest(
    priority: Tensor, mask: Tensor, density: float | None, ends: bool, by_response: bool = False
) -> Tensor:
    """Choose round(density * N) of N valid tokens, those of highest priority, at equal priority the first ones.

    With `ends` each response's last valid token is one of them whatever its priority, so a density too low for one
    token per response leaves those alone.

    Args:
        priority: (B, T) float.
        mask: (B, T) bool.
        density: chosen tokens over valid tokens, in [0, 1].
        ends: as `chosen`, whose result this returns.
        by_response: whether the N tokens are those of one response, not of the batch.

    Raises:
        BadInput: no density was given.
    """
    if density is None:
        hint = "give the density of this step, a number above 0 and at most 1."
        raise BadInput("group_tokens", "density", None, hint)
    last = last_valid(mask) & ends
    free = mask & ~last
    selected = torch.zeros_like(mask)
    for rows in range(len(mask)) if by_response else [slice(None)]:
        places = free[rows].flatten().nonzero().flatten()
        wanted = int(density * int(mask[rows].sum()) + 0.5) - int(last[rows].sum())
        order = torch.sort(priority[rows].flatten()[places], descending=True, stable=True).indices
        selected[rows].view(-1)[places[order[: max(0, wanted)]]] = True
    return chosen(selected, mask, ends)


def uniform(seeds: Tensor, number: Tensor) -> Tensor:
    """(B, T) float64 in [0, 1), a hash of seeds, (B,), and numbers, (B, T), both int64.

    The finaliser of splitmix64 (Steele et al., 2014): a draw depends on nothing else of the batch.
    """
    bits = seeds.long()[:, None] + number * -7046029254386353131  # the odd constant 0x9E3779B97F4A7C15, signed
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        bits = (bits ^ _shifted(bits, shift)) * factor
    bits = bits ^ _shifted(bits, 31)
    return _shifted(bits, 11).to(torch.float64) / 2.0**53


def _shifted(bits: Tensor, shift: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


def horvitz_thompson(chosen: Tensor, inclusion: Tensor) -> Tensor:
    """1 / p at chosen tokens, zero elsewhere (Horvitz and Thompson, 1952), (B, T) float64.

    A sum of terms with these weights, divided by the number of ALL valid tokens, has the mean over all valid tokens as
    its expectation, and so have its gradients, as long as the terms do not depend on what is chosen.

    Args:
        chosen: (B, T) bool.
        inclusion: (B, T) probability of each token to be chosen, above 0 wherever `chosen` is.
    """
    return torch.where(chosen, 1.0 / inclusion.double(), 0.0)
