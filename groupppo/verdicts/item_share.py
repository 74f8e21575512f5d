"""How much of an accuracy comparison's interval is item noise, and whether more items or more seeds would narrow it.

The interval covers training seeds: its half-width is t s / sqrt(K), and s holds both what seeds do and item noise
(`item_noise`). The choice of the items is not in it. For all items like these the two add in quadrature, as in
`engine.learning_gain`:

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
from groupppo.tables.schema import Keys
from groupppo.verdicts.item_scores import ItemScores
from groupppo.verdicts.quantities import Sample


@dataclass(frozen=True, kw_only=True)
class ItemShare:
    """Item noise in one comparison; half-widths are in the unit of the accuracy, at the level of the interval.

    Without scores by item there is a bound alone, that of two independent standard errors; what it does not say is
    None, and `why` says why.

    Args:
        items: held-out items, the same for every seed and arm.
        share: of the variance over seeds, the part that items make; where `bound` holds, at most that.
        half_width: of the interval over seeds.
        of_seeds: what would be left of it with endless items; where `bound` holds, at least that.
        of_choice: what the choice of the items adds, which the interval does not cover.
        together: half-width of both together; then the same with 2n items and with 2K seeds.
        more: what would narrow both together more, "items" or "seeds".
        reason: one to three sentences.
    """

    items: int
    share: float
    share_low: float | None = None
    share_high: float | None = None
    bound: bool
    half_width: float
    of_seeds: float
    of_choice: float | None = None
    together: float | None = None
    twice_items: float | None = None
    twice_seeds: float | None = None
    more: str | None = None
    why: str | None = None
    reason: str


def item_share(rows: pd.DataFrame, sample: Sample, interval: Interval, scores: ItemScores | None) -> ItemShare:
    """Item noise in the difference of two arms' accuracies.

    Args:
        rows: of the table `evals`, those of `sample`: one for each of its two arms and each of the interval's seeds.
        sample: what is compared.
        interval: the paired t interval of the differences; its spread is above zero.
        scores: by item; None where the results folder is not at hand.
    """
    runs = rows.set_index(["arm", "seed"]).sort_index()
    if scores is None:
        return _bound(runs, interval, "the scores by item are not at hand")
    try:
        arm, other = (
            np.stack(
                [
                    scores.of(Keys(sample.task, sample.model, arm, int(seed)), str(sample.metric), value)
                    for seed, value in runs.loc[arm, "value"].items()
                ]
            )
            for arm in (sample.arm, str(sample.against))
        )
        return _split(split_spread(arm - other, interval.level), interval)
    except BadInput as error:
        return _bound(runs, interval, f"{error.file}: {error.hint.rstrip('.')}")
    except ValueError as error:  # unequal numbers of items, or a single one
        return _bound(runs, interval, str(error))


def _split(noise: ItemNoise, interval: Interval) -> ItemShare:
    def over_seeds(seeds: int) -> float:
        """Half-width of an interval over this many seeds, by its spread."""
        return float(stats.t.ppf((1 + interval.level) / 2, seeds - 1)) / math.sqrt(seeds)

    def both(seeds: int, items: int) -> float:
        return math.hypot(over_seeds(seeds) * noise.spread_with(items), of_choice * math.sqrt(noise.items / items))

    seeds, items = noise.seeds, noise.items
    of_choice = float(stats.norm.ppf((1 + interval.level) / 2)) * noise.common
    half_width, of_seeds = over_seeds(seeds) * noise.spread, over_seeds(seeds) * noise.seed_noise
    together, twice_items, twice_seeds = both(seeds, items), both(seeds, 2 * items), both(2 * seeds, items)
    more = "items" if twice_items < twice_seeds else "seeds"
    return ItemShare(
        items=items,
        share=noise.share,
        share_low=noise.share_low,
        share_high=noise.share_high,
        bound=False,
        half_width=half_width,
        of_seeds=of_seeds,
        of_choice=of_choice,
        together=together,
        twice_items=twice_items,
        twice_seeds=twice_seeds,
        more=more,
        reason=(
            f"Items make {_percent(noise.share)} [{_percent(noise.share_low)}, {_percent(noise.share_high)}] of the "
            f"variance over seeds: endless items would narrow the interval from ±{half_width:.2g} to ±{of_seeds:.2g}. "
            f"The choice of these {items:,} items adds ±{of_choice:.2g}, which no seed averages out. More {more} would "
            f"help more: both together are ±{together:.2g}, ±{twice_seeds:.2g} with twice the seeds and "
            f"±{twice_items:.2g} with twice the items."
        ),
    )


def _bound(runs: pd.DataFrame, interval: Interval, why: str) -> ItemShare:
    """Arms that tend to be right on the same items have less item noise than two independent standard errors say."""
    variance = 2 * float(np.square(runs["stderr"]).mean())
    share, half_width = min(1.0, variance / interval.spread**2), (interval.high - interval.low) / 2
    return ItemShare(
        items=int(runs["n"].min()),
        share=share,
        bound=True,
        half_width=half_width,
        of_seeds=half_width * math.sqrt(1 - share),
        why=why,
        reason=(
            f"Items make at most {_percent(share)} of the variance over seeds, by the standard errors of the two arms. "
            f"Whether more items would help more than more seeds cannot be told: {why}."
        ),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
