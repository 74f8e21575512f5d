"""JSON that anybody may have written, read in bounded time and memory and taken for nothing else than it says.

Refused are what Python's reader lets pass and other readers take otherwise, or what later computing would fail on: keys
written twice, NaN and infinities, numbers beyond all floats, half of a surrogate pair; and what would cost too much.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import msgspec

from groupppo.errors import BadInput

LARGEST, MOST_VALUES, DEEPEST = 64 << 20, 2_000_000, 60
"""Bytes of a file, of values at most, and levels of nesting. A bundle of the most files has a list of half of that."""
LONGEST_LINE = 8 << 20
"""Bytes of a line."""
_SHOWN = 80
_Whole = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_FLAT = msgspec.json.Decoder(dict[str, _Whole | float | str | bool | None])
"""Reads no more than `parse_json` does, in a tenth of the time: UTF-8, JSON to the letter, finite numbers."""
_HALF = re.compile("[\ud800-\udfff]")


def read_json(file: Path, hint: str) -> Any:
    """The value of a JSON file.

    Raises:
        BadInput: missing, no plain file, unreadable, larger than `LARGEST` bytes, or whatever `parse_json` refuses.
    """
    return parse_json(read_bytes(file, hint), file, "file", hint)


def read_object(file: Path, hint: str) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        BadInput: as `read_json`, and for any other value.
    """
    value = read_json(file, hint)
    if not isinstance(value, dict):
        raise BadInput(file, "file", type(value).__name__, f"not a JSON object; {hint}")
    return value


def value_at(record: Any, *keys: str) -> Any:
    """What a record that may have any form says below some keys; None where it says nothing."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def read_lines(file: Path, hint: str) -> Iterator[tuple[str, Any]]:
    """The values of a file of JSON lines, one after another, each with its place: "line 17".

    Raises:
        BadInput: no plain file is there, a line is longer than `LONGEST_LINE` bytes, or whatever `parse_json` refuses.
    """
    if not file.is_file():
        raise BadInput(file, "file", None, hint)
    with file.open("rb") as stream:
        for number in count(1):
            line, place = stream.readline(LONGEST_LINE + 1), f"line {number}"
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise BadInput(file, place, "length", f"refused: more than {LONGEST_LINE:,} bytes.")
            yield place, parse_json(line, file, place, hint)


def read_bytes(file: Path, hint: str, most: int = LARGEST) -> bytes:
    """The content of a plain file of at most `most` bytes.

    Raises:
        BadInput: it is not there, no plain file, larger, or the system cannot read it.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe could wait for ever
            raise BadInput(file, "file", "a folder" if file.is_dir() else "no plain file", hint)
        size = file.stat().st_size
        if size > most:
            raise BadInput(file, "size", size, f"refused: more than {most:,} bytes.")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(file, "file", None, hint) from error
    except OSError as error:
        raise BadInput(file, "file", error.strerror, "make the file readable.") from error


def parse_json(text: bytes, file: Path, place: str, hint: str) -> Any:
    """The value of a JSON text.

    Args:
        file, place: where the text is from, for messages. hint: what to do about text that is no JSON.

    Raises:
        BadInput: not JSON, not UTF-8, a key written twice, a number that is not finite, text that is no Unicode, more
            than `MOST_VALUES` values or `DEEPEST` levels.
    """
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise BadInput(file, place, "length", f"refused: more than {MOST_VALUES:,} values.")

    try:
        flat = _FLAT.decode(text)
    except ValueError:  # nested, or something is wrong with it
        pass
    else:
        if text.count(b":") == len(flat):  # no key is written twice
            return flat

    def number(literal: str) -> float:
        if not math.isfinite(float(literal)):
            raise BadInput(file, place, literal[:_SHOWN], "not a finite number; find out why it was written.")
        return float(literal)

    def whole(literal: str) -> int:
        if len(literal) > 300:  # beyond that it may be no float
            number(literal)
        return int(literal)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise BadInput(file, place, twice, "this key is written twice; keep the one that is meant.")
        return found

    try:
        value = json.loads(
            text.decode(), parse_constant=number, parse_float=number, parse_int=whole, object_pairs_hook=unique
        )
    except (ValueError, RecursionError) as error:
        # Python says of too many levels that it went too deep into itself.
        said = "too many levels" if isinstance(error, RecursionError) else str(error)
        shown = text[:_SHOWN].decode(errors="replace")
        raise BadInput(file, place, shown, f"not valid JSON ({said}); {hint}") from error
    _require_plain(value, file, place)
    return value


def _require_plain(value: Any, file: Path, place: str) -> None:
    """Level by level, for what is nested too deeply could not be walked otherwise."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise BadInput(file, place, "nesting", f"refused: more than {DEEPEST} levels.")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii() and _HALF.search(item):
                raise BadInput(file, place, repr(item[:_SHOWN]), "half of a surrogate pair is no text; write it anew.")
        level = below
