"""`literal`: the origin's Algorithm 2 as printed."""

from torch import Tensor

from groupppo.algorithm import kernels
from groupppo.algorithm.grouping import Tokens
from groupppo.algorithm.params import GroupParams, StepValues, rule
from groupppo.algorithm.rules.variance_split import ratio_evidence


@rule(uses=("score",), needs=("advantages",), evidence=ratio_evidence)
def literal(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Close at t when the group's size n >= r_grpo / r_ppo.

    A group of one token has r_grpo = r_ppo, a ratio of exactly 1, so the criterion holds at once: every token is an
    endpoint, whatever the advantages and scores. It has no parameter that could change that.
    """
    advantages, score = ratio_evidence(tokens, params)
    return kernels.literal(advantages.double(), score.values, tokens.mask, orthogonal=score.orthogonal)
