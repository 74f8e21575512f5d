"""How much of an accuracy comparison's interval is item noise, and whether more items or more seeds would narrow it.

The interval covers training seeds: its half-width is t s / sqrt(K), and s holds both what seeds do and item noise
(`item_noise`). The choice of the items is not in it. For all items like these the two add in quadrature, as in
`assay.learning_gain`:

    h(K, n) = sqrt( t_{K-1}^2 (var(a) + var(e) / n) / K  +  z^2 var(b) / n )

More items help more than more seeds where h(K, 2n) < h(2K, n).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from groupppo.errors import BadInput
from groupppo.stats.intervals import Interval
from groupppo.stats.item_noise import ItemNoise, split_spread
from groupppo.tables.keys import Keys
from groupppo.verdicts.item_scores import ItemScores
from groupppo.verdicts.quantities import Sample

ITEMS, SEEDS = "items", "seeds"


@dataclass(frozen=True)
class ItemShare:
    """Item noise in one comparison; half-widths are in the unit of the accuracy, at the level of the interval.

    Args:
        items: held-out items, the same for every seed and arm.
        share: of the variance over seeds, the part that items make; where `bound` holds, at most that.
        share_low, share_high: interval of the share; None for a bound.
        bound: whether `share` is the bound that two independent standard errors give, because there are no scores by
            item.
        half_width: of the interval over seeds.
        of_seeds: what would be left of it with endless items; where `bound` holds, at least that.
        of_choice: what the choice of the items adds, which the interval does not cover; None for a bound.
        together, twice_items, twice_seeds: half-width of both together, now, with 2n items, with 2K seeds; None for a
            bound.
        more: what would narrow both together more, "items" or "seeds"; None for a bound.
        why: there is only a bound; None where there is more.
        reason: one to three sentences.
    """

    items: int
    share: float
    share_low: float | None
    share_high: float | None
    bound: bool
    half_width: float
    of_seeds: float
    of_choice: float | None
    together: float | None
    twice_items: float | None
    twice_seeds: float | None
    more: str | None
    why: str | None
    reason: str


def item_share(rows: pd.DataFrame, sample: Sample, interval: Interval, scores: ItemScores | None) -> ItemShare:
    """Item noise in the difference of two arms' accuracies.

    Args:
        rows: of the table `evals`, those of `sample`: one for each of its two arms and each of the interval's seeds.
        interval: the paired t interval of the differences; its spread is above zero.
        scores: by item; None where the results folder is not at hand.
    """
    runs = rows.set_index(["arm", "seed"]).sort_index()
    if scores is None:
        return _bound(runs, interval, "the scores by item are not at hand")
    try:
        return _split(split_spread(_differences(runs, sample, scores), interval.level), interval)
    except BadInput as error:
        return _bound(runs, interval, f"{error.file}: {error.hint.rstrip('.')}")
    except ValueError as error:  # unequal numbers of items, or a single one
        return _bound(runs, interval, str(error))


def _differences(runs: pd.DataFrame, sample: Sample, scores: ItemScores) -> np.ndarray:
    arms = []
    for arm in (sample.arm, str(sample.against)):
        of_seeds = runs.loc[arm, "value"]
        keys = {seed: Keys(sample.task, sample.model, arm, int(seed)) for seed in of_seeds.index}
        arms.append(np.stack([scores.of(keys[seed], str(sample.metric), of_seeds[seed]) for seed in of_seeds.index]))
    return np.asarray(arms[0] - arms[1])


def _split(noise: ItemNoise, interval: Interval) -> ItemShare:
    seeds = noise.seeds
    over_seeds = _t(interval.level, seeds) / math.sqrt(seeds)
    z = float(stats.norm.ppf((1 + interval.level) / 2))
    of_choice = z * noise.common
    together, twice_items, twice_seeds = (
        math.hypot(_t(interval.level, k) * noise.spread_with(n) / math.sqrt(k), of_choice * math.sqrt(noise.items / n))
        for k, n in ((seeds, noise.items), (seeds, 2 * noise.items), (2 * seeds, noise.items))
    )
    more = ITEMS if twice_items < twice_seeds else SEEDS
    ends = f"[{_percent(noise.share_low)}, {_percent(noise.share_high)}]"
    reason = (
        f"Items make {_percent(noise.share)} {ends} of the variance over seeds: endless items would narrow the "
        f"interval from ±{over_seeds * noise.spread:.2g} to ±{over_seeds * noise.seed_noise:.2g}. The choice of these "
        f"{noise.items:,} items adds ±{of_choice:.2g}, which no seed averages out. More {more} would help more: both "
        f"together are ±{together:.2g}, ±{twice_seeds:.2g} with twice the seeds and "
        f"±{twice_items:.2g} with twice the items."
    )
    return ItemShare(
        items=noise.items,
        share=noise.share,
        share_low=noise.share_low,
        share_high=noise.share_high,
        bound=False,
        half_width=over_seeds * noise.spread,
        of_seeds=over_seeds * noise.seed_noise,
        of_choice=of_choice,
        together=together,
        twice_items=twice_items,
        twice_seeds=twice_seeds,
        more=more,
        why=None,
        reason=reason,
    )


def _bound(runs: pd.DataFrame, interval: Interval, why: str) -> ItemShare:
    """Arms that tend to be right on the same items have less item noise than two independent standard errors say."""
    variance = 2 * float(np.square(runs["stderr"]).mean())
    share = min(1.0, variance / interval.spread**2)
    half_width = (interval.high - interval.low) / 2
    reason = (
        f"Items make at most {_percent(share)} of the variance over seeds, by the standard errors of the two arms. "
        f"Whether more items would help more than more seeds cannot be told: {why}."
    )
    return ItemShare(
        items=int(runs["n"].min()),
        share=share,
        share_low=None,
        share_high=None,
        bound=True,
        half_width=half_width,
        of_seeds=half_width * math.sqrt(1 - share),
        of_choice=None,
        together=None,
        twice_items=None,
        twice_seeds=None,
        more=None,
        why=why,
        reason=reason,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _t(level: float, seeds: int) -> float:
    return float(stats.t.ppf((1 + level) / 2, seeds - 1))
