"""`stride`: the null hypothesis. 8192 tokens to 512 endpoints is exactly this, with groups of 16."""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Cause, Tokens, last_valid
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("group_max_size",))
def stride(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Close every group at `group_max_size` valid tokens."""
    count = tokens.mask.long().cumsum(dim=1)
    cause = torch.zeros_like(tokens.mask, dtype=torch.int8)
    cause[last_valid(tokens.mask)] = Cause.END
    cause[tokens.mask & (count % params.group_max_size == 0)] = Cause.CAP
    return cause
