"""`gap`: the tokens on which rollout server and trainer agree (the mask of IcePop, Zhao et al., 2025)."""

from torch import Tensor

from groupppo.algorithm.grouping import Tokens, chosen
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("gap_low", "gap_high"), needs=("log_probs", "rollout_log_probs"))
def gap(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Keep a token when trainer's over rollout's probability is in [`gap_low`, `gap_high`]."""
    ratio = (tokens.get("log_probs").double() - tokens.get("rollout_log_probs").double()).exp()
    inside = (ratio >= params.gap_low) & (ratio <= params.gap_high)
    return chosen(tokens.mask & inside, tokens.mask, params.ends)
