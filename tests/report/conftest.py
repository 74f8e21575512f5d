"""What tests of the report share: results that were made up, and what a page of them says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groupppo.config import Benchmark
from groupppo.draw.blocks import Section, Table, TextCell
from groupppo.report import figures
from groupppo.report.figures import draw_figures
from groupppo.report.page import report_page
from groupppo.report.sections import Results, Verdict, read_verdicts
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.synthetic import write_results


def collected(results: Path, **options) -> tuple[Tables, Benchmark]:
    """Tables of synthetic runs."""
    benchmark = write_results(results, **options)
    collect(results, benchmark)
    return load_tables(results / "tables"), benchmark


def prepare(results: Path, tables: Tables, benchmark: Benchmark, studied=None) -> dict:
    """Everything that comes before the page; returns the content of verdicts.json."""
    judged = decide(load_claims(benchmark.claims), tables, benchmark, studied=studied)
    (results / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    draw_figures(tables, benchmark, results / "figures", judged)
    return judged


def build(results: Path, **options) -> Benchmark:
    """Results whose page can be written."""
    tables, benchmark = collected(results, **options)
    prepare(results, tables, benchmark)
    return benchmark


def section_of(results: Path, benchmark: Benchmark, name: str) -> Section | None:
    return next((section for section in report_page(results, benchmark).sections if section.id == name), None)


def table_of(results: Path, benchmark: Benchmark, name: str) -> Table:
    """The first table of a section."""
    return next(block for block in section_of(results, benchmark, name).blocks if isinstance(block, Table))


def row(table: Table, title: str) -> dict[str, TextCell]:
    """The cells of a row by the column's heading."""
    return dict(zip(table.head, next(cells for cells in table.cells if cells[0].text == title), strict=True))


def results_of(folder: Path, tables: Tables, benchmark: Benchmark) -> Results:
    judged = read_verdicts(folder / "verdicts.json")
    return Results(folder, benchmark, tables.runs, tables.evals, judged, ())


@pytest.fixture(scope="module")
def only_figures() -> Iterator[Callable[..., None]]:
    """Leaves the figures of these ids alone: drawing all of them is most of the time of a test."""
    with pytest.MonkeyPatch.context() as patch:
        known = figures.report_figures()
        yield lambda *ids: patch.setattr(
            figures, "report_figures", lambda: tuple(figure for figure in known if figure.id in ids)
        )


def verdict(**values) -> Verdict:
    """A verdict of which a test says only what it looks at."""
    return Verdict.model_construct(**({"asked": True, "elsewhere": None, "item_noise": None} | values))
