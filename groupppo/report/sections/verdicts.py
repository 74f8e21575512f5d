"""The verdicts of verdicts.json as rows of the page: numbers in words, and what is the same of many cells said once."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING, interval, plural, quantity
from groupppo.errors import BadInput
from groupppo.report.sections import data as page_data
from groupppo.report.sections.items import check_item_noise, share_told
from groupppo.report.sections.runs import place
from groupppo.verdicts.quantities import COSTS
from groupppo.where import UNRECORDED, Where

VERDICTS = tuple(page_data.ANSWERS)
_KEYS = (
    "id",
    "task",
    "model",
    "claim",
    "source",
    "reading",
    "arm",
    "quantity",
    "comparison",
    "margin",
    "unit",
    "verdict",
    "asked",
    "estimate",
    "low",
    "high",
    "seeds",
    "seeds_needed",
    "replicates",
    "reason",
    "what_would_change",
    "item_noise",
    "evidence",
    "figure",
)


@dataclass(frozen=True)
class ClaimRow:
    """What all verdicts on one claim share; `rows` selects the evidence in `table` together with task and model."""

    id: str
    claim: str
    source: str
    reading: str
    arm: str
    comparison: str
    what_would_change: str
    table: str
    rows: str


@dataclass(frozen=True)
class VerdictRow:
    """One verdict as the page shows it, or several without a number that differ in nothing but their cell.

    Attributes:
        place: the task and model, empty where the benchmark has only one of each. cells: verdicts that the row is of.
        asked: whether the benchmark has the arms, study or profile that the claim is about.
        items: how much of the interval is item noise, empty where there is none.
        elsewhere: where the evidence is from, empty where it is of these results.
        figure: the id of a figure on the page, or empty.
    """

    claim: ClaimRow
    place: str
    cells: int
    verdict: str
    asked: bool
    estimate: str
    interval: str
    items: str
    items_reason: str
    unit: str
    replicates: str
    elsewhere: str
    seeds_needed: str
    reason: str
    table: str
    file: str
    rows: str
    figure: str


def read_verdicts(file: Path) -> dict[str, Any]:
    """The content of verdicts.json with every key that the page needs.

    Raises:
        BadInput: the file or a key is missing, a verdict is not one of VERDICTS, or item noise or the place of evidence
            from elsewhere not in its form.
    """
    judged = page_data.read_object(file, "decide the verdicts first.")
    for key in ("level", "claims_sha256", "verdicts", "excluded"):
        if key not in judged:
            raise BadInput(file, key, None, "decide the verdicts again.")
    for i, verdict in enumerate(judged["verdicts"]):
        for key in _KEYS:
            if key not in verdict:
                raise BadInput(file, f"verdicts[{i}].{key}", None, "decide the verdicts again.")
        if verdict["verdict"] not in VERDICTS:
            raise BadInput(file, f"verdicts[{i}].verdict", verdict["verdict"], f"one of: {', '.join(VERDICTS)}.")
        check_item_noise(verdict["item_noise"], file, f"verdicts[{i}].item_noise")
        _check_elsewhere(verdict, file, f"verdicts[{i}].elsewhere")
    return judged


def _check_elsewhere(verdict: dict[str, Any], file: Path, key: str) -> None:
    """Verdicts of before the key say nothing; of those, the ones on a profile are from a place that is not known."""
    of_profile = verdict["quantity"] in COSTS and verdict["evidence"]["file"]
    found = verdict.setdefault("elsewhere", asdict(UNRECORDED) if of_profile else None)
    if found is None:
        return
    try:
        Where(**found)
    except TypeError as error:
        raise BadInput(file, key, found, "decide the verdicts again.") from error


def verdict_rows(verdicts: list[dict[str, Any]], benchmark: Benchmark, figures: set[str]) -> list[VerdictRow]:
    """The verdicts in their order, what the benchmark does not ask last; those on one claim that have no number and the
    same reason are one row.

    Args:
        verdicts: of `read_verdicts`.
        figures: ids of the figures on the page.
    """
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for i, verdict in enumerate(verdicts):
        told = verdict["estimate"] is None and not verdict["seeds"] and verdict["item_noise"] is None
        key = (verdict["verdict"], verdict["reason"], verdict["evidence"]["file"]) if told else (i,)
        alike.setdefault((verdict["id"], *key), []).append(verdict)
    rows = [_row(group, benchmark, figures) for group in alike.values()]
    return sorted(rows, key=lambda row: not row.asked)


def claim_rows(verdicts: list[dict[str, Any]], benchmark: Benchmark) -> list[ClaimRow]:
    """Each claim that was judged, once, in the claims' order."""
    return list({verdict["id"]: _claim(verdict, benchmark) for verdict in verdicts}.values())


def _claim(verdict: dict[str, Any], benchmark: Benchmark) -> ClaimRow:
    arm = benchmark.arms[verdict["arm"]].title if verdict["arm"] in benchmark.arms else verdict["arm"]
    told = ("id", "claim", "source", "reading", "comparison", "what_would_change")
    evidence = verdict["evidence"]
    rows = evidence["rows"].removeprefix(f"task == {verdict['task']!r} and model == {verdict['model']!r} and ")
    return ClaimRow(arm=arm, table=evidence["table"], rows=rows, **{key: verdict[key] for key in told})


def _row(alike: list[dict[str, Any]], benchmark: Benchmark, figures: set[str]) -> VerdictRow:
    verdict = alike[0]
    unit, noise, evidence = verdict["unit"], verdict["item_noise"], verdict["evidence"]
    return VerdictRow(
        claim=_claim(verdict, benchmark),
        place=_places(alike, benchmark),
        cells=len(alike),
        verdict=verdict["verdict"],
        asked=verdict["asked"],
        estimate=quantity(verdict["estimate"], unit),
        interval=interval(verdict["low"], verdict["high"], unit),
        items=share_told(noise),
        items_reason=noise["reason"] if noise else "",
        unit="" if unit == "x" or verdict["estimate"] is None else unit,
        replicates=verdict["replicates"] or (plural(verdict["seeds"], "seed") if verdict["seeds"] else MISSING),
        elsewhere=_elsewhere(verdict),
        seeds_needed=MISSING if verdict["seeds_needed"] is None else str(verdict["seeds_needed"]),
        reason=verdict["reason"],
        table=evidence["table"],
        file=evidence["file"],
        rows=evidence["rows"],
        figure=verdict["figure"] if verdict["figure"] in figures else "",
    )


def _elsewhere(verdict: dict[str, Any]) -> str:
    if verdict["elsewhere"] is None:
        return ""
    told = Where(**verdict["elsewhere"]).told()
    return f"{told}; a count, the same on every machine" if COSTS[verdict["quantity"]].counted else told


def _places(alike: list[dict[str, Any]], benchmark: Benchmark) -> str:
    """The tasks and models of a row; counted where they are all or more than a few."""
    cells = len(benchmark.plans())
    if len(alike) > 1 and len(alike) == cells:
        return f"all {cells} tasks and models"
    named = [place(benchmark, verdict["task"], verdict["model"]) for verdict in alike[:3] if verdict["task"]]
    more = len(alike) - len(named)
    return f"{'; '.join(named)}{f'; and {more} more' if named and more else ''}"
