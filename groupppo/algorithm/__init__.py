"""Grouping of response tokens: pure tensors, without verl.

groups = group_tokens(Tokens(mask, advantages=advantages), GroupParams(rule="variance_split"))
"""

import torch

from groupppo.algorithm.density import DensitySchedule
from groupppo.algorithm.groups import Cause, Groups, last_valid
from groupppo.algorithm.params import GroupParams
from groupppo.algorithm.registry import StepValues, known_rules
from groupppo.algorithm.threshold import Threshold
from groupppo.algorithm.tokens import Tokens

__all__ = [
    "Cause",
    "DensitySchedule",
    "GroupParams",
    "Groups",
    "Threshold",
    "Tokens",
    "group_tokens",
    "known_rules",
    "last_valid",
]


@torch.no_grad()
def group_tokens(
    tokens: Tokens, params: GroupParams, threshold: float | None = None, density: float | None = None
) -> Groups:
    """Group the valid tokens of each response by `params.rule`.

    Args:
        tokens: the batch, with what the rule and its score need.
        params: rule, score and their parameters.
        threshold: tau of this step; `params.group_variance_threshold` unless given.
        density: endpoints over valid tokens of this step, for the rules that take one; `params.density` unless given.

    Raises:
        BadInput: the rule needs something that is not in `tokens`, or a density that nobody gave.
    """
    step = StepValues(
        threshold=params.group_variance_threshold if threshold is None else threshold,
        density=params.density if density is None else density,
    )
    return Groups.from_cause(known_rules()[params.rule].close(tokens, params, step), tokens.mask)
