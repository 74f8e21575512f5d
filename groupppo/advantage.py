"""Advantages over all tokens and over group endpoints: pure tensors, torch alone.

Both recursions follow verl's `compute_gae_advantage_return` operation by operation, so that grouping every token by
itself gives verl's dense GAE to the last bit. V_t is the value of the state before token t.
"""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimate of every valid token, before whitening (Schulman et al., 2016).

    Args:
        rewards, values: (B, T) float. mask: (B, T) bool; tokens outside it (padding, tool output) are skipped.
        gamma, lam: discount and lambda, in [0, 1].

    Returns:
        (B, T) advantages, zero outside the mask.
    """
    return segment_gae(rewards, values, mask, mask, gamma, lam)[0]


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """GAE with group endpoints as macro-steps; needs values at endpoints only.

    With endpoints e_1 < ... < e_K and steps counted in valid tokens:
    delta_k = sum_{n=e_k..e_{k+1}-1} gamma^(n-e_k) r_n + gamma^(e_{k+1}-e_k) V_{e_{k+1}} - V_{e_k}, where the last one
    ends the response; A_k = delta_k + gamma^(e_{k+1}-e_k) lambda A_{k+1}; return_k = A_k + V_{e_k}.
    Rewards before the first endpoint belong to no macro-step.

    Args:
        rewards, values: (B, T) float. mask, endpoints: (B, T) bool, endpoints inside the mask.
        gamma, lam: discount and lambda, in [0, 1].

    Returns:
        advantages and returns, (B, T), zero outside the endpoints.
    """
    batch, length = mask.shape
    discount = _powers(gamma, length, values)
    discount_lam = _powers(gamma, length, values, factor=lam)
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    reward = torch.zeros(batch, dtype=values.dtype, device=values.device)
    next_value, next_advantage = torch.zeros_like(reward), torch.zeros_like(reward)
    steps = torch.zeros(batch, dtype=torch.long, device=values.device)
    for t in reversed(range(length)):
        valid, end = mask[:, t].bool(), endpoints[:, t].bool()
        reward = torch.where(valid, rewards[:, t] + gamma * reward, reward)
        steps = steps + valid.long()
        delta = reward + discount[steps] * next_value - values[:, t]
        advantage = delta + discount_lam[steps] * next_advantage
        advantages[:, t] = torch.where(end, advantage, 0.0)
        returns[:, t] = torch.where(end, advantage + values[:, t], 0.0)
        next_value = torch.where(end, values[:, t], next_value)
        next_advantage = torch.where(end, advantage, next_advantage)
        reward = torch.where(end, 0.0, reward)
        steps = torch.where(end, 0, steps)
    return advantages, returns


def whiten(advantages: Tensor, carriers: Tensor) -> Tensor:
    """Zero mean and unit variance over the tokens that carry an advantage; zero elsewhere.

    Follows verl's `masked_whiten` operation by operation (unbiased variance, 1e-8 inside the root).

    Args:
        advantages: (B, T) float. carriers: (B, T) mask in verl's integer or float form, at least two ones.

    Raises:
        ValueError: fewer than two carriers, for which a variance does not exist.
    """
    count = carriers.sum()
    if count < 2:
        raise ValueError(f"whitening needs at least two tokens that carry an advantage, found {int(count)}")
    mean = _masked_mean(advantages, carriers)
    variance = _masked_mean((advantages - mean) ** 2, carriers) * (count / (count - 1))
    return (advantages - mean) * torch.rsqrt(variance + 1e-8) * carriers


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / (mask.sum() + 1e-8)


def _powers(gamma: float, length: int, like: Tensor, factor: float = 1.0) -> Tensor:
    """gamma^n * factor for n = 0..length, rounded once: gamma^1 is exactly verl's scalar gamma."""
    powers = [gamma**n * factor for n in range(length + 1)]
    return torch.tensor(powers, dtype=torch.float64, device=like.device).to(like.dtype)
