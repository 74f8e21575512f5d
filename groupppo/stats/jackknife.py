"""Intervals of statistics that are not means: leave one response or one batch out at a time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.90


class Estimate(NamedTuple):
    """A statistic with its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    def within(self, least: float, most: float) -> "Estimate":
        """The same cut to the values that the quantity can have; an unbiased estimate of it may lie outside them."""
        value, low, high = (min(max(part, least), most) for part in self)
        return Estimate(value, low, high)


def jackknife(statistic: Callable[[np.ndarray], float], units: int, level: float = LEVEL) -> Estimate:
    """Value on all units with its delete-one t interval (Tukey, 1958; Efron and Stein, 1981).

    For a mean this is Student's t interval. Units must be independent: responses to different prompts, or batches.

    Args:
        statistic: from the numbers of the units kept, (k,) int, to a value. units: how many there are.
    """
    everything = np.arange(units)
    value = statistic(everything)
    if units < 2:
        return Estimate(value, float("nan"), float("nan"))
    left_out = np.array([statistic(np.delete(everything, unit)) for unit in everything])
    error = np.sqrt((units - 1) / units * np.square(left_out - left_out.mean()).sum())
    half = float(stats.t.ppf((1 + level) / 2, units - 1) * error)
    return Estimate(value, value - half, value + half)
