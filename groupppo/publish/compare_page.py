"""A comparison for people: one offline HTML page and the same in Markdown; all text from files is escaped in both."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groupppo.draw.wording import MISSING, in_bytes, number, plural, ratio, seconds_text
from groupppo.publish.compare import LARGER, LEVEL, SLOWER, ArmDifference, Comparison
from groupppo.publish.settings import SHOWN, SettingDifference
from groupppo.report.render import content_policy, write_page

_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|&~])")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
"""Some readers of Markdown run HTML that is escaped by a backslash."""


@dataclass(frozen=True)
class TextTable:
    """A table ready to be shown; `empty` is said in its place where it has no rows."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str


def write_comparison(comparison: Comparison, html: Path, markdown: Path) -> None:
    """Write the pages, each replaced as a whole or not at all; their folders are made."""
    tables = comparison_tables(comparison)
    for file in (html, markdown):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_page(html, _as_html(comparison, tables))
    write_page(markdown, _as_markdown(comparison, tables))


def answer(comparison: Comparison) -> str:
    """One or two sentences: how many regressions, and whether everything could be compared."""
    count = len(comparison.regressions)
    told = f"{plural(count, 'regression')}." if count else "No regression."
    told += f" {plural(len(comparison.cells), 'cell')} compared."
    if comparison.unplanned:
        told += f" {plural(len(comparison.unplanned), 'cell')} not planned on both sides."
    if comparison.comparable:
        return told
    parts = {
        "only in a": len(comparison.only_a),
        "only in b": len(comparison.only_b),
        "no evidence on a side": len(comparison.excluded),
        "with seconds and memory withheld": len(comparison.withheld),
        "kinds of values on one side only": len(comparison.lost),
    }
    left = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    return f"{told} Not everything could be compared: {left or 'no cell is on both sides'}."


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The content of both pages, in order."""
    alone = [(cell, "only in a") for cell in comparison.only_a] + [(cell, "only in b") for cell in comparison.only_b]
    alone += [(cell, f"not in the matrix of {side}") for cell, side in comparison.unplanned]
    margin = "no margin is stated" if comparison.margin is None else f"margin {comparison.margin:g}"
    return [
        TextTable(
            "Regressions",
            f"What is worse in b: steps more than {_percent(SLOWER - 1)} slower, more than {_percent(LARGER - 1)} more "
            f"memory, {comparison.metric} with an interval wholly below zero or beyond the margin ({margin}), runs "
            "that are no longer evidence.",
            ("Kind", "Where", "What"),
            [(found.kind, found.place, found.told) for found in comparison.regressions],
            "None.",
        ),
        TextTable(
            "Settings that differ",
            "Read the rest with these in mind. Paths and clock speeds are not compared.",
            ("Setting", "a", "b", "Cells"),
            [_setting(difference) for difference in comparison.settings],
            "None: the matrices, configs, machines, software, data and evaluations are the same.",
        ),
        TextTable(
            "Not compared",
            "Cells whose machines differ keep their accuracy; their seconds and memory say nothing about the change.",
            ("What", "Why"),
            [
                (told.partition(": ")[0], told.partition(": ")[2])
                for told in (*comparison.withheld, *comparison.excluded, *comparison.lost)
            ]
            + alone,
            "Nothing: every cell is on both sides with all its values, and is evidence on both.",
        ),
        TextTable(
            "Arms",
            f"Means over the seeds of both sides; changes with their {_percent(LEVEL)} interval, paired by seed. "
            "Seconds are medians over steps, the first ones left out.",
            ("Arm", "Quantity", "a", "b", "Change", f"{_percent(LEVEL)} interval", "Seeds"),
            [_arm(arm) for arm in comparison.arms],
            "No cell can be compared.",
        ),
        TextTable(
            "Cells",
            "Each run in both: median seconds of a step, memory at the peak, held-out "
            f"{comparison.metric}. A cell that is no evidence on a side is not shown.",
            (
                "Cell",
                "Step in a",
                "Step in b",
                "Memory in a",
                "Memory in b",
                f"{comparison.metric} in a",
                f"{comparison.metric} in b",
            ),
            [
                (
                    str(pair.cell),
                    *map(seconds_text, pair.seconds),
                    *map(in_bytes, pair.peak_bytes),
                    *map(number, pair.accuracy),
                )
                for pair in comparison.cells
            ],
            "No cell can be compared.",
        ),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _setting(difference: SettingDifference) -> tuple[str, ...]:
    shown = ", ".join(difference.cells[:SHOWN])
    more = f" and {len(difference.cells) - SHOWN} more" if len(difference.cells) > SHOWN else ""
    return difference.key, difference.a, difference.b, f"{shown}{more}" if difference.cells else "all"


def _arm(arm: ArmDifference) -> tuple[str, ...]:
    form = _form(arm.quantity)
    change = ratio(arm.estimate) if arm.ratio else f"{arm.estimate:+.4f}"
    interval = MISSING
    if arm.low is not None and arm.high is not None:
        ends = (ratio(arm.low), ratio(arm.high)) if arm.ratio else (f"{arm.low:+.4f}", f"{arm.high:+.4f}")
        interval = f"[{ends[0]}, {ends[1]}]"
    place = f"{arm.task}/{arm.model}/{arm.arm}"
    return place, arm.quantity, form(arm.a), form(arm.b), change, interval, str(arm.seeds)


def _form(quantity: str) -> Callable[[float | None], str]:
    return seconds_text if quantity.startswith("seconds") else in_bytes if quantity == "peak memory" else number


def _as_html(comparison: Comparison, tables: list[TextTable]) -> str:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("groupppo.publish"), PackageLoader("groupppo.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup(environment.get_template("report.css").render())
    return environment.get_template("compare.html.j2").render(
        comparison=comparison,
        answer=answer(comparison),
        tables=tables,
        style=style,
        policy=content_policy(style, ""),
    )


def _as_markdown(comparison: Comparison, tables: list[TextTable]) -> str:
    benchmarks = " and ".join(dict.fromkeys(comparison.benchmarks))
    lines = [f"# Comparison of {_plain(benchmarks)}", "", _plain(answer(comparison)), ""]
    lines += [f"- a: {_plain(comparison.a)}", f"- b: {_plain(comparison.b)}", ""]
    for table in tables:
        lines += [f"## {table.title}", "", _plain(table.caption if table.rows else table.empty), ""]
        if table.rows:
            lines += [_row(table.head), _row(("---",) * len(table.head), marks=True)]
            lines += [*map(_row, table.rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: tuple[str, ...], marks: bool = False) -> str:
    return f"| {' | '.join(cells if marks else map(_plain, cells))} |"


def _plain(text: str) -> str:
    """Text in which Markdown finds no marks, no HTML and no end of a line."""
    return _MARKS.sub(lambda mark: _ENTITIES.get(mark[0], f"\\{mark[0]}"), " ".join(text.split()))
