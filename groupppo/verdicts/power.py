"""How many training seeds would decide a claim: power of "the t interval lies wholly inside a region".

With n paired differences of true mean mu and standard deviation sigma, sample mean and sample variance s^2 are
independent, and (n-1) s^2 / sigma^2 is chi-square with n-1 degrees of freedom. Given s the interval is inside
(low, high) when low + h < mean < high - h with h = t_{(1+level)/2, n-1} s / sqrt(n), so

    power = E_s [ Phi((high - h - mu) sqrt(n) / sigma) - Phi((low + h - mu) sqrt(n) / sigma) ]_+

integrated over the quantiles of s (Gauss-Legendre). For low = -margin, high = margin and mu = 0 this is the power of
TOST; for one infinite end it is the power of the one-sided t test.
"""

import math

import numpy as np
from scipy import stats

MOST_SEEDS = 1000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)


def power_inside(mean: float, spread: float, low: float, high: float, seeds: int, level: float) -> float:
    """Probability that the t interval of `seeds` paired differences lies wholly inside (low, high).

    Args:
        mean, spread: true mean and standard deviation of the differences; spread above zero.
        low, high: the region; either may be infinite.
        seeds: number of differences, at least 2.
        level: confidence of the two-sided interval.
    """
    degrees = seeds - 1
    s = spread * np.sqrt(stats.chi2.ppf((_NODES + 1) / 2, degrees) / degrees)
    half = stats.t.ppf((1 + level) / 2, degrees) * s / math.sqrt(seeds)
    error = spread / math.sqrt(seeds)
    inside = stats.norm.cdf((high - half - mean) / error) - stats.norm.cdf((low + half - mean) / error)
    return float(_WEIGHTS / 2 @ np.clip(inside, 0.0, None))


def seeds_for_equivalence(spread: float, margin: float, level: float, power: float) -> int | None:
    """Smallest number of seeds with which TOST at `margin` succeeds with probability `power` when nothing differs.

    `spread` is the standard deviation of the paired differences, in the unit of `margin`; None: more than 1,000 seeds.

    Raises:
        ValueError: spread or margin not above zero.
    """
    if spread <= 0 or margin <= 0:
        raise ValueError(f"spread = {spread} and margin = {margin} must be above zero")
    return _fewest(0.0, spread, -margin, margin, level, power)


def seeds_for_interval(mean: float, spread: float, low: float, high: float, level: float, power: float) -> int | None:
    """Smallest number of seeds with which the interval falls wholly on one side, were `mean` and `spread` the truth.

    That is inside (low, high) for a mean inside it, and wholly beyond the nearer end for a mean outside. None: more
    than 1,000 seeds, as for a mean at an end of the region.

    Raises:
        ValueError: spread not above zero.
    """
    if spread <= 0:
        raise ValueError(f"spread = {spread} must be above zero")
    if mean <= low:
        low, high = -math.inf, low
    elif mean >= high:
        low, high = high, math.inf
    return _fewest(mean, spread, low, high, level, power)


def _fewest(mean: float, spread: float, low: float, high: float, level: float, power: float) -> int | None:
    few, enough = 1, 2
    while power_inside(mean, spread, low, high, enough, level) < power:
        if enough == MOST_SEEDS:
            return None
        few, enough = enough, min(2 * enough, MOST_SEEDS)
    while enough - few > 1:
        middle = (few + enough) // 2
        if power_inside(mean, spread, low, high, middle, level) < power:
            few = middle
        else:
            enough = middle
    return enough
