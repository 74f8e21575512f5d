"""`abs_advantage`: the controls for rules that read advantages, tokens of the largest or the smallest ones."""

from torch import Tensor

from groupppo.algorithm.grouping import Tokens, share_of_highest
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("density", "density_source", "side"), needs=("advantages",))
def abs_advantage(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """The tokens whose advantage is largest (`side: top`) or smallest (`bottom`) in size, at a density of the batch."""
    size = tokens.get("advantages").double().abs()
    priority = size if params.side == "top" else -size
    return share_of_highest(priority, tokens.mask, step.density, params.ends)
