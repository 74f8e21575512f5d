"""Claims judged from a study's table: a share of its rows, counted.

No training seed enters and nothing is sampled: the study does every case that its table names. So there is no interval,
and an end of the region belongs to it: of a claim "always" that is 1, one exception refutes it.
"""

from dataclasses import dataclass

import pandas as pd

from groupppo.config.forms import Region
from groupppo.verdicts.finding import NOT_TESTABLE, REFUTED, SUPPORTED, Finding


@dataclass(frozen=True)
class Share:
    """The share of the rows of a study's table in which a column holds.

    Attributes:
        study, table: names. rows: those that count, as a `DataFrame.query` expression.
        column: of true and false. label: columns that name a row. cases: what a row is, in the plural.
    """

    study: str
    table: str
    rows: str
    column: str
    label: tuple[str, ...]
    cases: str

    @property
    def unit(self) -> str:
        return f"share of {self.cases}"

    def file(self, task: str, model: str) -> str:
        """The table's place in a results folder."""
        return f"studies/{self.study}/{task}.{model}/{self.table}.csv"


SHARES: dict[str, Share] = {
    "faults_survived": Share("faults", "faults", "point != 'none'", "survived", ("arm", "point"), "injection points")
}


def judge_share(share: Share, region: Region, table: pd.DataFrame | None) -> Finding:
    """The verdict on one task and model.

    Args:
        region: the claimed region widened by the margin; its ends belong to it.
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
    told = f"{int(held.sum())} of {len(rows)} {share.cases}"
    inside = region.low <= value <= region.high
    place = f"{'inside' if inside else 'outside'} the region ({region})"
    missed = [" ".join(row) for row in rows.loc[~held, list(share.label)].itertuples(index=False)]
    missing = f" Not: {', '.join(missed)}." if missed else ""
    verdict = SUPPORTED if inside else REFUTED
    return Finding(verdict, f"{told}, {value:.3g}, lies {place}.{missing}", value, replicates=told)
