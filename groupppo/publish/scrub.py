"""Absolute paths taken out of published files: a reader has no use for them, and they tell who ran what where.

What is replaced depends on the files alone, never on where they lie now, so that a bundle made from a copy of the
results has the same bytes. Records that a program wrote about its own run (configs, provenance, lm-eval's results) lose
every absolute path. Text that is evidence (samples, tables, pages) loses only paths below places that the records name
and, samples apart, below folders that only machines have; a prompt about file systems stays as it is.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

REMOVED = "path-removed"
MACHINE = ("home", "root", "tmp", "Users", "mnt", "media", "scratch", "var", "opt", "private", "srv")
"""Top-level folders under which machines keep users' files."""
_PART = r"[\w.@+~%=-]+"
# Not inside a word, a URL, a relative path or a closing tag; JSON writes a new line as a letter.
_START = r"(?:(?<=file://)|(?<=\\[nrt])|(?<![\w./<\\]))"
_ABSOLUTE = re.compile(rf"{_START}/(?:{_PART}/)+(?:{_PART})?")
_KEPT = re.compile(r"/(results/.*|site-packages/.*)$")
_DATA_URI = re.compile(r"(data:[a-z/+]+;base64,[A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class Places:
    """Beginnings of absolute paths, such as "/place/project/", that are machines' own."""

    beginnings: tuple[str, ...] = ()

    @classmethod
    def of_records(cls, records: Iterable[str]) -> "Places":
        """The first two folders of every absolute path in texts of records."""
        found = {match.group() for text in records for match in _ABSOLUTE.finditer(text)}
        return cls(tuple(sorted({"/".join(path.split("/")[:3]) + "/" for path in found if path.count("/") > 2})))


def scrub_record(text: str) -> tuple[str, int]:
    """The text of a record without absolute paths, and how many were replaced.

    What follows results/ or site-packages/ stays; of other paths the last name does.
    """
    return _ABSOLUTE.subn(lambda match: _replacement(match.group()), text)


def scrub_evidence(text: str, places: Places, *, machine: bool = True) -> tuple[str, int]:
    """The text of evidence without paths below `places` or, with `machine`, below `MACHINE`; and how many."""
    beginnings = (*places.beginnings, *(f"/{name}/" for name in MACHINE if machine))
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        path = match.group()
        if not path.startswith(beginnings):
            return path
        count += 1
        return _replacement(path)

    if not any(start in text for start in beginnings):
        return text, 0
    # The text of a picture may hold anything that looks like a path.
    pieces = _DATA_URI.split(text)
    return "".join(piece if i % 2 else _ABSOLUTE.sub(replace, piece) for i, piece in enumerate(pieces)), count


def scrub_table(table: pa.Table, places: Places) -> tuple[pa.Table, int]:
    """The table with its texts scrubbed as evidence; the very same object where nothing was replaced."""
    total = 0
    for index in text_columns(table.schema):
        field = table.schema.field(index)
        scrubbed = {text: scrub_evidence(text, places) for text in _texts(table.column(index))}
        hits = {text: new for text, (new, count) in scrubbed.items() if count}
        if hits:
            values = table.column(index).to_pylist()
            total += sum(value in hits for value in values)
            column = pa.array([hits.get(value, value) for value in values], type=field.type)
            table = table.set_column(index, field, column)
    return table, total


def text_columns(schema: pa.Schema) -> list[int]:
    """Places of the columns of text; pandas writes large strings, and `groupppo.tables` writes dictionaries."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return [i for i, kind in enumerate(kinds) if pa.types.is_string(kind) or pa.types.is_large_string(kind)]


def _texts(column: pa.ChunkedArray) -> Collection[str]:
    found = {text for chunk in column.chunks for text in pc.unique(chunk).to_pylist()}
    return [text for text in found if text is not None and "/" in text]


def _replacement(path: str) -> str:
    kept = _KEPT.search(path)
    return kept.group(1) if kept else f"{REMOVED}/{path.rstrip('/').rpartition('/')[2]}"
