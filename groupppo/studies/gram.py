"""The exact score vectors of a response, as their Gram matrix, and the variance-ratio rule on it.

g_t is the gradient of ln pi(y_t | s_t) with respect to ALL parameters: what every score of `algorithm.grouping` stands
for, at a price that only a study can pay (one backward pass for each token).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupppo.algorithm import Cause
from groupppo.studies.rollouts import Rollouts, response_log_probs


def token_gram(model: Any, response: Rollouts, temperature: float) -> Tensor:
    """G_mn = <g_m, g_n> over the tokens of one response.

    Args:
        model: causal language model; a float64 one gives G to about 1e-12. Tied parameters count once. Its attention
            must be the eager one, whose backward pass torch can batch.
        response: one row. temperature: of the sampling.

    Returns:
        (n, n) float64, n the number of the response's tokens.
    """
    chosen = response_log_probs(model, response, temperature)[response.mask]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    each = torch.eye(len(chosen), dtype=chosen.dtype)
    gradients = torch.autograd.grad(chosen, parameters, each, is_grads_batched=True)
    gram = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    for gradient in gradients:
        flat = gradient.flatten(1).double()
        gram += flat @ flat.T
    return gram


def off_diagonal_cosines(gram: Tensor) -> Tensor:
    """Cosines between the score vectors of different tokens, each pair once: (n (n - 1) / 2,) float64.

    A vector of length zero has no direction; its pairs are left out.
    """
    norms = gram.diagonal().sqrt()
    pairs = torch.ones_like(gram, dtype=torch.bool).triu(1) & (norms > 0) & (norms > 0)[:, None]
    return (gram / (norms[:, None] * norms))[pairs]


def exact_split(gram: Tensor, advantages: Tensor, *, tau: float, epsilon: float, cap: int) -> Tensor:
    """`variance_split` with the vectors themselves in place of a proxy.

    For the group of tokens s..t with advantages A: r_ppo(t) = A' G A, the squared norm of sum_k A_k g_k, and
    r_grpo(t) = A_t^2 1' G 1. As in the rule, a group closes before t when r_grpo > tau * (r_ppo + epsilon), else at t
    when it has `cap` tokens, else at the response's end.

    Args:
        gram: (n, n) float64, positive semidefinite. advantages: (n,) float.

    Returns:
        (n,) int8 `Cause` of closing at each token.
    """
    inner, advantage = gram.double().numpy(), advantages.double().numpy()
    cause = np.zeros(len(advantage), dtype=np.int8)
    start, r_ppo, norm = 0, 0.0, 0.0
    for t, a in enumerate(advantage):
        with_t = inner[start:t, t]
        grown_ppo = r_ppo + 2.0 * a * (advantage[start:t] @ with_t) + (a * a) * inner[t, t]
        grown_norm = norm + 2.0 * with_t.sum() + inner[t, t]
        if t > start and (a * a) * grown_norm > tau * (grown_ppo + epsilon):
            cause[t - 1] = Cause.CRITERION
            start, grown_ppo, grown_norm = t, (a * a) * inner[t, t], inner[t, t]
        r_ppo, norm = grown_ppo, grown_norm
        if t + 1 - start == cap:
            cause[t] = Cause.CAP
            start, r_ppo, norm = t + 1, 0.0, 0.0
    if len(cause) and cause[-1] == Cause.NONE:
        cause[-1] = Cause.END
    return torch.from_numpy(cause)
