"""One template, two dialects: every block is written in both, and no text in it is more than text."""

from pathlib import Path

import pytest

from groupppo.draw.blocks import (
    Block,
    Details,
    FigureBlock,
    FigureRecord,
    Heading,
    Link,
    List,
    Page,
    Section,
    Span,
    Table,
    Terms,
    Text,
    TextCell,
    Warn,
    badge,
    code,
    strong,
    with_interval,
)
from groupppo.report.render import html, markdown

ATTACK = "<b>|*x*](y)</b>"
CELL = TextCell(
    "0.5", ["[0.4, 0.6]", Span("here", "warning")], (("more", "folded"),), value=0.5, id="cell", mark="nowrap"
)
NOT_DRAWN = FigureRecord("curve", "A curve", "Not drawn: no run.", {}, "")


def pages(*blocks: Block, markdown_too: bool = True) -> tuple[str, str]:
    """The body of the page in both dialects."""
    page = Page("Title", "eyebrow", "Skip", [Text("Answer.", "answer")], [
        Section("last", "Last", "Last", 2, [Text("Last.")], markdown=True),
        Section("first", "First", "First", 1, blocks, markdown=markdown_too),
    ])  # fmt: skip
    return html(page, Path()).partition("<main")[2], markdown(page)


@pytest.mark.parametrize(
    ("block", "in_html", "in_markdown"),
    [
        (Text("a", "small"), '<p class="small">a</p>', "\na\n"),
        (Text(("a ", strong("b"), "c")), "<p>a <strong>b</strong>c</p>", "\na **b**c\n"),
        (Text(code("a.b_c")), "<code>a.<wbr>b_c</code>", "\na.b\\_c\n"),
        (Text(badge("not testable")), '<span class="badge not-testable">not testable</span>', "**not testable**"),
        (Text(Link("a b", "x/a b.csv")), '<a href="x/a%20b.csv">a b</a>', "[a b](x/a%20b.csv)"),
        (Text(Link("above", "#last")), '<a href="#last">above</a>', "\nabove\n"),
        (Text(Link("x", "javascript:alert(1)")), '<a href="javascript%3Aalert%281%29">', "(javascript%3Aalert%281%29)"),
        (Heading("h"), "<h3>h</h3>", "\n### h\n"),
        (List(["a", "b"]), '<ul class="notes">\n<li>a</li>\n<li>b</li>\n</ul>', "\n- a\n- b\n"),
        (Terms([("a", "b")]), "<dt>a</dt><dd>b</dd>", "\n- a: b\n"),
        (Details("more", [Text("a")]), "<summary>more</summary>\n<p>a</p>", "\nmore:\n\na\n"),
        (Warn([Text("a")]), '<div class="changed">\n<p>a</p>', "\na\n"),
        (FigureBlock(NOT_DRAWN, "f", "p-"), '<figure id="figure-p-curve"', "### A curve\n\nNot drawn: no run."),
        (
            Table("t", "c", ["A", "B"], [["a", CELL]]),
            '<tr><th scope="row">a</th><td',
            "| a | 0.5 (\\[0.4, 0.6\\]; here) |",
        ),
        (Table("t", "", ["A"], [["a"]], "sortable", "i"), '<table id="i" class="sortable">', "| A |\n|---|\n| a |"),
    ],
)
def test_a_block_is_written_in_both_dialects(block: Block, in_html: str, in_markdown: str) -> None:
    page, text = pages(block)
    assert in_html in page
    assert in_markdown in text


def test_a_cell_has_its_id_value_and_lines_and_folds_away_the_rest() -> None:
    page, text = pages(Table("t", "c", ["A"], [["a", CELL]]))
    assert '<td id="cell" class="nowrap" data-value="0.5">0.5<span class="under">[0.4, 0.6]</span>' in page
    assert "<summary>more</summary>folded</details>" in page
    assert "folded" not in text


def test_sections_stand_in_their_order_and_markdown_names_those_that_it_leaves_out() -> None:
    page, text = pages(Text("Of the first."), markdown_too=False)
    assert page.index('<section id="first">') < page.index('<section id="last">')
    assert "Of the first." not in text
    assert text.endswith("\nIn `report.html` alone: First.\n")
    assert "alone" not in pages()[1]


@pytest.mark.parametrize(
    "block",
    [
        Text((ATTACK, Link(ATTACK, "x"), code(ATTACK), badge(ATTACK), strong(ATTACK), Span(ATTACK, "warning"))),
        Table(ATTACK, ATTACK, [ATTACK], [[TextCell(ATTACK, ATTACK, ((ATTACK, ATTACK),))]]),
        List([ATTACK]),
        Terms([(ATTACK, ATTACK)]),
        Details(ATTACK, [Heading(ATTACK)]),
        FigureBlock(FigureRecord("f", ATTACK, ATTACK, {}, ATTACK), ATTACK),
    ],
)
def test_text_is_escaped_in_every_place(block: Block) -> None:
    page, text = pages(block)
    assert "<b>" not in page.replace("<wbr>", "")
    assert "&lt;b&gt;" in page
    assert "\\<b\\>\\|\\*x\\*\\](y)\\</b\\>" in text
    assert "<b>" not in text


def test_a_value_without_an_interval_stands_alone() -> None:
    assert with_interval(0.503, 0.43, 0.576) == TextCell("0.503", "[0.430, 0.576]")
    assert with_interval(0.503, None, None) == with_interval(0.503, float("nan"), 1.0) == TextCell("0.503")
