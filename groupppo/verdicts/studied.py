"""What verdicts rest on beside the tidy tables: tables of studies, and scores of checkpoints by item."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from groupppo.config import Benchmark
from groupppo.studies.shared.study import find_study
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.item_scores import ItemScores


@dataclass(frozen=True)
class Studied:
    """`tables`: of studies, by table, task and model. `scores`: by item; None where no results folder is at hand."""

    tables: Mapping[tuple[str, str, str], pd.DataFrame] = field(default_factory=dict)
    scores: ItemScores | None = None


def read_studied(results: Path, benchmark: Benchmark, claims: Claims) -> Studied:
    """Of the studies that the benchmark asks for, the tables that a claim is about; scores are read when asked for.

    Raises:
        BadInput: such a table is missing, is not CSV or has other columns.
    """
    shares = [claim.share for claim in claims.claims if claim.share and claim.share.study in benchmark.studies]
    tables = {
        (share.table, plan.task, plan.model): find_study(share.study).read_table(
            (results / share.file(plan.task, plan.model)).parent, share.table
        )
        for share in shares
        for plan in benchmark.plans()
    }
    return Studied(tables, ItemScores(results))
