"""`prefix_cut`: the tokens before a random cut (random prefix cutting of NAT, Sang et al., 2026, 2603.06619).

An update needs nothing behind the cut, so it is the one random choice that shortens sequences. The paper's abstract
says that prefixes are cut at random and reweighted; the law of the cut, uniform over lengths, is ours.
"""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Tokens, chosen, uniform
from groupppo.algorithm.params import GroupParams, StepValues, rule


def inclusion(mask: Tensor, params: GroupParams, step: StepValues) -> Tensor:
    """(B, T) float64: token t of a response of T_i valid tokens is kept with (T_i - t + 1) / (T_i - m + 1), at most 1.

    m is the shortest prefix, `prefix_min` or the whole response where that is shorter.
    """
    number, length = mask.long().cumsum(dim=1), mask.long().sum(dim=1, keepdim=True)
    cuts = length - length.clamp(max=params.prefix_min) + 1
    return ((length - number + 1).double() / cuts.double()).clamp(max=1.0)


@rule(uses=("prefix_min",), needs=("seeds",), inclusion=inclusion)
def prefix_cut(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Keep the first C valid tokens of each response, C uniform from its shortest prefix to its length."""
    number, length = tokens.mask.long().cumsum(dim=1), tokens.mask.long().sum(dim=1, keepdim=True)
    shortest = length.clamp(max=params.prefix_min)
    draw = uniform(tokens.get("seeds"), torch.zeros_like(length))
    cut = shortest + (draw * (length - shortest + 1)).long()
    return chosen(tokens.mask & (number <= cut), tokens.mask, params.ends)
