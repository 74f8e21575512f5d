"""Fused heads of other projects, through their own public functions: none of their code is here.

Each gives the log-probability of one label per row without holding all logits. Only `verl_fused` has been run by us.
"""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

# (N, H) hidden rows, (V, H) weights, (N,) labels -> (N,) log-probabilities.
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def _of_verl(function: str) -> Head:
    def head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        # Imported when it runs, for verl's import takes seconds.
        log_probs: Tensor = getattr(import_module("groupppo.verl.fused_heads"), function)(hidden, weight, labels)
        return log_probs

    return head


def _cut_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = import_module("cut_cross_entropy").linear_cross_entropy(hidden, weight, labels, reduction="none")
    return -loss


HEADS: dict[str, Head] = {
    "verl_fused": _of_verl("torch_head"),
    "verl_triton": _of_verl("triton_head"),
    "liger": _of_verl("liger_head"),
    "cce": _cut_cross_entropy,
}
