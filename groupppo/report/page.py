"""One offline HTML page for a benchmark: the verdicts first, then all that they rest on.

    write_report(results, benchmark, memory_definition="Resident memory of all processes of a run, ...")

The page needs no network: figures are inlined, and a content security policy forbids every request and every script but
the page's own. All text from files is escaped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.profile.config import load_profile
from groupppo.profile.tables import read_tables
from groupppo.report import page_data, page_runs
from groupppo.report.figures import read_figures
from groupppo.report.page_faults import fault_studies
from groupppo.report.page_markdown import write_markdown
from groupppo.report.page_parts import (
    PageFigure,
    content_policy,
    page_environment,
    page_figure,
    source_text,
    write_page,
)
from groupppo.report.page_profile import ProfileSection, profile_section
from groupppo.report.page_streams import stream_studies
from groupppo.report.page_study import Study, grouping_studies
from groupppo.report.wording import MISSING, interval, plural, quantity
from groupppo.study.tables import FIGURES
from groupppo.tables import Only, load_tables
from groupppo.verdicts.preregistration import read_stamp

PROFILE = "profile"
"""Folder of the profile in a results folder."""
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
    "estimate",
)
_KEYS_AFTER = (
    "low",
    "high",
    "seeds",
    "seeds_needed",
    "replicates",
    "reason",
    "what_would_change",
    "evidence",
    "figure",
)


@dataclass(frozen=True)
class VerdictRow:
    """One verdict as the page shows it. `place` is the task and model, empty where the benchmark has only one of each;
    `figure` is the id of a figure on the page, or empty."""

    id: str
    claim: str
    place: str
    source: str
    reading: str
    arm: str
    quantity: str
    verdict: str
    estimate: str
    interval: str
    unit: str
    replicates: str
    seeds_needed: str
    reason: str
    what_would_change: str
    table: str
    file: str
    rows: str
    figure: str


@dataclass(frozen=True)
class PageStudy:
    study: Study
    figures: list[PageFigure]


def write_report(results: Path, benchmark: Benchmark, *, memory_definition: str) -> Path:
    """Render `results`/report.html, and report.md beside it.

    From verdicts.json, tables/, figures/, runs/*/provenance.json, warm starts, the stamp of the first run, and the
    profile and studies that the benchmark asks for.

    Args:
        results: the results folder of `benchmark`.
        benchmark: the matrix the results belong to.
        memory_definition: one or two sentences that say what peak and rise of memory count here.

    Returns:
        The path of the page, which is replaced as a whole or not at all.

    Raises:
        BadInput: verdicts, tables, figures or a study are missing or not in their form.
    """
    tables = load_tables(results / "tables", {"runs": Only(), "evals": Only()})
    figures = [page_figure(results, "figures", record) for record in read_figures(results / "figures")]
    judged = page_data.read_object(results / "verdicts.json", "decide the verdicts first.")
    profile = _profile(results, benchmark)
    shown = [*figures, *(profile.figures if profile else [])]
    verdicts = verdict_rows(judged, results / "verdicts.json", benchmark, {figure.record.id for figure in shown})
    environment = page_environment()
    style, script = (source_text(environment, name) for name in ("report.css", "report.js"))
    shared = {
        "benchmark": benchmark,
        "answer": page_data.answer([verdict.verdict for verdict in verdicts]),
        "verdicts": verdicts,
        "scope": page_runs.scope(benchmark, tables),
        "excluded": page_runs.excluded_rows(judged["excluded"], benchmark),
        "figures": figures,
        "stamp": read_stamp(results, benchmark),
    }
    write_markdown(results / "report.md", **shared)
    page = environment.get_template("report.html.j2").render(
        **shared,
        level=f"{100 * judged['level']:g} %",
        claims_sha256=judged["claims_sha256"],
        most_rows=page_runs.MOST_ROWS,
        studies=[_page_study(results, study) for study in grouping_studies(results, benchmark)],
        streams=[_page_study(results, study) for study in stream_studies(results, benchmark)],
        faults=[_page_study(results, study) for study in fault_studies(results, benchmark)],
        profile=profile,
        matrix=page_runs.matrix(results, benchmark, tables),
        differences=page_data.arm_differences(benchmark),
        settings=page_data.matched_settings(benchmark),
        warm_starts=page_data.warm_starts(results, benchmark),
        provenance=page_runs.provenance(results, benchmark, tables),
        devices=sorted(set(tables.runs["device"].dropna())),
        memory_definition=memory_definition,
        tables=sorted(path.relative_to(results).as_posix() for path in (results / "tables").glob("*.parquet")),
        style=style,
        script=script,
        policy=content_policy(style, script),
        missing=MISSING,
    )
    return write_page(results / "report.html", page)


def verdict_rows(judged: dict[str, Any], file: Path, benchmark: Benchmark, figures: set[str]) -> list[VerdictRow]:
    """The verdicts of verdicts.json in their order, numbers put into words.

    Raises:
        BadInput: a key is missing, or a verdict is not one of VERDICTS.
    """
    for key in ("level", "claims_sha256", "verdicts", "excluded"):
        if key not in judged:
            raise BadInput(file, key, None, "decide the verdicts again.")
    rows = []
    for i, verdict in enumerate(judged["verdicts"]):
        for key in (*_KEYS, *_KEYS_AFTER):
            if key not in verdict:
                raise BadInput(file, f"verdicts[{i}].{key}", None, "decide the verdicts again.")
        if verdict["verdict"] not in VERDICTS:
            raise BadInput(file, f"verdicts[{i}].verdict", verdict["verdict"], f"one of: {', '.join(VERDICTS)}.")
        rows.append(_verdict_row(verdict, benchmark, figures))
    return rows


def _verdict_row(verdict: dict[str, Any], benchmark: Benchmark, figures: set[str]) -> VerdictRow:
    unit = verdict["unit"]
    arm = benchmark.arms[verdict["arm"]].title if verdict["arm"] in benchmark.arms else verdict["arm"]
    return VerdictRow(
        id=verdict["id"],
        claim=verdict["claim"],
        place=page_runs.place(benchmark, verdict["task"], verdict["model"]) if verdict["task"] else "",
        source=verdict["source"],
        reading=verdict["reading"],
        arm=arm,
        quantity=verdict["quantity"],
        verdict=verdict["verdict"],
        estimate=quantity(verdict["estimate"], unit),
        interval=interval(verdict["low"], verdict["high"], unit),
        unit="" if unit == "x" or verdict["estimate"] is None else unit,
        replicates=verdict["replicates"] or (plural(verdict["seeds"], "seed") if verdict["seeds"] else MISSING),
        seeds_needed=MISSING if verdict["seeds_needed"] is None else str(verdict["seeds_needed"]),
        reason=verdict["reason"],
        what_would_change=verdict["what_would_change"],
        table=verdict["evidence"]["table"],
        file=verdict["evidence"]["file"],
        rows=verdict["evidence"]["rows"],
        figure=verdict["figure"] if verdict["figure"] in figures else "",
    )


def _page_study(results: Path, study: Study) -> PageStudy:
    folder, prefix = f"{study.folder}/{FIGURES}", f"{study.anchor}-"
    return PageStudy(study, [page_figure(results, folder, record, prefix) for record in study.figures])


def _profile(results: Path, benchmark: Benchmark) -> ProfileSection | None:
    if benchmark.profile is None:
        return None
    profile, folder = load_profile(benchmark.profile), results / PROFILE
    return profile_section(results, PROFILE, profile, read_tables(folder / "tables"), folder / "measured")
