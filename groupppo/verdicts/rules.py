"""From numbers to a verdict on a claimed region, with its reason in plain words.

`judge` decides from one value per seed, `judge_cost` from a profile, `judge_share` from a study's table. All three ask
the same: does the value, or its whole interval, lie inside the region, outside of it, or neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from groupppo.config.forms import Region
from groupppo.stats.intervals import EXACT_LIMIT, Interval, holm, one_sided, paired_ratio, paired_t, sign_flip, tost
from groupppo.stats.power import MOST_SEEDS, seeds_for_equivalence, seeds_for_interval, seeds_for_sign_flip
from groupppo.stats.targets import median_above, median_below, median_ratio
from groupppo.update.variants import MEASURED
from groupppo.verdicts.claims import EQUIVALENCE, Claim, Claims
from groupppo.verdicts.quantities import Cost, Share

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
IDENTITY, NOT_TESTABLE, NOT_MEASURABLE = "identity", "not testable", "not measurable here"
VERDICTS = (SUPPORTED, REFUTED, INCONCLUSIVE, IDENTITY, NOT_TESTABLE, NOT_MEASURABLE)
_ROUNDING = 1e-9
"""A p-value this close to the level, as a share of it, is the level: the interval's end is the region's."""
EVIDENCE_OF_DEVICE = {"cpu": "cpu", "cuda": "gpu"}


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on.

    Args:
        verdict: one of `VERDICTS`.
        reason: one or two sentences.
        estimate: of the quantity, in its unit; None where there is none.
        low: lower end of its interval, or None.
        high: upper end of its interval, or None.
        seeds: values that went in.
        seeds_needed: seeds that would decide an inconclusive claim; None where no number is known to.
        replicates: what stands in the place of seeds, such as "5 rounds"; empty where seeds are the unit.
        asked: False where the benchmark leaves out an arm, a study or a profile that the claim is about.
    """

    verdict: str
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    seeds_needed: int | None = None
    replicates: str = ""
    asked: bool = True


@dataclass(frozen=True)
class _Mean:
    """Values of one cell on the scale of inference (logarithms for ratios), judged by the t interval of their mean.

    `region` is on that scale, too; `interval` is in the quantity's unit.
    """

    scaled: np.ndarray
    region: Region
    interval: Interval

    @property
    def p_inside(self) -> float:
        """p-value against "the mean lies outside the region"."""
        if not self.region.low < self.region.high:  # ratios are above zero, whatever an end says
            return 1.0
        return tost(self.scaled, self.region.low, self.region.high)

    @property
    def p_outside(self) -> float:
        """p-value against "the mean lies inside the region"."""
        return min(one_sided(-self.scaled, -self.region.low), one_sided(self.scaled, self.region.high))

    def conclude(self, verdict: str, claim: Claim, claims: Claims, cells: int) -> Finding:
        interval = self.interval
        numbers = (interval.estimate, interval.low, interval.high, interval.seeds)
        measured = f"{shown(interval)} over {interval.seeds} seeds lies"
        place = f"the region ({claim.region}{_family(cells)})"
        opinion = self._second_opinion() if claim.rule == EQUIVALENCE else ""
        if verdict != INCONCLUSIVE:
            return Finding(verdict, f"{measured} wholly {_WHERE[verdict]} {place}.{opinion}", *numbers)
        needed = self._seeds_needed(claim, claims)
        many = f"about {needed}" if needed else f"more than {MOST_SEEDS:,}"
        decide = f"{many} seeds would decide it ({claims.power:.0%} power at this spread)"
        reason = f"{measured} neither wholly inside nor wholly outside {place}; {decide}.{opinion}"
        return Finding(verdict, reason, *numbers, needed)

    def _second_opinion(self) -> str:
        text = f" TOST p = {self.p_inside:.2g}"
        if len(self.scaled) <= EXACT_LIMIT:
            least = 2.0 ** (1 - len(self.scaled))
            p_value = sign_flip(self.scaled)
            text += f"; sign-flip test of no difference p = {p_value:.2g} (cannot fall below {least:.2g})"
        return f"{text}."

    def _seeds_needed(self, claim: Claim, claims: Claims) -> int | None:
        """Seeds for a decision at the spread seen, were the estimate the truth; None for more than `MOST_SEEDS`.

        Equivalence takes no fewer than arms without any difference would need, and that many where the estimate lies
        so near an end that no number would do.
        """
        spread, mean, region = self.interval.spread, float(self.scaled.mean()), self.region
        if spread == 0:
            return None
        needed = [seeds_for_interval(mean, spread, region.low, region.high, claims.level, claims.power)]
        if claim.rule == EQUIVALENCE and region.low < mean < region.high:
            needed.append(seeds_for_equivalence(spread, (region.high - region.low) / 2, claims.level, claims.power))
        known = [number for number in needed if number]
        return max([*known, self.interval.seeds + 1]) if known else None


@dataclass(frozen=True)
class _Median:
    """Ratios of costs that may be infinite, judged by the interval of their median from order statistics."""

    ratios: np.ndarray
    region: Region

    @property
    def p_inside(self) -> float:
        return max(median_above(self.ratios, self.region.low), median_below(self.ratios, self.region.high))

    @property
    def p_outside(self) -> float:
        return min(median_below(self.ratios, self.region.low), median_above(self.ratios, self.region.high))

    def conclude(self, verdict: str, claim: Claim, claims: Claims, cells: int) -> Finding:
        bounds, seeds = median_ratio(self.ratios, claims.level), len(self.ratios)
        known = bounds.median_low if bounds.median_low == bounds.median_high else math.nan
        numbers = (_finite(known), _finite(bounds.low) if bounds.low else None, _finite(bounds.high), seeds)
        missed = f"; in {bounds.undetermined} both missed the target" if bounds.undetermined else ""
        median = f"{known:.3g}x" if not math.isnan(known) else "not determined"
        measured = f"Median {median}, interval {bounds.low:.3g} to {bounds.high:.3g} over {seeds} seeds{missed}"
        place = f"the region ({self.region}, on the median{_family(cells)})"
        if verdict != INCONCLUSIVE:
            return Finding(verdict, f"{measured}: wholly {_WHERE[verdict]} {place}.", *numbers)
        # Holm asks the smallest of the p-values for alpha / cells.
        needed = seeds_for_sign_flip((1 - claims.level) / cells)
        lacking = "have no interval at all" if cells == 1 else f"decide nothing over {cells} cells"
        few = f"; fewer than {needed} seeds {lacking}" if seeds < needed else ""
        reason = f"{measured}: neither wholly inside nor wholly outside {place}{few}."
        return Finding(verdict, reason, *numbers, needed if few else None)


_WHERE = {SUPPORTED: "inside", REFUTED: "outside"}


def judge(claim: Claim, claims: Claims, cells: Sequence[dict[int, float]], planned: Sequence[int]) -> list[Finding]:
    """The verdict of each cell (task, model): its interval inside the region, outside it, or neither.

    `supported` needs the interval at `claims.level` wholly inside `claim.region`, `refuted` wholly outside. Both are
    asked as one-sided tests, each end at (1 - level) / 2, which say the same (for the rule `equivalence`, TOST) and
    with several cells must survive Holm's adjustment over them. Never decided: fewer than two seeds, a planned seed
    without a value, and measurements that agree in every seed to the last digit (`Quantity.counted` says which may).

    Args:
        claim: the claim, not an identity.
        claims: gives level and power.
        cells: for each cell the value of every seed that has one.
        planned: for each cell the number of seeds that it should have.
    """
    evidence = [
        _evidence(claim, claims.level, values) if len(values) == count else None
        for values, count in zip(cells, planned, strict=True)
    ]
    complete = [item for item in evidence if item]
    inside, outside = (iter(holm([getattr(item, p) for item in complete])) for p in ("p_inside", "p_outside"))
    alpha, findings = (1 - claims.level) / 2 * (1 - _ROUNDING), []
    for item, values, count in zip(evidence, cells, planned, strict=True):
        if item is None:
            findings.append(_undecided(values, count))
            continue
        supported, refuted = next(inside) < alpha, next(outside) < alpha
        verdict = SUPPORTED if supported else REFUTED if refuted else INCONCLUSIVE
        findings.append(item.conclude(verdict, claim, claims, len(complete)))
    return findings


def summarise(claim: Claim, level: float, values: dict[int, float]) -> Interval | None:
    """The interval of the values of one cell; None with fewer than two, and where only their order counts."""
    if len(values) < 2 or claim.measured.ordinal:
        return None
    return (paired_ratio if claim.measured.ratio else paired_t)(list(values.values()), level)


def shown(interval: Interval) -> str:
    """Estimate and interval as text, such as "0.98 [0.91, 1.05]"."""
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _evidence(claim: Claim, level: float, values: dict[int, float]) -> _Mean | _Median | None:
    array, region = np.array(list(values.values())), claim.region
    if claim.measured.ordinal:
        return _Median(array, region)
    interval = summarise(claim, level, values)
    if interval is None or (interval.spread == 0 and not claim.measured.counted):
        return None
    if claim.measured.ratio:
        low, high = (math.log(end) if end > 0 else -math.inf for end in (region.low, region.high))
        return _Mean(np.log(array), Region(low, high), interval)
    return _Mean(array, region, interval)


def _undecided(values: dict[int, float], planned: int) -> Finding:
    finite = [value for value in values.values() if math.isfinite(value)]
    count = len(finite)
    if count < planned:
        reason = f"Only {count} of {planned} seeds have a value; no verdict is drawn from the rest."
    elif count < 2:
        reason = f"{count} seed gives no spread over seeds, hence no interval; at least 2 are needed."
    else:
        reason = (
            f"All {count} seeds agree to the last digit: there is no spread to judge by; are they copies of one run?"
        )
    return Finding(INCONCLUSIVE, reason, finite[0] if count == planned else None, seeds=count)


def _family(cells: int) -> str:
    return f"; Holm over {cells} cells" if cells > 1 else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def judge_cost(claim: Claim, cost: Cost, variants: pd.DataFrame | None) -> Finding:
    """The verdict on one number of a profile; of seconds the unit of replication is the round.

    Args:
        claim: names setting and variant.
        cost: the number.
        variants: the profile's table; None where the benchmark names no profile.

    Returns:
        `supported` or `refuted` where the number, or its whole interval, lies inside or outside the claim's region;
        `inconclusive` where the interval crosses an end; `not testable` where the profile lacks the variant or could
        not run it; `not measurable here` for a number of a device that the claim does not accept.
    """
    if variants is None:
        return Finding(NOT_TESTABLE, "This benchmark names no profile of an update's cost.", asked=False)
    rows, region = variants.query(claim.variant_rows, engine="python"), claim.region
    if rows.empty:
        return Finding(NOT_TESTABLE, f"The profile has no variant {claim.variant} in a setting {claim.setting}.")
    row = rows.iloc[0]
    if row["status"] != MEASURED:
        return Finding(NOT_TESTABLE, f"{row['title']}: {row['status']}, {row['reason']}.")
    value = float(row[cost.column])
    low, high = (float(row[f"{cost.column}_{end}"]) for end in ("low", "high")) if cost.timed else (value, value)
    if not all(math.isfinite(number) for number in (value, low, high)):
        return Finding(NOT_TESTABLE, f"The profile has no {cost.column} of {row['title']}.")
    rounds = int(row["rounds"])
    measured = f"{value:.3g}x [{low:.3g}, {high:.3g}] over {rounds} rounds" if cost.timed else f"{value:.3g}x"
    kind = EVIDENCE_OF_DEVICE[row["device"]]
    if kind not in claim.evidence and not cost.counted:
        names = " or ".join(claim.evidence).upper()
        reason = f"The claim takes evidence from a {names}; the profile, measured on a {kind.upper()}, has {measured}."
        return Finding(NOT_MEASURABLE, f"{reason} It does not decide it.")
    verdict, place, more = INCONCLUSIVE, "neither inside nor outside", "; more rounds would narrow it"
    if region.low < low and high < region.high:
        verdict, place, more = SUPPORTED, "inside", ""
    elif high < region.low or region.high < low:
        verdict, place, more = REFUTED, "outside", ""
    replicates = f"{rounds} rounds" if cost.timed else "counted" if cost.counted else "read once"
    finding = Finding(verdict, f"{measured} lies {place} the region ({region}){more}.", value, replicates=replicates)
    return replace(finding, low=low, high=high) if cost.timed else finding


def judge_share(share: Share, region: Region, table: pd.DataFrame | None) -> Finding:
    """The verdict on one task and model by a study's table, whose rows are counted.

    No training seed enters and nothing is sampled: the study does every case that its table names. So there is no
    interval, and an end of the region belongs to it: of a claim "always" that is 1, one exception refutes it.

    Args:
        share: what is counted.
        region: the claimed region widened by the margin.
        table: the study's; None where the benchmark does not ask for the study.

    Returns:
        `supported` or `refuted` where the share lies inside or outside the region; `not testable` without rows.
    """
    if table is None:
        return Finding(NOT_TESTABLE, f"This benchmark does not ask for the study {share.study}.", asked=False)
    rows = table.query(share.rows, engine="python")
    if rows.empty:
        return Finding(NOT_TESTABLE, f"The study {share.study} has no {share.cases}.")
    held = rows[share.column].isin((True,))  # a word is not true
    value = float(held.mean())
    counted = f"{int(held.sum())} of {len(rows)} {share.cases}"
    verdict = SUPPORTED if region.low <= value <= region.high else REFUTED
    exceptions = [" ".join(row) for row in rows.loc[~held, list(share.label)].itertuples(index=False)]
    listed = f" Not: {', '.join(exceptions)}." if exceptions else ""
    reason = f"{counted}, {value:.3g}, lies {_WHERE[verdict]} the region ({region}).{listed}"
    return Finding(verdict, reason, value, replicates=counted)
