"""`random`: the control without which nothing can be said about a rule that chooses by the variance ratio."""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Tokens, close_share
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("density", "density_source"), needs=("seeds",))
def random(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Uniformly random endpoints at a given density of the batch, next to each response's last valid token.

    Every other valid token is equally likely. The draw depends on the response's seed and on the number of valid
    tokens before the token, not on padding or on the order of the batch.
    """
    return close_share(_uniform(tokens.get("seeds"), tokens.mask), tokens.mask, step.density)


def _uniform(seeds: Tensor, mask: Tensor) -> Tensor:
    """(B, T) float64 in [0, 1), a hash of seed and token number (the finaliser of splitmix64; Steele et al., 2014)."""
    number = mask.long().cumsum(dim=1)
    bits = seeds.long()[:, None] + number * -7046029254386353131  # the odd constant 0x9E3779B97F4A7C15, signed
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        bits = (bits ^ _shifted(bits, shift)) * factor
    bits = bits ^ _shifted(bits, 31)
    return _shifted(bits, 11).to(torch.float64) / 2.0**53


def _shifted(bits: Tensor, shift: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)
