"""JSON that anybody may have written, read to the letter (UTF-8, finite numbers) in bounded time and memory.

A key that is written twice is refused: another reader may take the other value.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from groupppo.errors import BadInput

LARGEST, MOST_VALUES, DEEPEST = 64 << 20, 2_000_000, 60
"""Bytes of a file, of values at most, and levels of nesting. A bundle of the most files has a list of half of that."""
LONGEST_LINE, LARGEST_LINES = 8 << 20, 1 << 30
"""Bytes of a line, and of a file of lines."""
_SHOWN = 80
_LARGEST_WHOLE = 2**1023
"""Beyond it a whole number may be no float."""


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
        BadInput: no plain file is there, the system cannot read it, it has more than `LARGEST_LINES` bytes or a line of
            more than `LONGEST_LINE`, or whatever `parse_json` refuses.
    """
    if not file.is_file():
        raise BadInput(file, "file", None, hint)
    try:
        if file.stat().st_size > LARGEST_LINES:
            raise BadInput(file, "size", file.stat().st_size, f"refused: more than {LARGEST_LINES:,} bytes.")
        with file.open("rb") as stream:
            for number in count(1):
                line, place = stream.readline(LONGEST_LINE + 1), f"line {number}"
                if not line:
                    return
                if len(line) > LONGEST_LINE:
                    raise BadInput(file, place, "length", f"refused: more than {LONGEST_LINE:,} bytes.")
                yield place, parse_json(line, file, place, hint)
    except OSError as error:
        raise BadInput(file, "file", error.strerror, "make the file readable.") from error


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
        BadInput: not JSON, not UTF-8, a key written twice, a number that no float holds, more than `MOST_VALUES` values
            or `DEEPEST` levels.
    """
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise BadInput(file, place, "length", f"refused: more than {MOST_VALUES:,} values.")
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        shown = text[:_SHOWN].decode(errors="replace")
        raise BadInput(file, place, shown, f"not valid JSON ({error}); {hint}") from error
    level, depth, keys = [value], 0, 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise BadInput(file, place, "nesting", f"refused: more than {DEEPEST} levels.")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
                keys += len(item)
            elif isinstance(item, list):
                below += item
            elif isinstance(item, int) and abs(item) > _LARGEST_WHOLE:
                raise BadInput(file, place, str(item)[:_SHOWN], "no float holds this number; find out who wrote it.")
        level = below

    def unique(pairs: list[tuple[str, Any]]) -> None:
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        if twice:
            raise BadInput(file, place, twice[0][:_SHOWN], "this key is written twice; keep the one that is meant.")

    if text.count(b":") != keys:  # for a colon in a text, or a key that is written twice
        json.loads(text, object_pairs_hook=unique)
    return value
