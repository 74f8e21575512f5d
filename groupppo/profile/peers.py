"""Fused heads of other projects, through their own public functions: none of their code is here.

Each gives the log-probability of one label per row without holding all logits. What cannot run on a machine says why,
and the profile has a row for it. Only the first has been run by us.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor

# (N, H) hidden rows, (V, H) weights, (N,) labels -> (N,) log-probabilities.
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """Another project's head. `missing`: why it cannot run on a device, or nothing."""

    name: str
    title: str
    head: Head
    missing: Callable[[str], str]


def _of_verl(function: str) -> Head:
    def head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        # Imported when it runs, for verl's import takes seconds and is not needed for what is only counted.
        log_probs: Tensor = getattr(import_module("groupppo.verl.fused_heads"), function)(hidden, weight, labels)
        return log_probs

    return head


def _cce(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = import_module("cut_cross_entropy").linear_cross_entropy(hidden, weight, labels, reduction="none")
    return -loss


def _needs(package: str, *, gpu: bool = True) -> Callable[[str], str]:
    def missing(device: str) -> str:
        lacks = [f"the package {package}"] if find_spec(package) is None else []
        lacks += ["an NVIDIA GPU"] if gpu and device != "cuda" else []
        return f"needs {' and '.join(lacks)}" if lacks else ""

    return missing


PEERS = (
    Peer("verl_fused", "dense, verl's fused head (torch)", _of_verl("torch_head"), _needs("verl", gpu=False)),
    Peer("verl_triton", "dense, verl's fused head (Triton)", _of_verl("triton_head"), _needs("verl")),
    Peer("liger", "dense, Liger's head through verl", _of_verl("liger_head"), _needs("liger_kernel")),
    Peer("cce", "dense, cut cross-entropy", _cce, _needs("cut_cross_entropy")),
)
