"""`entropy`: the tokens at which the policy was least sure (Wang et al., 2025, "Beyond the 80/20 Rule", 2506.01939)."""

from torch import Tensor

from groupppo.algorithm.grouping import Tokens, share_of_highest
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("density", "density_source", "entropy_over"), needs=("entropies",))
def entropy(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """The tokens of highest policy entropy, at a given density of the batch or of each response.

    TRL's `top_entropy_quantile: q` over a batch is a density of 1 - q.
    """
    by_response = params.entropy_over == "response"
    return share_of_highest(tokens.get("entropies").double(), tokens.mask, step.density, params.ends, by_response)
