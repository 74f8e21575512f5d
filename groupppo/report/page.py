"""One offline HTML page for a benchmark: the verdicts first, then all that they rest on.

    write_report(results, benchmark, memory_definition="Resident memory of all processes of a run, ...")

The page needs no network: figures are inlined, and a content security policy forbids every request and every script but
the page's own. All text from files is escaped.
"""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.report import page_data, page_runs
from groupppo.report.figures import FigureRecord, read_figures
from groupppo.report.page_study import Study, grouping_studies
from groupppo.report.tables import load_tables
from groupppo.report.wording import MISSING, interval, quantity
from groupppo.study.tables import FIGURES

LARGEST_SVG = 400_000
"""Bytes; a larger drawing is inlined as its PNG, so that many long runs still make a page that opens at once."""

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
_KEYS_AFTER = ("low", "high", "seeds", "seeds_needed", "reason", "evidence", "figure")


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
    seeds: int
    seeds_needed: str
    reason: str
    table: str
    rows: str
    figure: str


@dataclass(frozen=True)
class PageFigure:
    """A figure with its picture inlined; `anchor` is its id on the page, `folder` where its files are."""

    record: FigureRecord
    source: str
    anchor: str
    folder: str


@dataclass(frozen=True)
class PageStudy:
    study: Study
    figures: list[PageFigure]


def write_report(results: Path, benchmark: Benchmark, *, memory_definition: str) -> Path:
    """Render `results`/report.html from verdicts.json, tables/, figures/, runs/*/provenance.json, warm starts
    and the studies that the benchmark asks for.

    Args:
        results: the results folder of `benchmark`.
        benchmark: the matrix the results belong to.
        memory_definition: one or two sentences that say what peak and rise of memory count here.

    Returns:
        The path of the page, which is replaced as a whole or not at all.

    Raises:
        BadInput: verdicts, tables, figures or a study are missing or not in their form.
    """
    tables = load_tables(results / "tables")
    figures = [_page_figure(results, "figures", record) for record in read_figures(results / "figures")]
    judged = page_data.read_object(results / "verdicts.json", "decide the verdicts first.")
    verdicts = verdict_rows(judged, results / "verdicts.json", benchmark, {figure.record.id for figure in figures})
    environment = _environment()
    style, script = (_source(environment, name) for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.j2").render(
        benchmark=benchmark,
        answer=page_data.answer([verdict.verdict for verdict in verdicts]),
        verdicts=verdicts,
        scope=page_runs.scope(benchmark, tables),
        level=f"{100 * judged['level']:g} %",
        claims_sha256=judged["claims_sha256"],
        excluded=page_runs.excluded_rows(judged["excluded"], benchmark),
        figures=figures,
        studies=[_page_study(results, study) for study in grouping_studies(results, benchmark)],
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
        policy=_policy(style, script),
        missing=MISSING,
    )
    report = results / "report.html"
    unfinished = report.with_suffix(".html.part")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, report)
    return report


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
        place=page_runs.place(benchmark, verdict["task"], verdict["model"]),
        source=verdict["source"],
        reading=verdict["reading"],
        arm=arm,
        quantity=verdict["quantity"],
        verdict=verdict["verdict"],
        estimate=quantity(verdict["estimate"], unit),
        interval=interval(verdict["low"], verdict["high"], unit),
        unit="" if unit == "x" or verdict["estimate"] is None else unit,
        seeds=verdict["seeds"],
        seeds_needed=MISSING if verdict["seeds_needed"] is None else str(verdict["seeds_needed"]),
        reason=verdict["reason"],
        table=verdict["evidence"]["table"],
        rows=verdict["evidence"]["rows"],
        figure=verdict["figure"] if verdict["figure"] in figures else "",
    )


def _page_figure(results: Path, folder: str, record: FigureRecord, prefix: str = "") -> PageFigure:
    return PageFigure(record, _inline(results / folder, record), f"figure-{prefix}{record.id}", folder)


def _page_study(results: Path, study: Study) -> PageStudy:
    folder, prefix = f"{study.folder}/{FIGURES}", f"{study.anchor}-"
    return PageStudy(study, [_page_figure(results, folder, record, prefix) for record in study.figures])


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("groupppo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(environment: Environment, name: str) -> Markup:
    """Our own style sheet or script, which must reach the page unescaped."""
    return Markup(environment.get_template(name).render())


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded; of inline code only what hashes to the page's own style sheet and script may run."""
    hashed = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = (f"'sha256-{digest}'" for digest in hashed)
    parts = ("default-src 'none'", "img-src data:", f"style-src {style_hash}", f"script-src {script_hash}")
    return "; ".join((*parts, "base-uri 'none'", "form-action 'none'"))


def _inline(folder: Path, record: FigureRecord) -> str:
    """The picture as a data URI, which cannot run scripts; empty for a figure that is not drawn."""
    if not record.files:
        return ""
    svg, png = folder / record.files["svg"], folder / record.files["png"]
    for file in (svg, png):
        if not file.is_file():
            raise BadInput(file, "file", None, "draw the figures again.")
    kind, file = ("svg+xml", svg) if svg.stat().st_size <= LARGEST_SVG else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
