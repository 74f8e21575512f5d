"""Noise from test items beside noise from training seeds: how much of a spread more items would remove.

A held-out accuracy is a mean over n items. Write d_ki for the difference of two arms trained with seed k on item i:

    d_ki = delta + a_k + b_i + e_ki

a_k is what the training seed does, b_i what the item does to every seed alike, e_ki the rest (Searle, Casella and
McCulloch 1992, two-way crossed random effects). All seeds answer the same n items, so the variance over seeds of the
mean differences is var(a) + var(e) / n: more items shrink its second part, nothing but more seeds averages the first,
and b_i is not in it at all. What b_i adds to the mean is the choice of the item set, which no number of seeds removes.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class ItemNoise:
    """What the spread over seeds of a paired difference is made of. Standard deviations are in the unit of an item.

    Args:
        seeds: K.
        items: n.
        spread: sample standard deviation over seeds of the mean differences.
        item_noise: its part from items, sqrt(MS_residual / n).
        seed_noise: its part from seeds, sqrt(spread^2 - item_noise^2), 0 where that is negative.
        share: item_noise^2 / spread^2, at most 1: the share of the variance that items make.
        share_low: lower end of that share's interval at `level`, from the F ratio of the two mean squares.
        share_high: its upper end.
        level: confidence of the interval, two-sided.
        common: standard deviation of the overall mean from the choice of items; not part of `spread`.
    """

    seeds: int
    items: int
    spread: float
    item_noise: float
    seed_noise: float
    share: float
    share_low: float
    share_high: float
    level: float
    common: float

    def spread_with(self, items: float) -> float:
        """Expected spread over seeds with this many items in the place of `items`.

        Raises:
            ValueError: items not above zero.
        """
        if not items > 0:
            raise ValueError(f"items = {items} must be above zero")
        return math.hypot(self.seed_noise, self.item_noise * math.sqrt(self.items / items))


def split_spread(differences: ArrayLike, level: float) -> ItemNoise:
    """Split the spread over seeds of a paired difference into item noise and seed noise.

    Args:
        differences: shape (seeds, items); what the arm scored on the item - what the compared arm scored on it, both
            trained with that seed. 1, 0 or -1 where items are right or wrong; a mean over samples may be anything.
        level: confidence of the interval of the share. It is exact for normal residuals and large-sample otherwise.

    Raises:
        ValueError: fewer than two seeds or two items, a value that is not finite, or a level outside (0, 1).
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError(f"differences of shape {d.shape}: at least two seeds and two items are needed")
    if not np.all(np.isfinite(d)):
        raise ValueError("every difference must be finite")
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must lie between 0 and 1")
    seeds, items = d.shape
    by_seed, by_item = d.mean(axis=1), d.mean(axis=0)
    residuals = d - by_seed[:, None] - by_item + d.mean()
    degrees = (seeds - 1) * (items - 1)
    # Rounding leaves residuals of 1e-16 where there are none; a share made of them would be noise.
    least = 1e-24 * float(np.square(d).max())
    residual = _no_rounding(float(np.square(residuals).sum()) / degrees, least)
    over_seeds = _no_rounding(float(by_seed.var(ddof=1)), least)
    over_items = _no_rounding(float(by_item.var(ddof=1)), least)
    item_variance = residual / items
    low, high = _share_interval(item_variance, over_seeds, seeds - 1, degrees, level)
    return ItemNoise(
        seeds,
        items,
        spread=math.sqrt(over_seeds),
        item_noise=math.sqrt(item_variance),
        seed_noise=math.sqrt(max(0.0, over_seeds - item_variance)),
        share=_ratio(item_variance, over_seeds),
        share_low=low,
        share_high=high,
        level=level,
        common=math.sqrt(max(0.0, over_items - residual / seeds) / items),
    )


def _no_rounding(variance: float, least: float) -> float:
    return variance if variance > least else 0.0


def _ratio(item_variance: float, variance: float) -> float:
    if item_variance == 0:
        return 0.0
    return min(1.0, item_variance / variance) if variance else 1.0


def _share_interval(item_variance: float, variance: float, over: int, under: int, level: float) -> tuple[float, float]:
    """Ends of the share theta: theta MS_seeds / MS_residual has the F distribution with (`over`, `under`) degrees."""
    ends = stats.f.ppf([(1 - level) / 2, (1 + level) / 2], over, under)
    low, high = (_ratio(float(end) * item_variance, variance) for end in ends)
    return low, high
