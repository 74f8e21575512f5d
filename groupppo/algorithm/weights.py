"""How much a chosen token counts: once, or as often as it stands for tokens that were not chosen."""

import torch
from torch import Tensor


def horvitz_thompson(chosen: Tensor, inclusion: Tensor) -> Tensor:
    """1 / p at chosen tokens, zero elsewhere (Horvitz and Thompson, 1952), (B, T) float64.

    A sum of terms with these weights, divided by the number of ALL valid tokens, has the mean over all valid tokens as
    its expectation, and so have its gradients, as long as the terms do not depend on what is chosen.

    Args:
        chosen: (B, T) bool.
        inclusion: (B, T) probability of each token to be chosen, above 0 wherever `chosen` is.
    """
    return torch.where(chosen, 1.0 / inclusion.double(), 0.0)


def effective_tokens(weights: Tensor) -> float:
    """Kish's effective number of tokens, (sum w)^2 / sum w^2, of (K,) weights; 0 of none."""
    squares = float((weights.double() ** 2).sum())
    return float(weights.double().sum()) ** 2 / squares if squares else 0.0


def gini(weights: Tensor) -> float:
    """Gini coefficient of (K,) non-negative weights: 0 where all are equal, towards 1 where one has everything."""
    count, total = len(weights), float(weights.double().sum())
    if not total:
        return 0.0
    ranked = weights.double().sort().values
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    return float((2 * rank - count - 1) @ ranked) / (count * total)
