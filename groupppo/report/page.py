"""One offline HTML page for a benchmark: the verdicts first, then all that they rest on.

    write_report(results, benchmark, memory_definition="Resident memory of all processes of a run, ...")

The page needs no network: figures are inlined, and a content security policy forbids every request and every script but
the page's own. All text from files is escaped.
"""

from dataclasses import dataclass
from pathlib import Path

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING
from groupppo.profile.config import load_profile
from groupppo.profile.tables import read_tables
from groupppo.report.drawing import FigureRecord, read_figures
from groupppo.report.markdown import write_markdown
from groupppo.report.sections import data as page_data
from groupppo.report.sections import runs as page_runs
from groupppo.report.sections.faults import fault_studies
from groupppo.report.sections.items import MOST_LINES, bounds_told, item_noise
from groupppo.report.sections.parts import (
    PageFigure,
    content_policy,
    largest_picture,
    page_environment,
    page_figure,
    source_text,
    write_page,
)
from groupppo.report.sections.profile import ProfileSection, profile_section
from groupppo.report.sections.streams import stream_studies
from groupppo.report.sections.study import Study, grouping_studies
from groupppo.report.sections.sweep import FOLDER, read_sweep
from groupppo.report.sections.tasks import ONE_TASK, across_tasks
from groupppo.report.sections.usage import usage
from groupppo.report.sections.verdicts import claim_rows, read_verdicts, verdict_rows
from groupppo.studies.tables import FIGURES
from groupppo.tables import Only, load_tables
from groupppo.verdicts.preregistration import read_stamp

PROFILE = "profile"
"""Folder of the profile in a results folder."""
MOST_STUDIES = 3
"""Tasks and models whose study the page shows; the folders of the others are named."""


@dataclass(frozen=True)
class PageStudy:
    study: Study
    figures: list[PageFigure]


@dataclass(frozen=True)
class PageStudies:
    """The studies of one kind: the first of them, and those that have no room."""

    shown: list[PageStudy]
    left: list[Study]


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
    records = read_figures(results / "figures")
    kinds = {
        "studies": grouping_studies(results, benchmark),
        "streams": stream_studies(results, benchmark),
        "faults": fault_studies(results, benchmark),
    }
    drawn = [study for own in kinds.values() for study in own[:MOST_STUDIES]]
    largest = largest_picture(_pictures(results, benchmark, records, drawn))
    figures = [page_figure(results, "figures", record, largest=largest) for record in records]
    judged = read_verdicts(results / "verdicts.json")
    profile = _profile(results, benchmark, largest)
    sweep = read_sweep(results, benchmark)
    swept = None if sweep is None else page_figure(results, FOLDER, sweep.figure, largest=largest)
    shown = [*figures, *(profile.figures if profile else [])]
    environment = page_environment()
    style, script = (source_text(environment, name) for name in ("report.css", "report.js"))
    verdicts = verdict_rows(judged["verdicts"], benchmark, {figure.record.id for figure in shown})
    shared = {
        "benchmark": benchmark,
        "compared": page_data.compared(benchmark),
        "answer": page_data.answer(judged["verdicts"]),
        "verdicts": verdicts,
        "scope": page_runs.scope(benchmark, tables),
        "notes": benchmark.notes(),
        "excluded": page_runs.excluded_rows(judged["excluded"], benchmark),
        "most_rows": page_runs.MOST_ROWS,
        "figures": figures,
        "stamp": read_stamp(results, benchmark),
        "items": item_noise(judged["verdicts"], benchmark),
        "bounds": bounds_told(judged["verdicts"]),
        "noisy": [row for row in verdicts if row.items_reason][:MOST_LINES],
        "across": across_tasks(tables.evals, tables.runs, benchmark),
        "one_task": ONE_TASK,
        "usage": usage(tables.runs, benchmark),
        "sweep": sweep,
        "claims": claim_rows(judged["verdicts"], benchmark) if len(benchmark.tasks) * len(benchmark.models) > 1 else [],
    }
    write_markdown(results / "report.md", **shared)
    page = environment.get_template("report.html.j2").render(
        **shared,
        **{name: _page_studies(results, own, largest) for name, own in kinds.items()},
        level=f"{100 * judged['level']:g} %",
        claims_sha256=judged["claims_sha256"],
        profile=profile,
        sweep_figure=swept,
        matrix=page_runs.matrix(results, benchmark, tables),
        runs=len(tables.runs),
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


def _pictures(
    results: Path, benchmark: Benchmark, records: list[FigureRecord], studies: list[Study]
) -> list[tuple[Path, FigureRecord]]:
    """Every picture that the page will have."""
    of_figures = [(results / "figures", record) for record in records]
    of_studies = [(results / study.folder / FIGURES, record) for study in studies for record in study.figures]
    home = results / PROFILE / "figures"
    of_profile = [(home, record) for record in read_figures(home)] if benchmark.profile else []
    return [*of_figures, *of_studies, *of_profile]


def _page_studies(results: Path, studies: list[Study], largest: int | None) -> PageStudies:
    shown = [_page_study(results, study, largest) for study in studies[:MOST_STUDIES]]
    return PageStudies(shown, studies[MOST_STUDIES:])


def _page_study(results: Path, study: Study, largest: int | None) -> PageStudy:
    folder, prefix = f"{study.folder}/{FIGURES}", f"{study.anchor}-"
    return PageStudy(study, [page_figure(results, folder, record, prefix, largest) for record in study.figures])


def _profile(results: Path, benchmark: Benchmark, largest: int | None) -> ProfileSection | None:
    if benchmark.profile is None:
        return None
    profile, folder = load_profile(benchmark.profile), results / PROFILE
    return profile_section(results, PROFILE, profile, read_tables(folder / "tables"), folder / "measured", largest)
