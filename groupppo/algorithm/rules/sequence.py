"""`sequence`: the other end of the scale, one group per response."""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Cause, Tokens, last_valid
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule()
def sequence(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Only the last valid token of a response is an endpoint."""
    return torch.where(last_valid(tokens.mask), Cause.END, Cause.NONE).to(torch.int8)
