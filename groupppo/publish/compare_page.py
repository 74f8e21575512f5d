"""A comparison for people: one offline HTML page and the same in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from groupppo.draw.blocks import Page, Section, Table, Terms, Text, TextCell
from groupppo.draw.wording import MISSING, in_bytes, number, plural, ratio, seconds_text
from groupppo.publish.compare import LARGER, LEVEL, PEAK, SLOWER, ArmDifference, Comparison, Gap, is_cost
from groupppo.records.storage import write_whole
from groupppo.report.render import html, markdown

MOST_CELLS = 12
"""Cells of a differing setting that are named; further ones are counted."""


class TextTable(NamedTuple):
    """A table ready to be shown; `empty` is said in its place where it has no rows."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str


def write_comparison(comparison: Comparison, page: Path, text: Path) -> None:
    """Write the comparison as HTML and as Markdown, each replaced as a whole or not at all; their folders are made."""
    sections = []
    for order, table in enumerate(comparison_tables(comparison), start=1):
        # Paths and keys are long: they may be broken anywhere.
        rows = [[TextCell(cell, mark="break") for cell in row] for row in table.rows]
        block = Table(table.title, table.caption, table.head, rows) if rows else Text(table.empty)
        sections.append(Section(f"part-{order}", table.title, table.title, order, [block], markdown=True))
    title = f"{' and '.join(dict.fromkeys(comparison.benchmarks))}, before and after"
    sides = Terms([("a, what was", comparison.a), ("b, what is now", comparison.b)])
    answered = Text(answer(comparison), "answer")
    shown = Page(title, "GROUP-PPO bench, comparison", "Skip to the regressions", [answered, sides], sections)
    for file, content in ((page, html(shown, page.parent)), (text, markdown(shown))):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)


def answer(comparison: Comparison) -> str:
    """One or two sentences: how many regressions, and whether everything could be compared."""
    count, unplanned = len(comparison.regressions), len(comparison.gaps(Gap.UNPLANNED))
    said = f"{plural(count, 'regression')}." if count else "No regression."
    said += f" {plural(len(comparison.cells), 'cell')} compared."
    said += f" {plural(unplanned, 'cell')} {Gap.UNPLANNED}." if unplanned else ""
    if comparison.comparable:
        return said
    counts = {gap: len(comparison.gaps(gap)) for gap in Gap if gap is not Gap.UNPLANNED}
    gaps = ", ".join(f"{count} {gap}" for gap, count in counts.items() if count)
    return f"{said} Not everything could be compared: {gaps or 'no cell is on both sides'}."


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The content of both pages, in order."""
    margin = "no margin is stated" if comparison.margin is None else f"margin {comparison.margin:g}"
    metric, level = comparison.metric, _percent(LEVEL)
    return [
        TextTable(
            "Regressions",
            f"What is worse in b: steps more than {_percent(SLOWER - 1)} slower, more than {_percent(LARGER - 1)} more "
            f"memory, {metric} with an interval wholly below zero or beyond the margin ({margin}), runs "
            "that are no longer evidence.",
            ("Kind", "Where", "What"),
            comparison.regressions,
            "None.",
        ),
        TextTable(
            "Settings that differ",
            "Read the rest with these in mind. Paths and clock speeds are not compared.",
            ("Setting", "a", "b", "Cells"),
            [(each.key, each.a, each.b, _cells(each.cells)) for each in comparison.settings],
            "None: the matrices, configs, machines, software, data and evaluations are the same.",
        ),
        TextTable(
            "Not compared",
            "Cells whose machines differ keep their accuracy; their seconds and memory say nothing about the change.",
            ("What", "Why"),
            [(each.what, each.why) for each in comparison.not_compared],
            "Nothing: every cell is on both sides with all its values, and is evidence on both.",
        ),
        TextTable(
            "Arms",
            f"Means over the seeds of both sides; changes with their {level} interval, paired by seed. "
            "Seconds are medians over steps, the first ones left out.",
            ("Arm", "Quantity", "a", "b", "Change", f"{level} interval", "Seeds"),
            [_arm(arm) for arm in comparison.arms],
            "No cell can be compared.",
        ),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _cells(cells: tuple[str, ...]) -> str:
    more = f" and {len(cells) - MOST_CELLS} more" if len(cells) > MOST_CELLS else ""
    return ", ".join(cells[:MOST_CELLS]) + more or "all"


def _arm(arm: ArmDifference) -> tuple[str, ...]:
    costs = is_cost(arm.quantity)
    form = in_bytes if arm.quantity == PEAK else seconds_text if costs else number
    change, low, high = (
        MISSING if x is None else ratio(x) if costs else f"{x:+.4f}" for x in (arm.estimate, arm.low, arm.high)
    )
    interval = MISSING if arm.low is None else f"[{low}, {high}]"
    return arm.arm, arm.quantity, form(arm.a), form(arm.b), change, interval, str(arm.seeds)
