"""The recursions compiled for the CPU by Numba: one thread, loops over rows and tokens, results written in place.

Without fast-math LLVM neither reorders nor contracts operations, which is what makes them equal to the reference.
Machine code is kept beside this file, in the user's cache folder where that cannot be written, or nowhere: each process
then compiles its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from groupppo.algorithm.kernels import reference
from groupppo.algorithm.kernels.batched import powers

NONE, CRITERION, CAP, END = reference.NONE, reference.CRITERION, reference.CAP, reference.END
RATIO_FLOOR = np.float32(reference.RATIO_FLOOR)

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Causes = NDArray[np.int8]

# Size, p and q of the open group, the previous valid position, and the cause that the cap has given it.
State = tuple[int, float, float, int, int]
START: State = (0, 0.0, 0.0, 0, NONE)


def variance_split(
    advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool, tau: float, epsilon: float, cap: int
) -> Tensor:
    """As `groupppo.algorithm.kernels.variance_split`."""
    cause = torch.zeros(mask.shape, dtype=torch.int8)
    _variance_split(
        *_views(advantages, scores, mask), bool(orthogonal), float(tau), float(epsilon), int(cap), cause.numpy()
    )
    return cause


def literal(advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool) -> Tensor:
    """As `groupppo.algorithm.kernels.literal`."""
    cause = torch.zeros(mask.shape, dtype=torch.int8)
    _literal(*_views(advantages, scores, mask), bool(orthogonal), cause.numpy())
    return cause


def published(advantages: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """As `groupppo.algorithm.kernels.published`."""
    cause = torch.zeros(mask.shape, dtype=torch.int8)
    _published(*_views(advantages, scores, mask), cause.numpy())
    return cause


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """As `groupppo.algorithm.kernels.segment_gae`."""
    length = mask.shape[1]
    advantages = torch.zeros(values.shape, dtype=values.dtype)
    returns = torch.zeros(values.shape, dtype=values.dtype)
    tables = powers(gamma, length, values), powers(gamma, length, values, factor=lam)
    scalar = values.new_tensor(gamma).numpy()[()]
    _segment_gae(*_views(rewards, values, mask, endpoints), scalar, *_views(*tables, advantages, returns))
    return advantages, returns


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available": neither place can be written
        return njit(nogil=True)(function)


def _views(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """NumPy arrays on the same memory, whatever the strides."""
    return tuple(tensor.numpy(force=True) for tensor in tensors)


@_compiled
def _ratios(orthogonal: bool, a: float, p: float, q: float) -> tuple[float, float]:
    if orthogonal:
        return p, a * a * q
    mean = a * q
    return p * p, mean * mean


@_compiled
def _variance_split(
    advantages: Floats,
    scores: Floats,
    mask: Bools,
    orthogonal: bool,
    tau: float,
    epsilon: float,
    cap: int,
    cause: Causes,
) -> None:
    tensors, parameters = (advantages, scores, mask, cause), (orthogonal, tau, epsilon, cap)
    rows, length = mask.shape
    # Each token waits for the one before it; four responses at once wait together.
    in_fours = rows - rows % 4
    for row in range(0, in_fours, 4):
        first = second = third = fourth = START
        for t in range(length):
            first = _grow_or_split(tensors, parameters, row, t, first)
            second = _grow_or_split(tensors, parameters, row + 1, t, second)
            third = _grow_or_split(tensors, parameters, row + 2, t, third)
            fourth = _grow_or_split(tensors, parameters, row + 3, t, fourth)
        _close_last(cause, row, first)
        _close_last(cause, row + 1, second)
        _close_last(cause, row + 2, third)
        _close_last(cause, row + 3, fourth)
    for row in range(in_fours, rows):
        state = START
        for t in range(length):
            state = _grow_or_split(tensors, parameters, row, t, state)
        _close_last(cause, row, state)


@_compiled
def _grow_or_split(tensors: Any, parameters: Any, row: int, t: int, state: State) -> State:
    advantages, scores, mask, cause = tensors
    orthogonal, tau, epsilon, cap = parameters
    size, p, q, previous, closed = state
    if not mask[row, t]:
        return state
    a, s = advantages[row, t], scores[row, t]
    weighted = a * a * s if orthogonal else a * s
    grown_p, grown_q = p + weighted, q + s
    r_ppo, r_grpo = _ratios(orthogonal, a, grown_p, grown_q)
    # No processor can guess which tokens split: values are selected, for a branch would be taken wrongly too often.
    # The selection may ignore `size`, since an empty group grows to what a new group would start with.
    splits = r_grpo > tau * (r_ppo + epsilon)
    cause[row, previous] = CRITERION if splits and size >= 1 else closed
    size = 1 if splits else size + 1
    p, q = weighted if splits else grown_p, s if splits else grown_q
    if size == cap:
        return 0, 0.0, 0.0, t, CAP
    return size, p, q, t, NONE


@_compiled
def _close_last(cause: Causes, row: int, state: State) -> None:
    size, _, _, previous, closed = state
    if size >= 1:
        cause[row, previous] = END
    elif closed != NONE:
        cause[row, previous] = closed


@_compiled
def _literal(advantages: Floats, scores: Floats, mask: Bools, orthogonal: bool, cause: Causes) -> None:
    for row in range(mask.shape[0]):
        size, p, q, previous = 0, 0.0, 0.0, 0
        for t in range(mask.shape[1]):
            if not mask[row, t]:
                continue
            a, s = advantages[row, t], scores[row, t]
            size, p, q = size + 1, p + (a * a * s if orthogonal else a * s), q + s
            r_ppo, r_grpo = _ratios(orthogonal, a, p, q)
            if size * r_ppo >= r_grpo:
                cause[row, t] = CRITERION
                size, p, q = 0, 0.0, 0.0
            previous = t
        if size >= 1:
            cause[row, previous] = END


# Numba promotes float32 with a Python number or an int64 to float64: every number below is a float32 by name.
@_compiled
def _published(advantages: Floats, scores: Floats, mask: Bools, cause: Causes) -> None:
    zero = np.float32(0.0)
    for row in range(mask.shape[0]):
        count = 0
        for t in range(mask.shape[1]):
            count += mask[row, t]
        if count == 0:
            continue
        inverse = np.float32(1.0 / count)
        step, cg, c = 0, zero, zero
        for t in range(mask.shape[1]):
            if not mask[row, t]:
                cg, c = zero, zero
                continue
            a, g = advantages[row, t], scores[row, t]
            step += 1
            cg, c = cg + a * g, c + g
            r_ppo = inverse * (cg * cg)
            r_grpo = (inverse * (c * c)) * (a * a)
            # A division by zero, which Python would refuse, is never reached.
            if r_ppo > RATIO_FLOOR and np.float32(step) >= r_grpo / r_ppo:
                cause[row, t] = CRITERION
                cg, c = zero, zero
            elif step == count:
                cause[row, t] = END


@_compiled
def _segment_gae(
    rewards: Floats,
    values: Floats,
    mask: Bools,
    endpoints: Bools,
    gamma: float,
    discount: Floats,
    discount_lam: Floats,
    advantages: Floats,
    returns: Floats,
) -> None:
    zero = values.dtype.type(0.0)
    for row in range(mask.shape[0]):
        reward, next_value, next_advantage, steps = zero, zero, zero, 0
        for t in range(mask.shape[1] - 1, -1, -1):
            if mask[row, t]:
                reward = rewards[row, t] + gamma * reward
                steps += 1
            if endpoints[row, t]:
                value = values[row, t]
                delta = reward + discount[steps] * next_value - value
                advantage = delta + discount_lam[steps] * next_advantage
                advantages[row, t] = advantage
                returns[row, t] = advantage + value
                reward, next_value, next_advantage, steps = zero, value, advantage, 0
