"""`entropy`: train on the tokens at which the policy is least certain (Wang et al., 2025, "Beyond the 80/20 Rule")."""

from torch import Tensor

from groupppo.algorithm.grouping import Tokens, close_share
from groupppo.algorithm.params import GroupParams, StepValues, rule


@rule(uses=("density", "density_source"), needs=("entropies",))
def entropy(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """The tokens of highest policy entropy at a given density of the batch, next to each response's last one."""
    return close_share(tokens.get("entropies").double(), tokens.mask, step.density)
