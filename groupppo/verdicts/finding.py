"""The six verdicts, the region an estimate is held against, and a verdict with what it rests on."""

from dataclasses import dataclass

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
IDENTITY, NOT_TESTABLE, NOT_MEASURABLE = "identity", "not testable", "not measurable here"
VERDICTS = (SUPPORTED, REFUTED, INCONCLUSIVE, IDENTITY, NOT_TESTABLE, NOT_MEASURABLE)


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on.

    Args:
        verdict: one of `VERDICTS`.
        reason: one or two sentences.
        estimate, low, high: of the quantity, in its unit; None where there is none.
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
