"""The recursions in torch: a loop over tokens with one (B,) vector per quantity, on any device.

No step waits for the device, and nothing larger than the (B, T) inputs is made.
"""

import torch
from torch import Tensor

from groupppo.algorithm.kernels.reference import CAP, CRITERION, END, RATIO_FLOOR


def variance_split(
    advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool, tau: float, epsilon: float, cap: int
) -> Tensor:
    """As `groupppo.algorithm.kernels.variance_split`."""
    cause, size, previous = _start(mask)
    p = torch.zeros(len(mask), dtype=torch.float64, device=mask.device)
    q = torch.zeros_like(p)
    for t in range(mask.shape[1]):
        valid, a, s = mask[:, t], advantages[:, t], scores[:, t]
        weighted = a * a * s if orthogonal else a * s
        grown_p, grown_q = p + weighted, q + s
        r_ppo, r_grpo = _ratios(orthogonal, a, grown_p, grown_q)
        split = valid & (size >= 1) & (r_grpo > tau * (r_ppo + epsilon))
        _close(cause, previous, split, CRITERION)
        size = torch.where(split, 1, size + valid.long())
        p = torch.where(split, weighted, torch.where(valid, grown_p, p))
        q = torch.where(split, s, torch.where(valid, grown_q, q))
        capped = valid & (size == cap)
        cause[:, t] = torch.where(capped, CAP, cause[:, t])
        size = torch.where(capped, 0, size)
        p, q = torch.where(capped, 0.0, p), torch.where(capped, 0.0, q)
        previous = torch.where(valid, t, previous)
    _close(cause, previous, size >= 1, END)
    return cause


def literal(advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool) -> Tensor:
    """As `groupppo.algorithm.kernels.literal`."""
    cause, size, previous = _start(mask)
    p = torch.zeros(len(mask), dtype=torch.float64, device=mask.device)
    q = torch.zeros_like(p)
    for t in range(mask.shape[1]):
        valid, a, s = mask[:, t], advantages[:, t], scores[:, t]
        grown_p, grown_q = p + (a * a * s if orthogonal else a * s), q + s
        r_ppo, r_grpo = _ratios(orthogonal, a, grown_p, grown_q)
        size = size + valid.long()
        closes = valid & (size * r_ppo >= r_grpo)
        cause[:, t] = torch.where(closes, CRITERION, cause[:, t])
        size = torch.where(closes, 0, size)
        p = torch.where(closes, 0.0, torch.where(valid, grown_p, p))
        q = torch.where(closes, 0.0, torch.where(valid, grown_q, q))
        previous = torch.where(valid, t, previous)
    _close(cause, previous, size >= 1, END)
    return cause


def published(advantages: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """As `groupppo.algorithm.kernels.published`."""
    cause, step, previous = _start(mask)
    inverse = (1.0 / mask.sum(dim=1).double()).float()
    cg = torch.zeros(len(mask), dtype=torch.float32, device=mask.device)
    c = torch.zeros_like(cg)
    closed = torch.ones_like(step, dtype=torch.bool)
    for t in range(mask.shape[1]):
        valid, a, g = mask[:, t], advantages[:, t], scores[:, t]
        cg, c = cg + a * g, c + g
        step = step + valid.long()
        r_ppo, r_grpo = inverse * (cg * cg), (inverse * (c * c)) * (a * a)
        closes = valid & (r_ppo > RATIO_FLOOR) & (step.float() >= r_grpo / r_ppo)
        cause[:, t] = torch.where(closes, CRITERION, cause[:, t])
        # Outside the mask the stored sums are zero, so a hole restarts them as a closing token does.
        going_on = valid & ~closes
        cg, c = torch.where(going_on, cg, 0.0), torch.where(going_on, c, 0.0)
        closed = torch.where(valid, closes, closed)
        previous = torch.where(valid, t, previous)
    _close(cause, previous, ~closed, END)
    return cause


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """As `groupppo.algorithm.kernels.segment_gae`."""
    batch, length = mask.shape
    discount = powers(gamma, length, values)
    discount_lam = powers(gamma, length, values, factor=lam)
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    reward = torch.zeros(batch, dtype=values.dtype, device=values.device)
    next_value, next_advantage = torch.zeros_like(reward), torch.zeros_like(reward)
    steps = torch.zeros(batch, dtype=torch.long, device=values.device)
    for t in reversed(range(length)):
        valid, end = mask[:, t], endpoints[:, t]
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


def powers(gamma: float, length: int, like: Tensor, factor: float = 1.0) -> Tensor:
    """gamma^n * factor for n = 0..length, rounded once: gamma^1 is exactly verl's scalar gamma.

    Returns:
        (length + 1,) of the dtype and device of `like`.
    """
    table = [gamma**n * factor for n in range(length + 1)]
    return torch.tensor(table, dtype=torch.float64, device=like.device).to(like.dtype)


def _start(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """No causes, group sizes of zero, and position 0 as the previous valid one; (B, T) int8, (B,) and (B,) int64."""
    size = torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    return torch.zeros(mask.shape, dtype=torch.int8, device=mask.device), size, torch.zeros_like(size)


def _ratios(orthogonal: bool, a: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    if orthogonal:
        return p, a * a * q
    mean = a * q
    return p * p, mean * mean


def _close(cause: Tensor, position: Tensor, rows: Tensor, code: int) -> None:
    """Write `code` at one position of each row where `rows` is true; a boolean index would wait for the device."""
    if cause.numel():
        column = position.unsqueeze(1)
        cause.scatter_(1, column, torch.where(rows.unsqueeze(1), code, cause.gather(1, column)))
