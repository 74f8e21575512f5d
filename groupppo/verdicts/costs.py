"""Claims about the cost of one update at real model shapes, judged from the profile's table `variants`.

No training run enters: operations and rows of logits are counted, bytes read once, and seconds compared within rounds
of one process, so that the unit of replication is the round.
"""

import math
from dataclasses import dataclass

import pandas as pd

from groupppo.config.forms import Region
from groupppo.records.where import Where, where_of
from groupppo.update.variants import MEASURED
from groupppo.verdicts.finding import (
    INCONCLUSIVE,
    NOT_MEASURABLE,
    NOT_TESTABLE,
    REFUTED,
    SUPPORTED,
    Finding,
)

EVIDENCE_OF_DEVICE = {"cpu": "cpu", "cuda": "gpu"}


@dataclass(frozen=True)
class Cost:
    """A number of one variant in one setting of a profile.

    Attributes:
        column: of the table `variants`; with `timed`, its interval is in `<column>_low` and `<column>_high`.
        timed: whether it is a ratio of seconds; else it is counted or read, and has no spread.
        counted: whether it is the same on every device.
    """

    column: str
    timed: bool = False
    counted: bool = False
    unit: str = "x"


COSTS: dict[str, Cost] = {
    "update_flops_speedup": Cost("flops_speedup", counted=True),
    "update_logits_ratio": Cost("logits_ratio", counted=True),
    "update_memory_ratio": Cost("memory_ratio"),
    "update_memory_ratio_to_fused": Cost("memory_ratio_to_fused"),
    "update_seconds_speedup": Cost("seconds_speedup", timed=True),
    "update_seconds_speedup_to_fused": Cost("to_fused", timed=True),
}


@dataclass(frozen=True)
class CostSample:
    """Which row of the table `variants` a claim is about."""

    setting: str
    variant: str

    def query(self) -> str:
        """The row as a `DataFrame.query` expression: the evidence that a verdict names."""
        return f"setting == {self.setting!r} and variant == {self.variant!r}"


def measured_where(sample: CostSample, variants: pd.DataFrame) -> Where:
    """Where the profile of a claim was measured; of its row, if the table has that."""
    rows = variants.query(sample.query(), engine="python")
    return where_of(variants if rows.empty else rows)


def judge_cost(
    cost: Cost, sample: CostSample, region: Region, accepted: tuple[str, ...], variants: pd.DataFrame | None
) -> Finding:
    """The verdict on one number of a profile.

    Args:
        region: the claimed region widened by the margin.
        accepted: kinds of device ("cpu", "gpu") whose evidence counts.
        variants: the profile's table; None where the benchmark names no profile.

    Returns:
        `supported` or `refuted` where the number, or its whole interval, lies inside or outside the region;
        `inconclusive` where the interval crosses an end; `not testable` where the profile lacks the variant or could
        not run it; `not measurable here` for a number of a device that the claim does not accept.
    """
    if variants is None:
        return Finding(NOT_TESTABLE, "This benchmark names no profile of an update's cost.", asked=False)
    rows = variants.query(sample.query(), engine="python")
    if rows.empty:
        return Finding(NOT_TESTABLE, f"The profile has no variant {sample.variant} in a setting {sample.setting}.")
    row = rows.iloc[0]
    if row["status"] != MEASURED:
        return Finding(NOT_TESTABLE, f"{row['title']}: {row['status']}, {row['reason']}.")
    value = float(row[cost.column])
    ends = (value, value)
    if cost.timed:
        ends = (float(row[f"{cost.column}_low"]), float(row[f"{cost.column}_high"]))
    if not all(math.isfinite(number) for number in (value, *ends)):
        return Finding(NOT_TESTABLE, f"The profile has no {cost.column} of {row['title']}.")
    rounds = int(row["rounds"])
    told = f"{value:.3g}x [{ends[0]:.3g}, {ends[1]:.3g}] over {rounds} rounds" if cost.timed else f"{value:.3g}x"
    kind = EVIDENCE_OF_DEVICE[row["device"]]
    if kind not in accepted and not cost.counted:
        names = " or ".join(accepted).upper()
        reason = f"The claim takes evidence from a {names}; the profile, measured on a {kind.upper()}, has {told}."
        return Finding(NOT_MEASURABLE, f"{reason} It does not decide it.")
    replicates = f"{rounds} rounds" if cost.timed else "counted" if cost.counted else "read once"
    numbers = (value, ends[0] if cost.timed else None, ends[1] if cost.timed else None)
    place = f"the region ({region})"
    if region.low < ends[0] and ends[1] < region.high:
        return Finding(SUPPORTED, f"{told} lies inside {place}.", *numbers, replicates=replicates)
    if ends[1] < region.low or region.high < ends[0]:
        return Finding(REFUTED, f"{told} lies outside {place}.", *numbers, replicates=replicates)
    reason = f"{told} lies neither inside nor outside {place}; more rounds would narrow it."
    return Finding(INCONCLUSIVE, reason, *numbers, replicates=replicates)
