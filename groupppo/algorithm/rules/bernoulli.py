"""`bernoulli`: each token by a coin of its own (uniform random sampling of NAT, Sang et al., 2026, 2603.06619)."""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Tokens, chosen, uniform
from groupppo.algorithm.params import GroupParams, StepValues, rule


def inclusion(mask: Tensor, params: GroupParams, step: StepValues) -> Tensor:
    """(B, T) float64: every valid token is chosen with probability `density`."""
    return torch.full(mask.shape, step.required_density(), dtype=torch.float64)


@rule(uses=("density", "density_source"), needs=("seeds",), inclusion=inclusion)
def bernoulli(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Choose each valid token with probability `density`, independently of all others.

    A response, or a whole batch, may be left without a token, where `random` always chooses as many.
    """
    draws = uniform(tokens.get("seeds"), tokens.mask.long().cumsum(dim=1))
    return chosen(tokens.mask & (draws < step.required_density()), tokens.mask, params.ends)
