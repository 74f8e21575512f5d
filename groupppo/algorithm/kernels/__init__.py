"""The sequential recursions over tokens: loops in plain Python (`reference`), compiled for the CPU by Numba.

What runs is what is read: Numba compiles the very functions of `reference`. Without fast-math LLVM neither reorders nor
contracts operations, so both give the same bits. Tensors on another device are moved to the CPU for the loop, and the
result back: the advantage stage of a run works on CPU tensors. Numba is imported by the first call, so that importing
this package costs nothing. Machine code is kept beside the file, in the user's cache folder where that cannot be
written, or nowhere: each process then compiles its own. Causes are the values of `groupppo.algorithm.Cause`.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from groupppo.algorithm.kernels import reference

__all__ = ["literal", "published", "segment_gae", "variance_split"]


def variance_split(
    advantages: Tensor,
    scores: Tensor,
    mask: Tensor,
    *,
    orthogonal: bool,
    tau: float,
    epsilon: float,
    cap: int,
    at: bool = False,
) -> Tensor:
    """Close a group where the variance ratio passes tau, at the cap, and at the last valid token.

    The ratios are those of `rules/variance_split.py`: sums of squares for orthogonal scores, squares of sums for
    signed ones.

    Args:
        advantages: (B, T) float64.
        scores: (B, T) float64, squared score norms w, or signed scalars g.
        mask: (B, T) bool, or integers that are true where nonzero. Tokens outside it are skipped, never read.
        orthogonal: whether `scores` are squared norms.
        tau: threshold of the ratio.
        epsilon: added to r_ppo.
        cap: tokens of the largest group allowed.
        at: close at the token whose ratio passes tau, which ends the group, or before it.

    Returns:
        (B, T) int8 cause of closing at each token.

    Raises:
        TypeError: a tensor is not float64.
        ValueError: shapes or devices differ.
    """
    mask = _checked(mask, torch.float64, advantages=advantages, scores=scores)
    settings = bool(orthogonal), float(tau), float(epsilon), int(cap), bool(at)
    return _causes(reference.variance_split, mask, advantages, scores, *settings)


def literal(advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool) -> Tensor:
    """Close a group of n tokens at t when n * r_ppo(t) >= r_grpo(t): the printed algorithm, ratios as above.

    At n = 1 both sides are the same number, so every token closes a group of its own, as long as numbers are finite.
    Arguments, result and errors are those of `variance_split`.
    """
    mask = _checked(mask, torch.float64, advantages=advantages, scores=scores)
    return _causes(reference.literal, mask, advantages, scores, bool(orthogonal))


def published(advantages: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """The rule of `rules/published.py`, in float32 and in the public code's order of operations.

    Args:
        advantages: (B, T) float32.
        scores: (B, T) float32, signed scalars g.
        mask: as `variance_split`; so are the result and the errors, for float32.
    """
    mask = _checked(mask, torch.float32, advantages=advantages, scores=scores)
    return _causes(reference.published, mask, advantages, scores)


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of `estimators.segment_gae`, where arguments, formula and errors are.

    With every token an endpoint this is, operation by operation, verl's `compute_gae_advantage_return` before
    whitening (Schulman et al., 2016).
    """
    for name, tensor in (("rewards", rewards), ("values", values)):
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"{name} is {tensor.dtype}, needed is a float")
    dtype = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    rewards, values = rewards.to(dtype), values.to(dtype)
    mask = _checked(mask, dtype, rewards=rewards, values=values)
    endpoints = _checked(endpoints, dtype, values=values)
    advantages, returns = (torch.zeros(mask.shape, dtype=dtype) for _ in range(2))
    tables = ([gamma**n * factor for n in range(mask.shape[1] + 1)] for factor in (1.0, lam))
    # Each power is rounded to the dtype once, as verl's scalars are.
    powers = (torch.tensor(each, dtype=torch.float64).to(dtype) for each in ([gamma], *tables))
    scalar, discount, discount_lam = _arrays(*powers)
    run = _compiled(reference.segment_gae)
    run(*_arrays(rewards, values, mask, endpoints), scalar[0], discount, discount_lam, *_arrays(advantages, returns))
    return advantages.to(mask.device), returns.to(mask.device)


def _causes(loop: Callable[..., None], mask: Tensor, advantages: Tensor, scores: Tensor, *settings: object) -> Tensor:
    cause = torch.zeros(mask.shape, dtype=torch.int8)
    _compiled(loop)(*_arrays(advantages, scores, mask), *settings, cause.numpy())
    return cause.to(mask.device)


@cache
def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    from numba import njit

    try:
        compiled: Callable[..., None] = njit(cache=True, nogil=True)(loop)
    except RuntimeError:  # "cannot cache function: no locator available": neither place can be written
        compiled = njit(nogil=True)(loop)
    return compiled


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """NumPy arrays, on the same memory where that is the CPU's, whatever the strides."""
    return tuple(tensor.numpy(force=True) for tensor in tensors)


def _checked(mask: Tensor, dtype: torch.dtype, **tensors: Tensor) -> Tensor:
    """The mask as bool, if all tensors match it; a mixed dtype would round in another place."""
    if mask.dim() != 2:
        raise ValueError(f"a mask has two dimensions (responses, tokens), found shape {tuple(mask.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the mask {tuple(mask.shape)}")
        if tensor.device != mask.device:
            raise ValueError(f"{name} is on {tensor.device}, the mask on {mask.device}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} is {tensor.dtype}, needed is {dtype}")
    return mask.bool()
