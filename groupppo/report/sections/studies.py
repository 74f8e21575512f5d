"""Studies as the page shows them: each says itself what it shows."""

from collections.abc import Iterator

from groupppo.draw.blocks import Block, FigureBlock, Heading, Link, Section, Text
from groupppo.draw.figures import place, read_figures
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.report.sections import Results
from groupppo.studies.shared.study import FIGURES, RECORD, Shown, Study, find_study
from groupppo.tables.schema import plans_begun

RERUN = "run the study again: snakemake studies."
MOST_SHOWN = 3
"""Tasks and models whose study the page shows; the folders of the others are named."""


def sections(results: Results) -> Iterator[Section]:
    """A section for each study that the benchmark asks for: every task and model that was begun.

    Raises:
        BadInput: a study is not known or was not run, or its files are not in their form.
    """
    for name in results.benchmark.studies:
        study = find_study(name, results.benchmark.source, "studies")
        blocks = list(_blocks(study, results))
        if blocks:
            yield Section(name, study.title, study.nav, study.order, blocks)


def _blocks(study: Study, results: Results) -> Iterator[Block]:
    benchmark, plans = results.benchmark, plans_begun(results.folder, results.benchmark)
    for plan in plans[:MOST_SHOWN]:
        folder = f"studies/{study.name}/{plan.task}.{plan.model}"
        where = place(benchmark, plan.task, plan.model)
        if where:
            yield Heading(where)
        home, prefix = results.folder / folder, f"{study.name}-{plan.task}-{plan.model}-"
        record = read_object(home / RECORD, RERUN)
        records = read_figures(home / FIGURES) if study.figures is not None else []
        figures = [FigureBlock(each, f"{folder}/{FIGURES}", prefix) for each in records]
        reference = benchmark.arms[benchmark.reference].title
        shown = Shown(record, study.read_tables(home), figures, reference, plan.seeds[0])
        try:
            yield from study.show(shown)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(home / RECORD, str(error), None, RERUN) from error
        tables = [piece for name in study.columns for piece in (" ", Link(f"{name}.csv", f"{folder}/{name}.csv"))]
        yield Text(("Tables:", *tables, ". What was run: ", Link(RECORD, f"{folder}/{RECORD}"), "."), "small")
    left = [f"studies/{study.name}/{plan.task}.{plan.model}" for plan in plans[MOST_SHOWN:]]
    if left:
        named = [piece for folder in left for piece in (" ", Link(folder, f"{folder}/{RECORD}"))]
        yield Text((f"No room for {len(left)} more tasks and models; they are in", *named, "."))
