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
        seeds, items: K and n.
        spread: sample standard deviation over seeds of the mean differences.
        item_noise: its part from items, sqrt(MS_residual / n).
        seed_noise: its part from seeds, sqrt(spread^2 - item_noise^2), 0 where that is negative.
        share: item_noise^2 / spread^2, at most 1: the share of the variance that items make.
        share_low, share_high: interval of that share at `level`, from the F ratio of the two mean squares.
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

    def items_for(self, spread: float) -> float:
        """Fewest items with which the spread is expected to fall to `spread`; infinite where seeds alone make more.

        Raises:
            ValueError: spread not above zero.
        """
        if not spread > 0:
            raise ValueError(f"spread = {spread} must be above zero")
        room = spread**2 - self.seed_noise**2
        # A target that the seeds make to the last digit is out of reach; rounding must not turn it into 10^16 items.
        if room <= 1e-12 * spread**2:
            return math.inf
        return float(max(1, math.ceil(self.items * self.item_noise**2 / room - 1e-9)))

    @property
    def items_to_halve(self) -> float:
        """Fewest items with which the spread would be half of what it is; infinite where seeds make half or more.

        Where all of it is item noise that is 4 n.
        """
        now = self.spread_with(self.items)
        return self.items_for(now / 2) if now > 0 else math.inf


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


def accuracy_stderr(accuracy: float, items: int) -> float:
    """Binomial standard error sqrt(p (1 - p) / n) of one accuracy over n items drawn at random.

    Raises:
        ValueError: an accuracy outside [0, 1], or no item.
    """
    return difference_stderr(accuracy, 0.0, items)


def difference_stderr(first: float, second: float, items: int, disagreement: float | None = None) -> float:
    """Standard error over items of the difference of two accuracies.

    On the same items it is sqrt((disagreement - (first - second)^2) / n), the variance behind McNemar's test. With the
    disagreement unknown the two count as independent, sqrt((p (1 - p) + q (1 - q)) / n): for arms that tend to be right
    on the same items that is too much, hence an upper bound on the item noise in a spread over seeds.

    Args:
        first, second: accuracies in [0, 1].
        items: n.
        disagreement: share of items on which exactly one of the two is right.

    Raises:
        ValueError: an accuracy outside [0, 1], no item, or a disagreement that the two accuracies cannot have.
    """
    if not (0 <= first <= 1 and 0 <= second <= 1) or items < 1:
        raise ValueError(f"accuracies {first} and {second} must lie in [0, 1] and items = {items} be at least 1")
    if disagreement is None:
        return math.sqrt((first * (1 - first) + second * (1 - second)) / items)
    gap = first - second
    if not abs(gap) - 1e-12 <= disagreement <= min(first + second, 2 - first - second) + 1e-12:
        raise ValueError(f"accuracies {first} and {second} cannot disagree on a share of {disagreement} of the items")
    return math.sqrt(max(0.0, disagreement - gap**2) / items)


@dataclass(frozen=True)
class ItemComparison:
    """Two checkpoints on the same items.

    Args:
        difference: accuracy of the first - of the second.
        stderr: its standard error over items.
        only_first, only_second: items that only one of the two has right.
        p_value: exact McNemar test that the two are equally likely to be the right one.
    """

    difference: float
    stderr: float
    only_first: int
    only_second: int
    p_value: float


def compare_items(first: ArrayLike, second: ArrayLike) -> ItemComparison:
    """Compare two checkpoints item by item. It tells checkpoints apart, not algorithms: those need several seeds.

    Args:
        first, second: shape (items,), true or 1 where the answer is right; the same items in the same order.

    Raises:
        ValueError: other shapes, no item, or a value other than 0 and 1.
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ValueError(f"shapes {x.shape} and {y.shape}: both need one value for each of the same items")
    if not np.all(np.isin(np.concatenate([x, y]), (0, 1))):
        raise ValueError("every value must be 0 or 1")
    only_first, only_second = int(np.sum(x > y)), int(np.sum(x < y))
    unlike = only_first + only_second
    stderr = difference_stderr(float(x.mean()), float(y.mean()), x.size, unlike / x.size)
    p_value = float(stats.binomtest(only_first, unlike).pvalue) if unlike else 1.0
    return ItemComparison((only_first - only_second) / x.size, stderr, only_first, only_second, p_value)


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
