"""verl's fused language-model heads as plain functions, for the profile to measure beside ours.

Each takes (N, H) hidden rows, (V, H) weights and (N,) labels and returns (N,) log-probabilities, with the settings that
verl's own models use (`verl/models/transformers/dense_common.py`). The torch head has been run by us, on a CPU.
"""

from torch import Tensor


def torch_head(hidden: Tensor, weight: Tensor, labels: Tensor, backend: str = "torch") -> Tensor:
    """`FusedLinearForPPO`, chunks of 512 rows whose logits are computed again in the backward pass."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    log_probs: Tensor = FusedLinearForPPO(impl_backend=backend)(hidden, weight, labels, temperature=1.0)[0]
    return log_probs


def liger_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The same with Liger's kernels; needs the package liger_kernel and a GPU."""
    return torch_head(hidden, weight, labels, "liger")


def triton_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """verl's Triton kernels; need a GPU."""
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    log_probs: Tensor = linear_cross_entropy(hidden, weight, labels, 1.0, "none")[0]
    return log_probs
