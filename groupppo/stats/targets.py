"""Cost to a target, such as seconds or tokens until a reward is reached, when some runs never get there.

A run that misses the target costs infinity (Dahl et al. 2023, "Benchmarking neural network training algorithms"). An
infinite cost has an order and a rank, hence a median, a sign test and an interval from order statistics, but no mean
and no spread. Two infinite costs have no ratio and no order: such pairs are counted as undetermined, never dropped.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Arrival(NamedTuple):
    """What a run cost up to and with the step that first reached a target, infinite for a miss, and what it spent in
    all; a miss says nothing about what would have come after."""

    steps: float
    seconds: float
    tokens: float
    spent_seconds: float
    spent_tokens: float


class RatioBounds(NamedTuple):
    """Median over pairs of first cost / second cost, with pairs that both missed as far down and up as they may lie.

    `median_low` takes undetermined ratios for 0, `median_high` for infinity. The interval from order statistics is 0 to
    infinity where the pairs are too few for the level. `undetermined` counts pairs that both missed.
    """

    median_low: float
    median_high: float
    low: float
    high: float
    undetermined: int


def time_to_target(metric: ArrayLike, seconds: ArrayLike, tokens: ArrayLike, target: float, window: int = 1) -> Arrival:
    """First step at which the metric, smoothed, is at or above the target, and what the run had spent by then.

    The smoothed metric is the mean of the last `window` steps. It looks at no later step and has no value before there
    are `window` of them, so a longer window never lets a run arrive on a single lucky step.

    Args:
        metric: (steps,), higher is better; turn the sign of a loss.
        seconds: (steps,), what each step spent, not cumulated; so `tokens`.
        target: in the unit of the metric.
        window: steps that are averaged, between 1 and the number of steps.
    """
    values, cost, count = (np.asarray(array, dtype=float) for array in (metric, seconds, tokens))
    smoothed = np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=1)
    reached = np.flatnonzero(smoothed >= target)
    spent = float(cost.sum()), float(count.sum())
    if not reached.size:
        return Arrival(math.inf, math.inf, math.inf, *spent)
    step = int(reached[0]) + window
    return Arrival(float(step), float(cost[:step].sum()), float(count[:step].sum()), *spent)


def median_ratio(ratios: ArrayLike, level: float) -> RatioBounds:
    """Median of ratios and its interval from order statistics (the sign test, inverted).

    With n ratios the interval is [r_(k), r_(n+1-k)] with the largest k for which 1 - 2 P(Binomial(n, 1/2) < k) is at
    least `level`; below 5 ratios none reaches 0.90. It holds for any distribution.

    Args:
        ratios: (pairs,), at least one, from 0 to infinity, both included; nan where it is undetermined.
        level: confidence of the two-sided interval.
    """
    array = np.asarray(ratios, dtype=float)
    undetermined = np.isnan(array)
    lowest, highest = (np.sort(np.where(undetermined, end, array)) for end in (0.0, np.inf))
    covered = 1 - 2 * stats.binom.cdf(np.arange(len(array) // 2), len(array), 0.5)
    rank = int(np.sum(covered >= level))
    low, high = (float(lowest[rank - 1]), float(highest[-rank])) if rank else (0.0, math.inf)
    return RatioBounds(float(np.median(lowest)), float(np.median(highest)), low, high, int(undetermined.sum()))


def median_above(ratios: ArrayLike, bound: float) -> float:
    """p-value of the one-sided sign test: small means that the median lies above `bound`.

    The interval of `median_ratio` at level L lies above `bound` where this is at most (1 - L) / 2. A ratio at the bound
    and an undetermined one (nan) count against it. Below a bound: of ratios and bound with their signs turned.
    """
    array = np.asarray(ratios, dtype=float)
    if bound == -math.inf:
        return 0.0
    # A comparison with nan is false.
    return float(stats.binom.cdf(len(array) - int(np.sum(array > bound)), len(array), 0.5))
