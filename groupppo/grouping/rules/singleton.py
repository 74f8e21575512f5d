"""`singleton`: dense PPO in the form of groups."""

import torch
from torch import Tensor

from groupppo.grouping.groups import Cause
from groupppo.grouping.params import GroupParams
from groupppo.grouping.registry import StepValues, rule
from groupppo.grouping.tokens import Tokens


@rule()
def singleton(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Every token is a group of its own: a cap of one."""
    return torch.where(tokens.mask, Cause.CAP, Cause.NONE).to(torch.int8)
