"""`low_prob`: cut where the policy was not sure of its token (the cut-point rule of Guo et al., 2025, "SPO")."""

from torch import Tensor

from groupppo.algorithm.grouping import Tokens, chosen
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("probability_cutoff",), needs=("log_probs",))
def low_prob(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Close at every token whose probability is below `probability_cutoff`."""
    below = tokens.mask & (tokens.get("log_probs").double().exp() < params.probability_cutoff)
    return chosen(below, tokens.mask, params.ends)
