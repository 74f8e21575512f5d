"""`random`: the control without which nothing can be said about a rule that chooses by what it knows."""

from torch import Tensor

from groupppo.algorithm.grouping import Tokens, share_of_highest, uniform
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("density", "density_source"), needs=("seeds",))
def random(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Uniformly random tokens at a given density of the batch.

    Every valid token is equally likely, the last one of a response apart where the estimator needs it. The draw depends
    on the response's seed and on the number of valid tokens before the token, not on padding or on the batch's order.
    """
    draws = uniform(tokens.get("seeds"), tokens.mask.long().cumsum(dim=1))
    return share_of_highest(draws, tokens.mask, step.density, params.ends)
