"""What a page is made of: values that say what stands on it, and nothing about HTML, Markdown or looks.

    Section("across", "Across tasks", nav="Across tasks", order=30, blocks=[Table(...), Text("...")], markdown=True)

A file of `groupppo.report.sections` makes these values, and `groupppo.report.render` writes them as HTML and Markdown.
Every text is data and is escaped; a link, code or a badge is a value of its own. `Details`, closed in HTML, are open in
Markdown, and what `TextCell.details` folds away is left out of it. Sections stand in the order of their `order`;
Markdown has those with `markdown` and names the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from groupppo.draw.wording import number


@dataclass(frozen=True)
class Span:
    """Words in a style; a badge has a colour where its text is a verdict."""

    text: str
    style: Literal["strong", "code", "badge", "quiet", "warning"]


@dataclass(frozen=True)
class Link:
    """Words that lead to a file, by its path in the results folder, or to "#" and an id of the page. Markdown has no
    such ids: there the words stand alone."""

    text: str
    to: str


Piece = str | Span | Link
Words = Piece | tuple[Piece, ...]
"""A text of one piece or of several, which are joined without a space."""
strong = partial(Span, style="strong")
code = partial(Span, style="code")
badge = partial(Span, style="badge")


def listed(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces with commas between them."""
    return tuple(part for piece in pieces for part in (piece, ", "))[:-1]


@dataclass(frozen=True)
class TextCell:
    """A cell of a table.

    Args:
        text: the value.
        under: smaller lines below it, such as its interval; a list for several.
        details: what is folded away below, each with the words to click on.
        value: what a sortable table sorts by, where the text does not sort.
        id: the cell's id on the page, for links to it.
        mark: "nowrap" keeps the text on one line, "break" breaks it anywhere, "quiet" is for what is the same.
    """

    text: Words
    under: Words | list[Words] = ""
    details: tuple[tuple[str, Words], ...] = ()
    value: float | None = None
    id: str = ""
    mark: Literal["", "nowrap", "break", "quiet"] = ""

    @property
    def lines(self) -> list[Words]:
        """The lines below the value."""
        return self.under if isinstance(self.under, list) else [self.under] if self.under else []


MOST_ROWS = 200
"""Rows that a page shows of a table whose rows are all in a file."""
Row = Sequence[TextCell | Words]
"""Cells; one without more to it may be given as its words."""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Args:
        label: what the table is, for a reader who does not see it.
        caption: how to read it; may be empty.
        head: the columns' headings.
        rows: of as many cells.
        kind: "prose" for sentences rather than numbers, "sortable" for a table that a click on a heading sorts.
        id: the table's id on the page.
        whole: a file of the results that has all rows; the page then shows the first MOST_ROWS.
    """

    label: str
    caption: str
    head: Sequence[Words]
    rows: Sequence[Row]
    kind: Literal["", "prose", "sortable"] = ""
    id: str = ""
    whole: str = ""

    @property
    def cells(self) -> list[list[TextCell]]:
        """The rows that are shown, every cell a `TextCell`."""
        rows = self.rows[:MOST_ROWS] if self.whole else self.rows
        return [[cell if isinstance(cell, TextCell) else TextCell(cell) for cell in row] for row in rows]


@dataclass(frozen=True)
class Text:
    """A paragraph; "answer" is large, "small" small and quiet."""

    words: Words
    style: Literal["", "answer", "quiet", "small"] = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class FigureRecord:
    """What is known of a figure without looking at its pictures.

    Args:
        id: what verdicts and links call it.
        title: its heading.
        caption: how to read it, number of seeds included; for a figure without files, why it is not drawn.
        files: file names by format of FORMATS, beside `figures.json`; empty when it is not drawn.
        alt: what the picture shows, in words and numbers, for readers who do not see it.
    """

    id: str
    title: str
    caption: str
    files: dict[str, str]
    alt: str


@dataclass(frozen=True)
class FigureBlock:
    """A figure by its record, or why it is not drawn. `folder` has its files, from the results folder on; `prefix`
    keeps ids apart where figures of one name stand on a page."""

    record: FigureRecord
    folder: str
    prefix: str = ""

    @property
    def anchor(self) -> str:
        return f"figure-{self.prefix}{self.record.id}"


@dataclass(frozen=True)
class List:
    """Items with a bullet each."""

    items: Sequence[Words]


@dataclass(frozen=True)
class Terms:
    """Terms, each with what it means."""

    items: Sequence[tuple[Words, Words]]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away behind a label."""

    label: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Warn:
    """Blocks in a frame that a reader must not miss."""

    blocks: Sequence["Block"]


Block = Text | Heading | Table | FigureBlock | List | Terms | Details | Warn


@dataclass(frozen=True)
class Section:
    """One part of a page; `id` is part of links, so it stays.

    The report's `order`: 10 verdicts, 20 claims and items, 30 across tasks, 40 excluded runs, 50 figures, 60 to 69
    studies, 70 the profile, 80 learning rates and what runs took, from 90 runs, arms, settings, provenance and data.
    A section without a `title` stands under the page's own; `nav` is its name in the contents.
    """

    id: str
    title: str
    nav: str
    order: int
    blocks: Sequence[Block]
    markdown: bool = False


@dataclass(frozen=True)
class Page:
    """A page: a line above its heading (`eyebrow`), the words of the link over the contents (`skip`), what stands below
    the heading, the answer first (`head`), and sections in any order."""

    title: str
    eyebrow: str
    skip: str
    head: Sequence[Block]
    sections: Sequence[Section]


def with_interval(
    value: float | None, low: float | None, high: float | None, form: Callable[[float | None], str] = number
) -> TextCell:
    """Such as 0.503 over [0.430, 0.576]; the value alone where there is no interval (None or NaN)."""
    ends = [end for end in (low, high) if end is not None and end == end]
    return TextCell(form(value), f"[{form(ends[0])}, {form(ends[1])}]" if len(ends) == 2 else "")
