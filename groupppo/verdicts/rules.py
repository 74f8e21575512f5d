"""From numbers to a verdict on a claimed region, with its reason in plain words.

`judge` decides from one value per seed, `judge_cost` from a profile, `judge_share` from a study's table. All three ask
the same: does the value, or its whole interval, lie inside the region, outside of it, or neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from groupppo.config.forms import Region
from groupppo.stats.intervals import EXACT_LIMIT, Interval, holm, one_sided, paired_ratio, paired_t, sign_flip
from groupppo.stats.power import MOST_SEEDS, seeds_for_equivalence, seeds_for_interval, seeds_for_sign_flip
from groupppo.stats.targets import median_above, median_ratio
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


_WHERE = {
    SUPPORTED: "wholly inside",
    REFUTED: "wholly outside",
    INCONCLUSIVE: "neither wholly inside nor wholly outside",
}


@dataclass(frozen=True)
class _Evidence:
    """Values of one cell and the region, both on the scale of inference: logarithms for ratios.

    `interval` is in the quantity's unit; None for ratios of costs that may be infinite, which are judged by their
    median.
    """

    values: np.ndarray
    region: Region
    interval: Interval | None

    def p_values(self) -> tuple[float, float]:
        """Of one-sided tests at the ends: against "it lies outside the region", and against "it lies inside"."""
        above = one_sided if self.interval else median_above
        low, high = self.region.low, self.region.high
        outside = min(above(-self.values, -low), above(self.values, high))
        if not low < high:  # ratios are above zero, whatever an end says
            return 1.0, outside
        return max(above(self.values, low), above(-self.values, -high)), outside


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
    pairs = [item.p_values() for item in evidence if item]
    adjusted = zip(*(holm([pair[end] for pair in pairs]) for end in (0, 1)), strict=True)
    alpha, findings = (1 - claims.level) / 2 * (1 - _ROUNDING), []
    for item, values, count in zip(evidence, cells, planned, strict=True):
        if item is None:
            findings.append(_undecided(values, count))
            continue
        inside, outside = next(adjusted)
        verdict = SUPPORTED if inside < alpha else REFUTED if outside < alpha else INCONCLUSIVE
        family = f"; Holm over {len(pairs)} cells" if len(pairs) > 1 else ""
        if item.interval:
            findings.append(_of_mean(item, item.interval, verdict, claim, claims, family))
        else:
            findings.append(_of_median(item, verdict, claims.level, len(pairs), family))
    return findings


def summarise(claim: Claim, level: float, values: dict[int, float]) -> Interval | None:
    """The interval of the values of one cell; None with fewer than two, and where only their order counts."""
    if len(values) < 2 or claim.measured.ordinal:
        return None
    return (paired_ratio if claim.measured.ratio else paired_t)(list(values.values()), level)


def shown(interval: Interval) -> str:
    """Estimate and interval as text, such as "0.98 [0.91, 1.05]"."""
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _evidence(claim: Claim, level: float, values: dict[int, float]) -> _Evidence | None:
    array, region = np.array(list(values.values())), claim.region
    if claim.measured.ordinal:
        return _Evidence(array, region, None)
    interval = summarise(claim, level, values)
    if interval is None or (interval.spread == 0 and not claim.measured.counted):
        return None
    if not claim.measured.ratio:
        return _Evidence(array, region, interval)
    low, high = (math.log(end) if end > 0 else -math.inf for end in (region.low, region.high))
    return _Evidence(np.log(array), Region(low, high), interval)


def _of_mean(item: _Evidence, interval: Interval, verdict: str, claim: Claim, claims: Claims, family: str) -> Finding:
    """By the t interval of the mean."""
    reason = f"{shown(interval)} over {interval.seeds} seeds lies {_WHERE[verdict]} the region ({claim.region}{family})"
    needed = None
    if verdict == INCONCLUSIVE:
        needed = _seeds_needed(item, interval, claim, claims)
        many = f"about {needed}" if needed else f"more than {MOST_SEEDS:,}"
        reason += f"; {many} seeds would decide it ({claims.power:.0%} power at this spread)"
    reason += "."
    if claim.rule == EQUIVALENCE:
        reason += f" TOST p = {item.p_values()[0]:.2g}"
        if interval.seeds <= EXACT_LIMIT:
            p_value, least = sign_flip(item.values), 2.0 ** (1 - interval.seeds)
            reason += f"; sign-flip test of no difference p = {p_value:.2g} (cannot fall below {least:.2g})"
        reason += "."
    return Finding(verdict, reason, interval.estimate, interval.low, interval.high, interval.seeds, needed)


def _seeds_needed(item: _Evidence, interval: Interval, claim: Claim, claims: Claims) -> int | None:
    """Seeds for a decision at the spread seen, were the estimate the truth; None for more than `MOST_SEEDS`.

    Equivalence takes no fewer than arms without any difference would need, and that many where the estimate lies so
    near an end that no number would do.
    """
    spread, mean, low, high = interval.spread, float(item.values.mean()), item.region.low, item.region.high
    if spread == 0:
        return None
    needed = [seeds_for_interval(mean, spread, low, high, claims.level, claims.power)]
    if claim.rule == EQUIVALENCE and low < mean < high:
        needed.append(seeds_for_equivalence(spread, (high - low) / 2, claims.level, claims.power))
    known = [number for number in needed if number]
    return max([*known, interval.seeds + 1]) if known else None


def _of_median(item: _Evidence, verdict: str, level: float, cells: int, family: str) -> Finding:
    """By the interval of the median from order statistics."""
    bounds, seeds = median_ratio(item.values, level), len(item.values)
    known = bounds.median_low if bounds.median_low == bounds.median_high else math.nan
    missed = f"; in {bounds.undetermined} both missed the target" if bounds.undetermined else ""
    median = f"{known:.3g}x" if not math.isnan(known) else "not determined"
    measured = f"Median {median}, interval {bounds.low:.3g} to {bounds.high:.3g} over {seeds} seeds{missed}"
    reason = f"{measured}: {_WHERE[verdict]} the region ({item.region}, on the median{family})"
    # Holm asks the smallest of the p-values for alpha / cells.
    least, needed = seeds_for_sign_flip((1 - level) / cells), None
    if verdict == INCONCLUSIVE and seeds < least:
        lacking = "have no interval at all" if cells == 1 else f"decide nothing over {cells} cells"
        needed, reason = least, f"{reason}; fewer than {least} seeds {lacking}"
    numbers = (known, bounds.low, bounds.high)
    estimate, low, high = (number if math.isfinite(number) else None for number in numbers)
    return Finding(verdict, f"{reason}.", estimate, low or None, high, seeds, needed)


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


def judge_cost(claim: Claim, cost: Cost, variants: pd.DataFrame | None) -> Finding:
    """The verdict on one number of a profile; of seconds the unit of replication is the round.

    `supported` or `refuted` where the number, or its whole interval, lies inside or outside the claim's region;
    `inconclusive` where the interval crosses an end; `not testable` where the profile lacks the variant or could not
    run it; `not measurable here` for a number of a device that the claim does not accept.

    Args:
        claim: names setting and variant.
        cost: the number.
        variants: the profile's table; None where the benchmark names no profile.
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
    verdict, place = INCONCLUSIVE, "neither inside nor outside"
    if region.low < low and high < region.high:
        verdict, place = SUPPORTED, "inside"
    elif high < region.low or region.high < low:
        verdict, place = REFUTED, "outside"
    more = "; more rounds would narrow it" if verdict == INCONCLUSIVE else ""
    replicates = f"{rounds} rounds" if cost.timed else "counted" if cost.counted else "read once"
    reason = f"{measured} lies {place} the region ({region}){more}."
    if not cost.timed:
        return Finding(verdict, reason, value, replicates=replicates)
    return Finding(verdict, reason, value, low, high, replicates=replicates)


def judge_share(share: Share, region: Region, table: pd.DataFrame | None) -> Finding:
    """The verdict on one task and model by a study's table, whose rows are counted; not testable without rows.

    No training seed enters and nothing is sampled: the study does every case that its table names. So there is no
    interval, and an end of the region belongs to it: of a claim "always" that is 1, one exception refutes it.

    Args:
        share: what is counted.
        region: the claimed region widened by the margin.
        table: the study's; None where the benchmark does not ask for the study.
    """
    if table is None:
        return Finding(NOT_TESTABLE, f"This benchmark does not ask for the study {share.study}.", asked=False)
    rows = table.query(share.rows, engine="python")
    if rows.empty:
        return Finding(NOT_TESTABLE, f"The study {share.study} has no {share.cases}.")
    held = rows[share.column].isin((True,))  # a word is not true
    value = float(held.mean())
    counted = f"{int(held.sum())} of {len(rows)} {share.cases}"
    verdict, place = (SUPPORTED, "inside") if region.low <= value <= region.high else (REFUTED, "outside")
    exceptions = [" ".join(row) for row in rows.loc[~held, list(share.label)].itertuples(index=False)]
    listed = f" Not: {', '.join(exceptions)}." if exceptions else ""
    reason = f"{counted}, {value:.3g}, lies {place} the region ({region}).{listed}"
    return Finding(verdict, reason, value, replicates=counted)
