"""Cost to a target, such as seconds or tokens until a reward is reached, when some runs never get there.

A run that misses the target costs infinity (Dahl et al. 2023, "Benchmarking neural network training algorithms"). An
infinite cost has an order and a rank, hence a median, a sign test and an interval from order statistics, but no mean
and no spread. Two infinite costs have no ratio and no order: such pairs are counted as undetermined, never dropped.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Arrival:
    """When a run first reached a target, infinite for a miss, and what the whole run spent.

    Args:
        steps: up to and with the step of the arrival.
        seconds: up to and with the step of the arrival.
        tokens: up to and with the step of the arrival.
        spent_seconds: of the whole run; a miss says nothing about what would have come after.
        spent_tokens: as `spent_seconds`.
    """

    steps: float
    seconds: float
    tokens: float
    spent_seconds: float
    spent_tokens: float


@dataclass(frozen=True)
class RatioBounds:
    """Median over pairs of first cost / second cost, with pairs that both missed as far down and up as they may lie.

    Args:
        median_low: the median with undetermined ratios at 0.
        median_high: the median with undetermined ratios at infinity.
        low: end of the interval from order statistics; 0 where the pairs are too few for the level.
        high: its other end; infinity where the pairs are too few for the level.
        coverage: what that interval covers at least, whatever the distribution; 1 for 0 to infinity.
        undetermined: pairs that both missed.
    """

    median_low: float
    median_high: float
    low: float
    high: float
    coverage: float
    undetermined: int


def time_to_target(metric: ArrayLike, seconds: ArrayLike, tokens: ArrayLike, target: float, window: int = 1) -> Arrival:
    """First step at which the metric, smoothed, is at or above the target, and what the run had spent by then.

    The smoothed metric is the mean of the last `window` steps. It looks at no later step and has no value before there
    are `window` of them, so a longer window never lets a run arrive on a single lucky step.

    Args:
        metric: (steps,), higher is better; turn the sign of a loss.
        seconds: (steps,), what each step spent, not cumulated.
        tokens: (steps,), what each step spent, not cumulated.
        target: in the unit of the metric.
        window: steps that are averaged.

    Raises:
        ValueError: arrays of different lengths, a value that is not finite, a cost below zero, a target that is not a
            number, or a window that is not between 1 and the number of steps.
    """
    values, cost, count = (_row(array) for array in (metric, seconds, tokens))
    if not len(values) == len(cost) == len(count):
        raise ValueError(f"{len(values)} metrics, {len(cost)} seconds and {len(count)} tokens: one of each per step")
    if np.any(cost < 0) or np.any(count < 0):
        raise ValueError("no step may spend less than nothing")
    if math.isnan(target) or not 1 <= window <= len(values):
        raise ValueError(f"target = {target} must be a number, window = {window} between 1 and {len(values)} steps")
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
        ratios: (pairs,), from 0 to infinity, both included; nan where it is undetermined.
        level: confidence of the two-sided interval.

    Raises:
        ValueError: no ratio, one below zero, or a level outside (0, 1).
    """
    array = np.asarray(ratios, dtype=float)
    if array.ndim != 1 or not array.size or np.any(array < 0):
        raise ValueError("ratios must lie from zero to infinity, in one dimension, at least one")
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must lie between 0 and 1")
    undetermined = np.isnan(array)
    lowest, highest = (np.sort(np.where(undetermined, end, array)) for end in (0.0, np.inf))
    covered = 1 - 2 * stats.binom.cdf(np.arange(len(array) // 2), len(array), 0.5)
    rank = int(np.sum(covered >= level))
    low, high, coverage = 0.0, math.inf, 1.0
    if rank:
        low, high, coverage = float(lowest[rank - 1]), float(highest[-rank]), float(covered[rank - 1])
    medians = float(np.median(lowest)), float(np.median(highest))
    return RatioBounds(*medians, low, high, coverage, int(undetermined.sum()))


def median_above(ratios: ArrayLike, bound: float) -> float:
    """p-value of the one-sided sign test: small means that the median lies above `bound`.

    The interval of `median_ratio` at level L lies above `bound` where this is at most (1 - L) / 2. A ratio at the bound
    and an undetermined one count against it.

    Args:
        ratios: (pairs,), from 0 to infinity; nan where it is undetermined.
    """
    array = np.asarray(ratios, dtype=float)
    if bound == -math.inf:
        return 0.0
    # A comparison with nan is false.
    return float(stats.binom.cdf(len(array) - int(np.sum(array > bound)), len(array), 0.5))


def median_below(ratios: ArrayLike, bound: float) -> float:
    """As `median_above`, for a median below `bound`."""
    array = np.asarray(ratios, dtype=float)
    if bound == math.inf:
        return 0.0
    return float(stats.binom.cdf(len(array) - int(np.sum(array < bound)), len(array), 0.5))


def _row(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size or not np.all(np.isfinite(array)):
        raise ValueError("metrics, seconds and tokens must be finite, in one dimension, at least one step")
    return array
