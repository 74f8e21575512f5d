"""`singleton`: dense PPO in the form of groups."""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Cause, Tokens
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule()
def singleton(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Every token is a group of its own: a cap of one."""
    return torch.where(tokens.mask, Cause.CAP, Cause.NONE).to(torch.int8)
