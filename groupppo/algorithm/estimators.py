"""Advantages: dense GAE, three estimators over group endpoints, sharing within groups, whitening.

Both recursions follow verl's `compute_gae_advantage_return` operation by operation, so that grouping every token by
itself gives verl's dense GAE to the last bit. V_t is the value of the state before token t.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from groupppo.algorithm import kernels
from groupppo.algorithm.grouping import Groups


class Estimates(NamedTuple):
    """Advantages and returns of a batch, (B, T) each, zero where they are not defined.

    Attributes:
        advantages: at endpoints, before whitening.
        returns: targets of the value loss, at endpoints.
    """

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimate of every valid token, before whitening (Schulman et al., 2016).

    Arguments are those of `segment_gae`. Tokens outside the mask (padding, tool output) are skipped.

    Returns:
        (B, T) advantages, zero outside the mask.
    """
    return segment_gae(rewards, values, mask, mask, gamma, lam).advantages


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> Estimates:
    """GAE with group endpoints as macro-steps (reading A); needs values at endpoints only.

    With endpoints e_1 < ... < e_K and steps counted in valid tokens:
    delta_k = sum_{n=e_k..e_{k+1}-1} gamma^(n-e_k) r_n + gamma^(e_{k+1}-e_k) V_{e_{k+1}} - V_{e_k}, where the last one
    ends the response; A_k = delta_k + gamma^(e_{k+1}-e_k) lambda A_{k+1}; return_k = A_k + V_{e_k}.
    Rewards before the first endpoint belong to no macro-step.

    Args:
        rewards: (B, T) float.
        values: (B, T) float, maybe narrower, such as a critic's bfloat16 under autocast. Both are widened to the wider
            of the two and at least float32, which rounds nothing.
        mask: (B, T) bool.
        endpoints: (B, T) bool, inside the mask.
        gamma: discount, in [0, 1].
        lam: lambda, in [0, 1].

    Raises:
        TypeError: rewards or values are not floats.
        ValueError: shapes differ.
    """
    return Estimates(*kernels.segment_gae(rewards, values, mask, endpoints, gamma, lam))


def token_gae(dense: Tensor, values: Tensor, endpoints: Tensor) -> Estimates:
    """Dense GAE, read at the endpoints (reading B).

    Args:
        dense: (B, T) advantages of every token (`gae`).
        values: (B, T).
        endpoints: (B, T) bool.
    """
    return Estimates(torch.where(endpoints, dense, 0.0), torch.where(endpoints, dense + values, 0.0))


def published(rewards: Tensor, values: Tensor, groups: Groups) -> Estimates:
    """The public code's: reward inside the group minus the value at its endpoint; the return is that reward.

    With a reward at the last token alone, every group but the last one has the advantage 0 - V.

    Args:
        rewards: (B, T) float.
        values: (B, T) float.
        groups: of the same batch.
    """
    inner = torch.where(groups.endpoints, groups.sums(rewards), 0.0)
    return Estimates(torch.where(groups.endpoints, inner - values, 0.0), inner)


def share_in_group(advantages: Tensor, groups: Groups) -> Tensor:
    """Every token gets the advantage of its own group's endpoint (reading C); (B, T), zero outside the mask.

    Groups never cross a response, so nothing of one response reaches another response to the same prompt. (The public
    code numbers groups within a response but looks their advantages up in one list over all responses to the prompt.)
    """
    return groups.sums(torch.where(groups.endpoints, advantages, 0.0))


def whiten(advantages: Tensor, carriers: Tensor) -> Tensor:
    """Zero mean and unit variance over the tokens that carry an advantage; zero elsewhere.

    Follows verl's `masked_whiten` operation by operation (unbiased variance, 1e-8 inside the root). What stands outside
    the carriers is never read, NaN included.

    Args:
        advantages: (B, T) float.
        carriers: (B, T) mask in verl's integer or float form, at least two ones.

    Raises:
        ValueError: fewer than two carriers, for which a variance does not exist.
    """
    count = carriers.sum()
    if count < 2:
        raise ValueError(f"whitening needs at least two tokens that carry an advantage, found {int(count)}")
    mean = _masked_mean(advantages, carriers)
    variance = _masked_mean((advantages - mean) ** 2, carriers) * (count / (count - 1))
    return torch.where(carriers.bool(), (advantages - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (torch.where(mask.bool(), values, 0.0) * mask).sum() / (mask.sum() + 1e-8)
