"""Intervals and tests over training seeds: paired t, ratios on the log scale, exact sign-flip, Holm; jackknife.

One value per seed goes in; a value is already a paired difference (or ratio) of two arms that share the seed.
Levels are two-sided: at level 0.90 each end of an interval is a one-sided test at 5 %, so "the 90 % interval lies
inside the margin" and "two one-sided tests (TOST) reject at 5 %" are one statement (Schuirmann 1987).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

EXACT_LIMIT = 20
"""Differences of which `sign_flip` counts all sign patterns, a million."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds (geometric for ratios) with its confidence interval.

    `spread` is the sample standard deviation of the values (ddof 1), of their logarithms for ratios.
    """

    estimate: float
    low: float
    high: float
    spread: float
    seeds: int
    level: float


def paired_t(differences: ArrayLike, level: float) -> Interval:
    """Student's t interval of the mean of paired differences, one per seed.

    With two seeds it has one degree of freedom and is 6.3 standard errors wide to each side at level 0.90; that is
    what two seeds know.

    Raises:
        ValueError: fewer than two differences (no spread, no interval), or one that is not finite.
    """
    values = _values(differences)
    mean, spread = float(values.mean()), _spread(values)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread / np.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, spread, len(values), level)


def paired_ratio(ratios: ArrayLike, level: float) -> Interval:
    """t interval of the geometric mean of paired ratios: `paired_t` of their logarithms, mapped back.

    Raises:
        ValueError: as `paired_t`, or a ratio that is not above zero.
    """
    values = _values(ratios)
    if np.any(values <= 0):
        raise ValueError("ratios must be above zero")
    logs = paired_t(np.log(values), level)
    estimate, low, high = (float(np.exp(end)) for end in (logs.estimate, logs.low, logs.high))
    return Interval(estimate, low, high, logs.spread, logs.seeds, level)


def one_sided(differences: ArrayLike, bound: float) -> float:
    """p-value of the one-sided paired t test: small means that the mean lies above `bound`.

    Raises:
        ValueError: fewer than two differences, or one that is not finite.
    """
    values = _values(differences)
    if np.isinf(bound):
        return 0.0 if bound < 0 else 1.0
    if _spread(values) == 0:
        return 0.0 if values.min() > bound else 1.0
    return float(stats.ttest_1samp(values, bound, alternative="greater").pvalue)


def sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip (randomisation) p-value that paired differences are symmetric about zero.

    All 2^n sign patterns are counted, so with n seeds it cannot fall below 2^(1-n): never below 5 % with fewer than 6.
    """
    values, sums = np.asarray(differences, dtype=float), np.zeros(1)
    for value in np.abs(values):
        sums = np.concatenate([sums + value, sums - value])
    # Patterns that tie with the observed one differ from it by rounding only.
    slack = 1e-12 * np.abs(values).sum()
    return float(np.mean(np.abs(sums) >= abs(values.sum()) - slack))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): compare each result with the level, and the family of tests keeps it.

    Needed where one verdict is drawn for each of several tasks. A claim of equivalence on all tasks together needs no
    adjustment: each task at the level is enough (intersection-union test, Berger 1982).
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return list(map(float, adjusted))


class Estimate(NamedTuple):
    """A statistic with its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    def within(self, least: float, most: float) -> "Estimate":
        """The same cut to the values that the quantity can have; an unbiased estimate of it may lie outside them."""
        return Estimate(*(min(max(part, least), most) for part in self))


def jackknife(statistic: Callable[[np.ndarray], float], units: int, level: float = 0.90) -> Estimate:
    """Value on all units with its delete-one t interval (Tukey, 1958; Efron and Stein, 1981).

    For a mean this is Student's t interval. Units must be independent: responses to different prompts, or batches.

    Args:
        statistic: from the numbers of the units kept, (k,) int, to a value.
        units: how many there are.
        level: confidence of the two-sided interval.
    """
    everything = np.arange(units)
    value = statistic(everything)
    if units < 2:
        return Estimate(value, float("nan"), float("nan"))
    left_out = np.array([statistic(np.delete(everything, unit)) for unit in everything])
    error = np.sqrt((units - 1) / units * np.square(left_out - left_out.mean()).sum())
    half = float(stats.t.ppf((1 + level) / 2, units - 1) * error)
    return Estimate(value, value - half, value + half)


def _values(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{array.size} values: at least 2 in one dimension are needed")
    if not np.all(np.isfinite(array)):
        raise ValueError("every value must be finite")
    return array


def _spread(values: np.ndarray) -> float:
    """Sample standard deviation; exactly 0 where values differ by rounding only."""
    return 0.0 if np.ptp(values) <= 1e-12 * np.abs(values).max() else float(values.std(ddof=1))
