"""The recursions as their definitions read: plain Python floats, one response at a time.

The functions `*_response` are the definition that every other backend equals to the bit; the others apply them row by
row. Slow on purpose.
"""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Values of groupppo.algorithm.Cause, repeated here because grouping imports this package.
NONE, CRITERION, CAP, END = 0, 1, 2, 3


def to_float32(number: float) -> float:
    """Round to float32. Rounding after +, -, * and / on doubles is what float32 arithmetic gives, in every range."""
    return ctypes.c_float(number).value


RATIO_FLOOR = to_float32(1e-8)


def variance_split_response(
    advantages: list[float],
    scores: list[float],
    mask: list[bool],
    orthogonal: bool,
    tau: float,
    epsilon: float,
    cap: int,
) -> list[int]:
    """Causes of one response of T tokens; quantities as in `groupppo.algorithm.kernels.variance_split`."""
    cause = [NONE] * len(mask)
    size, p, q, previous = 0, 0.0, 0.0, -1
    for t, valid in enumerate(mask):
        if not valid:
            continue
        a, s = advantages[t], scores[t]
        weighted = a * a * s if orthogonal else a * s
        r_ppo, r_grpo = _ratios(orthogonal, a, p + weighted, q + s)
        if size >= 1 and r_grpo > tau * (r_ppo + epsilon):
            cause[previous] = CRITERION
            size, p, q = 1, weighted, s
        else:
            size, p, q = size + 1, p + weighted, q + s
        if size == cap:
            cause[t] = CAP
            size, p, q = 0, 0.0, 0.0
        previous = t
    if size >= 1:
        cause[previous] = END
    return cause


def literal_response(advantages: list[float], scores: list[float], mask: list[bool], orthogonal: bool) -> list[int]:
    """Causes of one response of T tokens; quantities as in `groupppo.algorithm.kernels.literal`."""
    cause = [NONE] * len(mask)
    size, p, q, previous = 0, 0.0, 0.0, -1
    for t, valid in enumerate(mask):
        if not valid:
            continue
        a, s = advantages[t], scores[t]
        size, p, q = size + 1, p + (a * a * s if orthogonal else a * s), q + s
        r_ppo, r_grpo = _ratios(orthogonal, a, p, q)
        if size * r_ppo >= r_grpo:
            cause[t] = CRITERION
            size, p, q = 0, 0.0, 0.0
        previous = t
    if size >= 1:
        cause[previous] = END
    return cause


def published_response(advantages: list[float], scores: list[float], mask: list[bool]) -> list[int]:
    """Causes of one response of T tokens whose numbers are float32; as in `groupppo.algorithm.kernels.published`."""
    f = to_float32
    cause = [NONE] * len(mask)
    count = sum(mask)
    step, cg, c = 0, 0.0, 0.0
    for t, valid in enumerate(mask):
        if not valid:
            cg, c = 0.0, 0.0
            continue
        a, g = advantages[t], scores[t]
        inverse = f(1.0 / count)
        step += 1
        cg, c = f(cg + f(a * g)), f(c + g)
        r_ppo = f(inverse * f(cg * cg))
        r_grpo = f(f(inverse * f(c * c)) * f(a * a))
        if r_ppo > RATIO_FLOOR and f(step) >= f(r_grpo / r_ppo):
            cause[t] = CRITERION
            cg, c = 0.0, 0.0
        elif step == count:
            cause[t] = END
    return cause


def segment_gae_response(
    rewards: list[float],
    values: list[float],
    mask: list[bool],
    endpoints: list[bool],
    gamma: float,
    lam: float,
    round_to: Callable[[float], float] = float,
) -> tuple[list[float], list[float]]:
    """Advantages and returns of one response of T tokens; quantities as in `groupppo.algorithm.kernels.segment_gae`.

    Args:
        round_to: applied to the result of every operation; `to_float32` for float32 inputs.
    """
    f = round_to
    advantages, returns = [0.0] * len(mask), [0.0] * len(mask)
    reward, next_value, next_advantage, steps = 0.0, 0.0, 0.0, 0
    for t in reversed(range(len(mask))):
        if mask[t]:
            reward = f(rewards[t] + f(f(gamma) * reward))
            steps += 1
        if endpoints[t]:
            delta = f(f(reward + f(f(gamma**steps) * next_value)) - values[t])
            advantages[t] = f(delta + f(f(gamma**steps * lam) * next_advantage))
            returns[t] = f(advantages[t] + values[t])
            reward, next_value, next_advantage, steps = 0.0, values[t], advantages[t], 0
    return advantages, returns


def variance_split(
    advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool, tau: float, epsilon: float, cap: int
) -> Tensor:
    """As `groupppo.algorithm.kernels.variance_split`."""
    rows = [
        variance_split_response(a, s, m, orthogonal, tau, epsilon, cap) for a, s, m in _rows(advantages, scores, mask)
    ]
    return _stack(rows, mask, torch.int8)


def literal(advantages: Tensor, scores: Tensor, mask: Tensor, *, orthogonal: bool) -> Tensor:
    """As `groupppo.algorithm.kernels.literal`."""
    rows = [literal_response(a, s, m, orthogonal) for a, s, m in _rows(advantages, scores, mask)]
    return _stack(rows, mask, torch.int8)


def published(advantages: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """As `groupppo.algorithm.kernels.published`."""
    rows = [published_response(a, s, m) for a, s, m in _rows(advantages, scores, mask)]
    return _stack(rows, mask, torch.int8)


def segment_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, endpoints: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """As `groupppo.algorithm.kernels.segment_gae`."""
    round_to = to_float32 if values.dtype == torch.float32 else float
    rows = [
        segment_gae_response(r, v, m, e, gamma, lam, round_to) for r, v, m, e in _rows(rewards, values, mask, endpoints)
    ]
    advantages, returns = [row[0] for row in rows], [row[1] for row in rows]
    return _stack(advantages, values, values.dtype), _stack(returns, values, values.dtype)


def _ratios(orthogonal: bool, a: float, p: float, q: float) -> tuple[float, float]:
    """r_ppo and r_grpo of a group that ends here, up to the common factor 1/N."""
    return (p, a * a * q) if orthogonal else (p * p, (a * q) * (a * q))


def _rows(*tensors: Tensor) -> Iterator[Any]:
    """The lists of one response after another; typed as Any because a row of a bool tensor is not a row of floats."""
    return zip(*(tensor.tolist() for tensor in tensors), strict=True)


def _stack(rows: list[list[int]] | list[list[float]], like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.tensor(rows, dtype=dtype, device=like.device).reshape(like.shape)
