"""From one value per seed to a verdict on a claimed region, with its reason in plain words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groupppo.config.forms import Region
from groupppo.stats.intervals import (
    EXACT_LIMIT,
    Interval,
    holm,
    one_sided,
    paired_ratio,
    paired_t,
    sign_flip,
    tost,
)
from groupppo.stats.power import MOST_SEEDS, seeds_for_equivalence, seeds_for_interval, seeds_for_sign_flip
from groupppo.stats.targets import median_above, median_below, median_ratio
from groupppo.verdicts.claims import EQUIVALENCE, Claim, Claims
from groupppo.verdicts.finding import INCONCLUSIVE, REFUTED, SUPPORTED, Finding


@dataclass(frozen=True)
class _Evidence:
    """Values of one cell on the scale of inference (logarithms for ratios), and the region on the same scale."""

    scaled: np.ndarray
    region: Region
    interval: Interval

    @property
    def p_inside(self) -> float:
        """p-value against "the mean lies outside the region"."""
        if math.isfinite(self.region.low) and math.isfinite(self.region.high):
            return tost(self.scaled, self.region.low, self.region.high)
        return max(one_sided(self.scaled, self.region.low), one_sided(-self.scaled, -self.region.high))

    @property
    def p_outside(self) -> float:
        """p-value against "the mean lies inside the region"."""
        return min(one_sided(-self.scaled, -self.region.low), one_sided(self.scaled, self.region.high))


def judge(claim: Claim, claims: Claims, cells: Sequence[dict[int, float]], planned: Sequence[int]) -> list[Finding]:
    """The verdict of each cell (task, model): its interval inside the region, outside it, or neither.

    `supported` needs the interval at `claims.level` wholly inside `claim.region`, `refuted` wholly outside; for the
    rule `equivalence` the former is TOST. With several cells both must survive Holm's adjustment over the cells, each
    end at (1 - level) / 2. Never decided: fewer than two seeds, a planned seed without a value, and measurements that
    agree in every seed to the last digit (`Quantity.counted` says which may).

    Args:
        claim: the claim, not an identity.
        claims: gives level and power.
        cells: for each cell the value of every seed that has one.
        planned: for each cell the number of seeds that it should have.
    """
    if claim.measured.ordinal:
        return _judge_orders(claim, claims.level, cells, planned)
    evidence = [
        _evidence(claim, claims.level, values) if len(values) == count else None
        for values, count in zip(cells, planned, strict=True)
    ]
    found = [item for item in evidence if item]
    inside = iter(holm([item.p_inside for item in found]))
    outside = iter(holm([item.p_outside for item in found]))
    return [
        _conclude(claim, claims, item, next(inside), next(outside), len(found))
        if item
        else _undecided(claim, values, count)
        for item, values, count in zip(evidence, cells, planned, strict=True)
    ]


def _judge_orders(
    claim: Claim, level: float, cells: Sequence[dict[int, float]], planned: Sequence[int]
) -> list[Finding]:
    """Verdicts on ratios of costs that may be infinite, by the intervals of their medians from order statistics."""
    counted = list(zip(cells, planned, strict=True))
    complete = [np.array(list(values.values())) for values, count in counted if len(values) == count]
    low, high = claim.region.low, claim.region.high
    inside = iter(holm([max(median_above(ratios, low), median_below(ratios, high)) for ratios in complete]))
    outside = iter(holm([min(median_below(ratios, low), median_above(ratios, high)) for ratios in complete]))
    return [
        _conclude_order(claim, level, np.array(list(values.values())), next(inside), next(outside), len(complete))
        if len(values) == count
        else _undecided(claim, {seed: value for seed, value in values.items() if math.isfinite(value)}, count)
        for values, count in counted
    ]


def _conclude_order(
    claim: Claim, level: float, ratios: np.ndarray, inside: float, outside: float, cells: int
) -> Finding:
    bounds, alpha = median_ratio(ratios, level), (1 - level) / 2
    known = bounds.median_low if bounds.median_low == bounds.median_high else math.nan
    numbers = (_finite(known), _finite(bounds.low) if bounds.low else None, _finite(bounds.high), len(ratios))
    missed = f"; in {bounds.undetermined} both missed the target" if bounds.undetermined else ""
    median = f"{known:.3g}x" if not math.isnan(known) else "not determined"
    told = f"Median {median}, interval {bounds.low:.3g} to {bounds.high:.3g} over {len(ratios)} seeds{missed}"
    place = f"the region ({claim.region}, on the median{_held_to(cells)})"
    below = bounds.high < claim.region.high or math.isinf(claim.region.high)
    if claim.region.low < bounds.low and below and inside < alpha:
        return Finding(SUPPORTED, f"{told}: wholly inside {place}.", *numbers)
    if (bounds.high < claim.region.low or claim.region.high < bounds.low) and outside < alpha:
        return Finding(REFUTED, f"{told}: wholly outside {place}.", *numbers)
    # Holm asks the smallest of the p-values for alpha / cells.
    needed = seeds_for_sign_flip((1 - level) / cells)
    lacking = "have no interval at all" if cells == 1 else f"decide nothing over {cells} cells"
    few = f"; fewer than {needed} seeds {lacking}" if len(ratios) < needed else ""
    return Finding(
        INCONCLUSIVE,
        f"{told}: neither wholly inside nor wholly outside {place}{few}.",
        *numbers,
        needed if few else None,
    )


def _held_to(cells: int) -> str:
    return f"; Holm over {cells} cells" if cells > 1 else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summarise(claim: Claim, level: float, values: dict[int, float]) -> Interval | None:
    """The interval of the values of one cell; None with fewer than two, and where only their order counts."""
    if len(values) < 2 or claim.measured.ordinal:
        return None
    return (paired_ratio if claim.measured.ratio else paired_t)(list(values.values()), level)


def shown(interval: Interval) -> str:
    """Estimate and interval as text, such as "0.98 [0.91, 1.05]"."""
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _evidence(claim: Claim, level: float, values: dict[int, float]) -> _Evidence | None:
    interval = summarise(claim, level, values)
    if interval is None or (interval.spread == 0 and not claim.measured.counted):
        return None
    array, region = np.array(list(values.values())), claim.region
    if claim.measured.ratio:
        low, high = (math.log(end) if end > 0 else -math.inf for end in (region.low, region.high))
        return _Evidence(np.log(array), Region(low, high), interval)
    return _Evidence(array, region, interval)


def _undecided(claim: Claim, values: dict[int, float], planned: int) -> Finding:
    count = len(values)
    if count < planned:
        reason = f"Only {count} of {planned} seeds have a value; no verdict is drawn from the rest."
    elif count < 2:
        reason = f"{count} seed gives no spread over seeds, hence no interval; at least 2 are needed."
    else:
        reason = (
            f"All {count} seeds agree to the last digit: there is no spread to judge by; are they copies of one run?"
        )
    estimate = next(iter(values.values())) if count == planned else None
    return Finding(INCONCLUSIVE, reason, estimate, seeds=count)


def _conclude(claim: Claim, claims: Claims, item: _Evidence, inside: float, outside: float, cells: int) -> Finding:
    interval, region, alpha = item.interval, claim.region, (1 - claims.level) / 2
    numbers = (interval.estimate, interval.low, interval.high, interval.seeds)
    told = f"{shown(interval)} over {interval.seeds} seeds"
    place = f"the region ({region}{_held_to(cells)})"
    opinion = _second_opinion(item) if claim.rule == EQUIVALENCE else ""
    if region.low < interval.low and interval.high < region.high and inside < alpha:
        return Finding(SUPPORTED, f"{told} lies wholly inside {place}.{opinion}", *numbers)
    if (interval.high < region.low or region.high < interval.low) and outside < alpha:
        return Finding(REFUTED, f"{told} lies wholly outside {place}.{opinion}", *numbers)
    needed = _seeds_needed(claim, claims, item)
    many = f"about {needed}" if needed else f"more than {MOST_SEEDS:,}"
    decide = f"{many} seeds would decide it ({claims.power:.0%} power at this spread)"
    reason = f"{told} lies neither wholly inside nor wholly outside {place}; {decide}.{opinion}"
    return Finding(INCONCLUSIVE, reason, *numbers, needed)


def _second_opinion(item: _Evidence) -> str:
    text = f" TOST p = {item.p_inside:.2g}"
    if len(item.scaled) <= EXACT_LIMIT:
        least = 2.0 ** (1 - len(item.scaled))
        text += f"; sign-flip test of no difference p = {sign_flip(item.scaled):.2g} (cannot fall below {least:.2g})"
    return f"{text}."


def _seeds_needed(claim: Claim, claims: Claims, item: _Evidence) -> int | None:
    """Seeds for a decision at the spread seen, were the estimate the truth; None for more than `MOST_SEEDS`.

    Equivalence takes no fewer than arms without any difference would need, and that many where the estimate lies so
    near an end that no number would do.
    """
    spread, mean, region = item.interval.spread, float(item.scaled.mean()), item.region
    if spread == 0:
        return None
    needed = [seeds_for_interval(mean, spread, region.low, region.high, claims.level, claims.power)]
    if claim.rule == EQUIVALENCE and region.low < mean < region.high:
        needed.append(seeds_for_equivalence(spread, (region.high - region.low) / 2, claims.level, claims.power))
    known = [number for number in needed if number]
    return max([*known, item.interval.seeds + 1]) if known else None
