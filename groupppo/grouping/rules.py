"""Grouping rules. Each takes advantages, squared score norms and the mask, and says where groups close and why."""

from collections.abc import Callable

import torch
from torch import Tensor

from groupppo.grouping.groups import Cause, Groups, last_valid
from groupppo.grouping.params import GroupParams

Rule = Callable[[Tensor, Tensor, Tensor, GroupParams, float], Groups]


def singleton(advantages: Tensor, weights: Tensor, mask: Tensor, params: GroupParams, threshold: float) -> Groups:
    """Every token is a group of its own: dense PPO. Closed by the cap, but for the last token."""
    cause = torch.full(mask.shape, Cause.CAP, dtype=torch.int8, device=mask.device)
    cause[last_valid(mask)] = Cause.END
    return Groups.from_cause(cause, mask)


def variance_split(advantages: Tensor, weights: Tensor, mask: Tensor, params: GroupParams, threshold: float) -> Groups:
    """Split before the token whose variance ratio passes the threshold, and at the cap.

    For a group of n tokens that started at s, with squared score norms w and orthogonal score vectors:
    r_ppo(t) = sum_{k=s..t} A_k^2 w_k and r_grpo(t) = A_t^2 sum_{k=s..t} w_k. The group closes before t when n >= 2
    and r_grpo > tau * (r_ppo + eps), else at t when n reaches `group_max_size`, else at the last valid token. So every
    closed group of two or more tokens satisfies r_grpo <= tau * (r_ppo + eps) at its endpoint. A group that reaches
    the cap at the last token counts as closed by the cap. Comparisons run in float64, so that ties are ties.
    """
    square = advantages.double() ** 2
    weights = weights.double()
    batch, length = mask.shape
    cause = torch.zeros(batch, length, dtype=torch.int8, device=mask.device)
    size = torch.zeros(batch, dtype=torch.long, device=mask.device)
    previous = torch.zeros_like(size)
    r_ppo = torch.zeros(batch, dtype=torch.float64, device=mask.device)
    norm = torch.zeros_like(r_ppo)
    rows = torch.arange(batch, device=mask.device)
    for t in range(length):
        valid = mask[:, t]
        grown_r_ppo = r_ppo + square[:, t] * weights[:, t]
        grown_norm = norm + weights[:, t]
        split = valid & (size >= 1) & (square[:, t] * grown_norm > threshold * (grown_r_ppo + params.group_epsilon))
        cause[rows[split], previous[split]] = Cause.CRITERION
        size = torch.where(split, 1, size + valid.long())
        r_ppo = torch.where(split, square[:, t] * weights[:, t], torch.where(valid, grown_r_ppo, r_ppo))
        norm = torch.where(split, weights[:, t], torch.where(valid, grown_norm, norm))
        capped = valid & (size == params.group_max_size)
        cause[capped, t] = Cause.CAP
        size = torch.where(capped, 0, size)
        r_ppo = torch.where(capped, 0.0, r_ppo)
        norm = torch.where(capped, 0.0, norm)
        previous = torch.where(valid, t, previous)
    open_end = last_valid(mask) & (cause == Cause.NONE)
    cause[open_end] = Cause.END
    return Groups.from_cause(cause, mask)


RULES: dict[str, Rule] = {"singleton": singleton, "variance_split": variance_split}
