"""What report.html tells its reader about each claim, read back from the page: nobody opens verdicts.json."""

import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

from groupppo.errors import BadInput
from groupppo.report.wording import interval, quantity

PAGE, TABLE, BADGE = "report.html", "verdict-table", "badge"
"""The page, the id of its table of verdicts, and the class of the element that holds a verdict."""
LARGEST_PAGE = 64 << 20


class Shown(NamedTuple):
    """A verdict as a reader sees it; a claim's sentence may stand for several cells."""

    claim: str
    verdict: str
    estimate: str
    interval: str

    def __str__(self) -> str:
        return " ".join([self.verdict, self.estimate, self.interval]).strip()


def shown_differences(folder: Path, verdicts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, object, object]]:
    """(claim, as decided, as the page shows it) of every verdict that the page does not show, or shows otherwise.

    Verdicts on one claim that read the same may be one row of the page.

    Raises:
        BadInput: the page is missing, larger than `LARGEST_PAGE` bytes, or has no table of verdicts.
    """
    file = folder / PAGE
    if not file.is_file():
        raise BadInput(file, "file", None, "write the report again: groupppo report.")
    if file.stat().st_size > LARGEST_PAGE:
        raise BadInput(file, "size", file.stat().st_size, f"refused: more than {LARGEST_PAGE:,} bytes.")
    page = _Page()
    page.feed(file.read_text(encoding="utf-8", errors="replace"))
    if not page.rows:
        raise BadInput(file, TABLE, None, "write the report again: it has no table of verdicts.")
    sentences = {str(entry["id"]): _plain(entry["claim"]) for entry in verdicts}
    decided = dict.fromkeys(_decided(entry) for entry in verdicts)
    found = dict.fromkeys(row.shown(sentences) for row in page.rows)
    extra = [row for row in found if row not in decided]
    for one in (one for one in decided if one not in found):
        other = next((row for row in extra if row.claim == one.claim), None)
        if other is not None:
            extra.remove(other)
        yield f"{PAGE}: {one.claim}", one, other or "no such row"
    for row in extra:
        yield f"{PAGE}: {row.claim}", "no such row", row


def _decided(entry: Mapping[str, Any]) -> Shown:
    unit = entry["unit"]
    told = quantity(entry["estimate"], unit), interval(entry["low"], entry["high"], unit)
    return Shown(_plain(entry["claim"]), entry["verdict"], *map(_plain, told))


def _plain(text: str) -> str:
    return " ".join(text.split())


class _Row:
    """A row of the table of verdicts: texts of its cells, and its badge with the place of its cell."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.badge, self.at = "", 0

    def shown(self, sentences: Mapping[str, str]) -> Shown:
        """The estimate is in the cell after the badge's; the claim is told by its sentence, or by its id."""
        head = _plain(self.cells[0]) if self.cells else ""
        claims = [text for text in sentences.values() if text in head] or [
            text for name, text in sentences.items() if name in head.split()
        ]
        numbers = self.cells[self.at + 1] if self.at + 1 < len(self.cells) else ""
        found = re.search(r"\[[^\]]*\]", numbers)
        estimate = numbers.partition("\n")[0]
        claim = max(claims, key=len, default=head[:200])
        return Shown(claim, _plain(self.badge), _plain(estimate), _plain(found[0]) if found else "")


class _Page(HTMLParser):
    """`rows`: of the body of the table of verdicts. In a cell's text every element begins a new line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[_Row] = []
        self._inside = self._body = self._badge = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside |= tag == "table" and given.get("id") == TABLE
        self._body |= self._inside and tag == "tbody"
        if not self._body:
            return
        if tag == "tr":
            self.rows.append(_Row())
        elif self.rows and tag in ("td", "th"):
            self.rows[-1].cells.append("")
        elif self.rows and self.rows[-1].cells:
            self.rows[-1].cells[-1] += "\n"
            if BADGE in (given.get("class") or "").split():
                self._badge, self.rows[-1].at = True, len(self.rows[-1].cells) - 1

    def handle_endtag(self, tag: str) -> None:
        self._badge = False
        if tag == "table":
            self._inside = self._body = False

    def handle_data(self, data: str) -> None:
        if self._body and self.rows and self.rows[-1].cells:
            self.rows[-1].cells[-1] += data
            self.rows[-1].badge += data if self._badge else ""
