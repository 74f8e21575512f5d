"""How many training seeds would decide a claim: power of "the t interval lies inside a region", and its inverses.

With n paired differences of true mean mu and standard deviation sigma, sample mean and sample variance s^2 are
independent, and (n-1) s^2 / sigma^2 is chi-square with n-1 degrees of freedom. Given s the interval is inside
(low, high) when low + h < mean < high - h with h = t_{(1+level)/2, n-1} s / sqrt(n), so

    power = E_s [ Phi((high - h - mu) sqrt(n) / sigma) - Phi((low + h - mu) sqrt(n) / sigma) ]_+

integrated over the quantiles of s (Gauss-Legendre). For low = -margin, high = margin and mu = 0 this is the power of
TOST; for one infinite end it is the power of the one-sided t test.

Every number here takes the spread as known. One seen in three seeds may be 4.4 times as large in truth (upper end of
its chi-square interval at level 0.90), and a plan should hold at that end.
"""

import math
from functools import cache

import numpy as np
from scipy import stats

MOST_SEEDS = 1000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)


def power_inside(mean: float, spread: float, low: float, high: float, seeds: int, level: float) -> float:
    """Probability that the t interval of `seeds` paired differences, at least 2, lies wholly inside (low, high).

    Args:
        mean: true mean of the differences.
        spread: true standard deviation of the differences, above zero.
        low: lower end of the region; it and the upper one may be infinite.
        high: upper end.
        level: confidence of the two-sided interval.
    """
    degrees = seeds - 1
    half = stats.t.ppf((1 + level) / 2, degrees) * spread * _spreads(degrees) / math.sqrt(seeds)
    error = spread / math.sqrt(seeds)
    inside = stats.norm.cdf((high - half - mean) / error) - stats.norm.cdf((low + half - mean) / error)
    return float(_WEIGHTS / 2 @ np.clip(inside, 0.0, None))


@cache
def _spreads(degrees: int) -> np.ndarray:
    """Sample standard deviations over the true one at the nodes. Claims by the hundred ask for the same thousand."""
    return np.sqrt(stats.chi2.ppf((_NODES + 1) / 2, degrees) / degrees)


def seeds_for_equivalence(spread: float, margin: float, level: float, power: float) -> int | None:
    """Smallest number of seeds with which TOST at `margin` succeeds with probability `power` when nothing differs.

    `spread` is the standard deviation of the paired differences, in the unit of `margin`; None: more than 1,000 seeds.
    """
    return seeds_for_interval(0.0, spread, -margin, margin, level, power)


def seeds_for_interval(mean: float, spread: float, low: float, high: float, level: float, power: float) -> int | None:
    """Smallest number of seeds with which the interval falls wholly on one side, were `mean` and `spread` the truth.

    That is inside (low, high) for a mean inside it, and wholly beyond the nearer end for a mean outside. None: more
    than 1,000 seeds, as for a mean at an end of the region.
    """
    if mean <= low:
        low, high = -math.inf, low
    elif mean >= high:
        low, high = high, math.inf
    # One after another: below a power of one half, power need not rise with every seed.
    counts = range(2, MOST_SEEDS + 1)
    return next((seeds for seeds in counts if power_inside(mean, spread, low, high, seeds, level) >= power), None)


def seeds_for_sign_flip(alpha: float) -> int:
    """Fewest seeds with which the exact two-sided sign-flip test can fall to `alpha` at all: 2^(1-n) <= alpha.

    The interval of a median from order statistics, the sign test inverted, exists from the same number on, at level
    1 - alpha.
    """
    return math.ceil(1 - math.log2(alpha))
