"""Where measurements are from that a results folder shows: made in it, or found elsewhere; tables carry it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groupppo.records.folders import REPOSITORY
from groupppo.records.hashing import scrub_record

if TYPE_CHECKING:  # a plan, which asks where measurements are, needs no pandas
    import pandas as pd

COLUMNS = ("measured_in", "published", "machine", "measured")
"""Of a table whose rows may be from elsewhere: `measured_in` is the folder, empty for the results' own; `machine` and
`measured`, days as YYYY-MM-DD, may be absent."""


@dataclass(frozen=True)
class Found:
    """A folder or file of another one's measurements; `published` where it is the repository's and no machine's own."""

    path: Path
    published: bool

    def columns(self) -> dict[str, str | bool]:
        """The first two of COLUMNS, as they may be published."""
        place = self.path if not self.path.is_relative_to(REPOSITORY) else self.path.relative_to(REPOSITORY)
        return {"measured_in": scrub_record(place.as_posix()), "published": self.published}


@dataclass(frozen=True)
class Where:
    """Where measurements were made."""

    folder: str | None  # that holds their records; "" for the results that show them, None where these do not say it
    published: bool  # by the repository, so that any machine may have made them
    machine: str  # processors or GPUs, empty where they are not known
    measured: str  # the first and the last day, empty where they are not known

    @property
    def here(self) -> bool:
        return self.folder == ""

    def told(self) -> str:
        """Such as "from results/reference/profile (published), measured 2026-11-23 on AMD EPYC"."""
        if self.folder is None:
            return "measured at a place that these results do not record"
        folder = f"from {self.folder}{' (published)' if self.published else ''}" if self.folder else ""
        made = " ".join(part for part in (self.measured, f"on {self.machine}" if self.machine else "") if part)
        return ", ".join(part for part in (folder, f"measured {made}" if made else "") if part)


UNRECORDED = Where(None, False, "", "")


def find(results: Path, place: Callable[[Path], Path | None]) -> Found | None:
    """The first of a machine's own results, published ones beside them, and the repository's that has a place.

    Args:
        results: the folder of results folders. place: what is looked for in such a folder, None where it is not there.
    """
    published = (results / "reference", REPOSITORY / "results" / "reference")
    for home in (results, *published):
        path = place(home)
        if path is not None:
            return Found(path, home in published)
    return None


def where_of(rows: "pd.DataFrame") -> Where:
    """Where the rows of a table with COLUMNS were measured; the rows are from one folder."""
    if rows.empty or "measured_in" not in rows or rows["measured_in"].isna().any():
        return UNRECORDED
    machines, days = (sorted(set(rows[name])) if name in rows else [] for name in ("machine", "measured"))
    ends = sorted({day for span in days for day in (span[:10], span[-10:])})
    span = ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}" if ends else ""
    first = rows.iloc[0]
    return Where(str(first["measured_in"]), bool(first["published"]), " and ".join(machines), span)
