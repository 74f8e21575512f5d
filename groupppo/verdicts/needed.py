"""The part of the tables that claims are decided from: of ten thousand runs a hundredth of the rows."""

from groupppo.config import Benchmark
from groupppo.tables import Only
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.quantities import Sample

ALWAYS = ("runs", "evals")
"""Every claim asks whether its runs are admissible and whether the reference learned."""


def needed(claims: Claims, benchmark: Benchmark) -> dict[str, Only]:
    """What `load_tables` has to read so that `decide` finds every row that a claim's sample picks, and few others."""
    asked: dict[str, list[Sample]] = {}
    for claim in claims.claims:
        if claim.of_runs:
            asked.setdefault(claim.measured.table, []).append(claim.sample("", "", benchmark.reference))
    return {name: Only() for name in ALWAYS} | {
        name: Only(where=_where(samples)) for name, samples in asked.items() if name not in ALWAYS
    }


def _where(samples: list[Sample]) -> dict[str, list[str]]:
    """Values of the columns that every one of the samples restricts."""
    values = {
        "arm": [[arm for arm in (sample.arm, sample.against) if arm] for sample in samples],
        "stage": [[sample.stage] if sample.stage else [] for sample in samples],
        "metric": [[*sample.metrics, *([sample.metric] if sample.metric else [])] for sample in samples],
    }
    return {
        column: sorted({value for one in wanted for value in one}) for column, wanted in values.items() if all(wanted)
    }
