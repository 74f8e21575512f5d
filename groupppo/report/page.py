"""A benchmark's page: the verdicts first, then all that they rest on; what it says is in `sections/`.

write_report(results, benchmark)
"""

from pathlib import Path

from groupppo.check import notes
from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, Page, Text, strong
from groupppo.draw.figures import read_figures
from groupppo.report.render import html, markdown, write_page
from groupppo.report.sections import Results, all_sections, read_verdicts
from groupppo.report.sections.benchmark import compared
from groupppo.report.sections.runs import scope
from groupppo.report.sections.verdicts import answer
from groupppo.tables import Only, load_tables


def write_report(results: Path, benchmark: Benchmark) -> Path:
    """Render `results`/report.html, and report.md beside it.

    From verdicts.json, tables/, figures/, runs/*/provenance.json, warm starts, the stamp of the first run, and the
    profile, pilot and studies that the benchmark asks for.

    Args:
        results: the results folder of `benchmark`.
        benchmark: the matrix the results belong to.

    Returns:
        The path of the page, which is replaced as a whole or not at all.

    Raises:
        BadInput: verdicts, tables, figures or a study are missing or not in their form.
    """
    page = report_page(results, benchmark)
    text = html(page, results)
    write_page(results / "report.md", markdown(page))
    return write_page(results / "report.html", text)


def report_page(results: Path, benchmark: Benchmark) -> Page:
    """What the page says; raises as `write_report`."""
    tables = load_tables(results / "tables", {"runs": Only(), "evals": Only()})
    judged, figures = read_verdicts(results / "verdicts.json"), read_figures(results / "figures")
    sections = all_sections(Results(results, benchmark, tables.runs, tables.evals, judged, figures))
    more = compared(benchmark)
    head: list[Block] = [
        *([Text(strong(more))] if more else []),
        Text(answer(judged.verdicts), "answer"),
        Text(scope(benchmark, tables.runs), "quiet"),
        *(Text((strong("Note:"), f" {note}"), "quiet") for note in notes(benchmark)),
    ]
    return Page(
        title=benchmark.title,
        eyebrow=f"GROUP-PPO bench, benchmark {benchmark.name}",
        skip="Skip to the verdicts",
        head=head,
        sections=list(sections),
    )
