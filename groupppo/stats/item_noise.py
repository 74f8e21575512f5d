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
        spread: sample standard deviation over seeds of the mean differences.
        item_noise: its part from items, sqrt(MS_residual / n).
        seed_noise: its part from seeds, sqrt(spread^2 - item_noise^2), 0 where that is negative.
        share: item_noise^2 / spread^2, at most 1: the share of the variance that items make; with its interval.
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
    common: float

    def spread_with(self, items: float) -> float:
        """Expected spread over seeds with this many items in the place of `items`."""
        return math.hypot(self.seed_noise, self.item_noise * math.sqrt(self.items / items))


def split_spread(differences: ArrayLike, level: float) -> ItemNoise:
    """Split the spread over seeds of a paired difference into item noise and seed noise.

    Args:
        differences: shape (seeds, items); what the arm scored on the item - what the compared arm scored on it, both
            trained with that seed. 1, 0 or -1 where items are right or wrong; a mean over samples may be anything.
        level: confidence of the interval of the share, from the F distribution of the ratio of the mean squares over
            seeds and of residuals. It is exact for normal residuals and large-sample otherwise.

    Raises:
        ValueError: fewer than two seeds or two items, or a value that is not finite.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError(f"differences of shape {d.shape}: at least two seeds and two items are needed")
    if not np.all(np.isfinite(d)):
        raise ValueError("every difference must be finite")
    seeds, items = d.shape
    by_seed, by_item = d.mean(axis=1), d.mean(axis=0)
    residuals = d - by_seed[:, None] - by_item + d.mean()
    degrees = (seeds - 1) * (items - 1)
    variances = float(np.square(residuals).sum()) / degrees, float(by_seed.var(ddof=1)), float(by_item.var(ddof=1))
    # Rounding leaves residuals of 1e-16 where there are none; a share made of them would be noise.
    least = 1e-24 * float(np.square(d).max())
    residual, over_seeds, over_items = (variance if variance > least else 0.0 for variance in variances)
    item_variance = residual / items

    def share(factor: float) -> float:
        part = factor * item_variance
        return min(1.0, part / over_seeds) if part and over_seeds else float(part > 0)

    low, high = (float(end) for end in stats.f.ppf([(1 - level) / 2, (1 + level) / 2], seeds - 1, degrees))
    return ItemNoise(
        seeds,
        items,
        spread=math.sqrt(over_seeds),
        item_noise=math.sqrt(item_variance),
        seed_noise=math.sqrt(max(0.0, over_seeds - item_variance)),
        share=share(1.0),
        share_low=share(low),
        share_high=share(high),
        common=math.sqrt(max(0.0, over_items - residual / seeds) / items),
    )
