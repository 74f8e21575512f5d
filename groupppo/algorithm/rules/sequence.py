"""`sequence`: the other end of the scale, one group per response."""

import torch
from torch import Tensor

from groupppo.algorithm.groups import Cause, last_valid
from groupppo.algorithm.params import GroupParams
from groupppo.algorithm.registry import StepValues, rule
from groupppo.algorithm.tokens import Tokens


@rule()
def sequence(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Only the last valid token of a response is an endpoint."""
    return torch.where(last_valid(tokens.mask), Cause.END, Cause.NONE).to(torch.int8)
