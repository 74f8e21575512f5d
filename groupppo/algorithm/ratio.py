"""The variance ratio of closed groups, whatever rule closed them."""

import torch
from torch import Tensor

from groupppo.algorithm.groups import Groups
from groupppo.algorithm.scores import Score


def variance_ratios(groups: Groups, advantages: Tensor, score: Score) -> Tensor:
    """r_grpo / r_ppo of every group at its endpoint, (number of groups,) float64; 1 where both are zero.

    Args:
        groups: the batch's groups. advantages: (B, T) float. score: of the same tokens.
    """
    advantages, at_endpoint = advantages.double(), groups.endpoints
    # The operations of `kernels.variance_split` in its order: a group of one token has a ratio of exactly 1.
    if score.orthogonal:
        squared = advantages * advantages
        r_ppo = _group_sums(squared * score.values, groups)[at_endpoint]
        r_grpo = squared[at_endpoint] * _group_sums(score.values, groups)[at_endpoint]
    else:
        r_ppo = _group_sums(advantages * score.values, groups)[at_endpoint] ** 2
        r_grpo = (advantages[at_endpoint] * _group_sums(score.values, groups)[at_endpoint]) ** 2
    return torch.where(r_grpo == r_ppo, 1.0, r_grpo / r_ppo)


def _group_sums(values: Tensor, groups: Groups) -> Tensor:
    """(B, T): at every token of a group the sum over the group's tokens, zero outside."""
    inside = groups.index >= 0
    index = groups.index.clamp(min=0)
    values = torch.where(inside, values, 0.0)
    sums = torch.zeros_like(values).scatter_add_(1, index, values)
    return torch.where(inside, sums.gather(1, index), 0.0)
