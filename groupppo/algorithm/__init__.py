"""Token selection, GROUP-PPO's and others', top to bottom: tensors in, tensors out, with torch and numba alone.

| file | what is in it |
|---|---|
| `params` | every key with its default; the registry of rules; tau and density from step to step |
| `grouping` | what a rule reads (`Tokens`, scores) and returns (`Cause`, `Groups`); how much a chosen token counts |
| `rules/` | where a group ends, which is the token that is trained on: one file, one rule |
| `kernels/` | the recursions over tokens: `reference` as they read, compiled by Numba |
| `estimators` | dense GAE, advantages over endpoints, sharing within groups, whitening |
| `loss` | where the losses count and what divides them (`group_batch`); the policy loss |
| `metrics` | statistics of a grouping |

    params = GroupParams(rule="variance_split")
    groups = group_tokens(Tokens(mask, advantages=advantages), params)
"""

import torch

from groupppo.algorithm.grouping import Cause, Groups, Tokens, horvitz_thompson, last_valid
from groupppo.algorithm.params import DensitySchedule, GroupParams, StepValues, known_rules, next_threshold

__all__ = [
    "Cause",
    "DensitySchedule",
    "GroupParams",
    "Groups",
    "Tokens",
    "group_tokens",
    "known_rules",
    "last_valid",
    "next_threshold",
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
    cause = params.definition.close(tokens, params, step)
    if params.weights == "none":
        return Groups.from_cause(cause, tokens.mask)
    assert params.definition.inclusion is not None, "checked by GroupParams"
    inclusion = params.definition.inclusion(tokens.mask, params, step)
    return Groups.from_cause(cause, tokens.mask, horvitz_thompson(cause != Cause.NONE, inclusion))
