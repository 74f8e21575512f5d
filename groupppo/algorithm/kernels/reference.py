"""The recursions as their definitions read: loops over responses and tokens, results written in place.

They run on NumPy arrays as they stand, and compiled by Numba, with the same bits. So they keep to what both mean alike:
no helper, no allocation, and in `published` every number is a float32 by name, because Numba promotes float32 with a
Python number or an int64 to float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Values of `groupppo.algorithm.Cause`, as plain numbers for the compiler.
CRITERION, CAP, END = 1, 2, 3

RATIO_FLOOR = np.float32(1e-8)
ZERO = np.float32(0.0)

Array = NDArray[Any]


def variance_split(
    advantages: Array,
    scores: Array,
    mask: Array,
    orthogonal: bool,
    tau: float,
    epsilon: float,
    cap: int,
    at: bool,
    cause: Array,
) -> None:
    """Write the causes of `kernels.variance_split`; (B, T) each, float64."""
    for row in range(mask.shape[0]):
        size, p, q, previous = 0, 0.0, 0.0, 0
        for t in range(mask.shape[1]):
            if not mask[row, t]:
                continue
            a, s = advantages[row, t], scores[row, t]
            weighted = a * a * s if orthogonal else a * s
            grown_p, grown_q = p + weighted, q + s
            r_ppo = grown_p if orthogonal else grown_p * grown_p
            r_grpo = a * a * grown_q if orthogonal else (a * grown_q) * (a * grown_q)
            if size >= 1 and r_grpo > tau * (r_ppo + epsilon):
                if at:
                    cause[row, t] = CRITERION
                    size, p, q = 0, 0.0, 0.0
                    continue
                cause[row, previous] = CRITERION
                size, p, q = 1, weighted, s
            else:
                size, p, q = size + 1, grown_p, grown_q
            if size == cap:
                cause[row, t] = CAP
                size, p, q = 0, 0.0, 0.0
            previous = t
        if size >= 1:
            cause[row, previous] = END


def literal(advantages: Array, scores: Array, mask: Array, orthogonal: bool, cause: Array) -> None:
    """Write the causes of `kernels.literal`; (B, T) each, float64."""
    for row in range(mask.shape[0]):
        size, p, q, previous = 0, 0.0, 0.0, 0
        for t in range(mask.shape[1]):
            if not mask[row, t]:
                continue
            a, s = advantages[row, t], scores[row, t]
            size, p, q = size + 1, p + (a * a * s if orthogonal else a * s), q + s
            r_ppo = p if orthogonal else p * p
            r_grpo = a * a * q if orthogonal else (a * q) * (a * q)
            if size * r_ppo >= r_grpo:
                cause[row, t] = CRITERION
                size, p, q = 0, 0.0, 0.0
            previous = t
        if size >= 1:
            cause[row, previous] = END


def published(advantages: Array, scores: Array, mask: Array, cause: Array) -> None:
    """Write the causes of `kernels.published`; (B, T) each, float32."""
    for row in range(mask.shape[0]):
        count = 0
        for t in range(mask.shape[1]):
            count += 1 if mask[row, t] else 0
        if count == 0:
            continue
        inverse = np.float32(1.0 / count)
        step, cg, c = 0, ZERO, ZERO
        for t in range(mask.shape[1]):
            if not mask[row, t]:
                cg, c = ZERO, ZERO
                continue
            a, g = advantages[row, t], scores[row, t]
            step += 1
            cg, c = cg + a * g, c + g
            r_ppo = inverse * (cg * cg)
            r_grpo = (inverse * (c * c)) * (a * a)
            # A division by zero, which Python would refuse, is never reached.
            if r_ppo > RATIO_FLOOR and np.float32(step) >= r_grpo / r_ppo:
                cause[row, t] = CRITERION
                cg, c = ZERO, ZERO
            elif step == count:
                cause[row, t] = END


def segment_gae(
    rewards: Array,
    values: Array,
    mask: Array,
    endpoints: Array,
    gamma: float,
    discount: Array,
    discount_lam: Array,
    advantages: Array,
    returns: Array,
) -> None:
    """Write the advantages and returns of `estimators.segment_gae`; (B, T) each, float32 or float64.

    Args:
        gamma: of the arrays' dtype.
        discount: (T + 1,) gamma^n of that dtype; `discount_lam`: gamma^n * lambda.
    """
    zero = gamma - gamma
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
