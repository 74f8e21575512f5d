"""Proxies for a token's score vector, the gradient of its log-probability, which nobody can afford to store."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from groupppo.algorithm.tokens import Tokens


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

# What each score reads from `Tokens`.
NEEDS: dict[str, tuple[str, ...]] = {
    "unit": (),
    "logit_norm": ("log_probs", "sum_pi_squared"),
    "log_ratio": ("log_probs", "rollout_log_probs"),
}
