"""Grouping of response tokens: pure tensors, torch alone.

groups = group_tokens(advantages, mask, GroupParams(rule="variance_split"), threshold=1.0)
"""

import torch
from torch import Tensor

from groupppo.grouping.groups import Cause, Groups, last_valid
from groupppo.grouping.params import GroupParams
from groupppo.grouping.rules import RULES
from groupppo.grouping.threshold import Threshold

__all__ = ["Cause", "GroupParams", "Groups", "Threshold", "group_tokens", "last_valid"]


def group_tokens(advantages: Tensor, mask: Tensor, params: GroupParams, threshold: float) -> Groups:
    """Group the valid tokens of each response.

    Args:
        advantages: (B, T) per-token advantages before whitening.
        mask: (B, T) bool, the valid tokens. Holes are allowed: a token outside the mask belongs to no group.
        params: rule, score and their parameters.
        threshold: tau of this step.
    """
    weights = torch.ones_like(advantages)  # score "unit": every token's score vector has norm 1
    return RULES[params.rule](advantages, weights, mask.bool(), params, threshold)
