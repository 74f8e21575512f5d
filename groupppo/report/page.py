"""A benchmark's page: the verdicts first, then all that they rest on; what it says is in `sections/`."""

from pathlib import Path

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, Page, Text, strong
from groupppo.draw.figures import read_figures
from groupppo.records.storage import write_whole
from groupppo.report.render import html, markdown
from groupppo.report.sections import Results, all_sections, read_verdicts
from groupppo.report.sections.runs import scope
from groupppo.report.sections.verdicts import answer
from groupppo.tables import Only, load_tables


def write_report(results: Path, benchmark: Benchmark) -> Path:
    """Write `results`/report.html, and report.md beside it, each as a whole or not at all.

    Args:
        results: the results folder of `benchmark`.
        benchmark: the matrix the results belong to.

    Returns:
        The path of the HTML page.

    Raises:
        BadInput: verdicts, tables, figures or a study are missing or not in their form.
    """
    page = report_page(results, benchmark)
    text = html(page, results)
    write_whole(results / "report.md", markdown(page))
    write_whole(results / "report.html", text)
    return results / "report.html"


def report_page(results: Path, benchmark: Benchmark) -> Page:
    """What the page says; raises as `write_report`."""
    tables = load_tables(results / "tables", {"runs": Only(), "evals": Only()})
    judged, figures = read_verdicts(results / "verdicts.json"), read_figures(results / "figures")
    compares = ", ".join(benchmark.compares)
    differ = f"Arms differ in {compares} beside the algorithm: no difference between them is the algorithm's alone."
    head: list[Block] = [
        *([Text(strong(differ))] if compares else []),
        Text(answer(judged.verdicts), "answer"),
        Text(scope(benchmark, tables.runs), "quiet"),
        *(Text((strong("Note:"), f" {note}"), "quiet") for note in benchmark.notes()),
    ]
    made = Results(results, benchmark, tables.runs, tables.evals, judged, figures)
    eyebrow = f"GROUP-PPO bench, benchmark {benchmark.name}"
    return Page(benchmark.title, eyebrow, "Skip to the verdicts", head, list(all_sections(made)))
