"""JSON files read strictly: every value checked, and what is wrong named with file, line, value and hint."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput
from groupppo.records.plain_json import parse_json


@dataclass(frozen=True)
class Record:
    """One JSON object of a file, with checked access to its values. `place` is "line 17" or a key, or empty."""

    file: Path
    place: str
    values: dict[str, Any]

    @classmethod
    def of_file(cls, file: Path, hint: str) -> "Record":
        return cls(file, "", parse(read_bytes(file, hint), file, "file"))

    def value(self, key: str) -> Any:
        if key not in self.values:
            raise BadInput(self.file, f"{self.place} {key}".strip(), None, "produce this file again with this version.")
        return self.values[key]

    def text(self, key: str, known: tuple[str, ...] = ()) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value or (known and value not in known):
            raise self.bad(key, f"write {' or '.join(known) if known else 'a text'}.")
        return value

    def whole(self, key: str, least: int = 0) -> int:
        value = self.real(key, least=least)
        # A whole number may have passed through a float on its way into a log.
        if value is None or not value.is_integer():
            raise self.bad(key, "write a whole number.")
        return int(value)

    def real(self, key: str, missing: bool = False, least: float = -math.inf) -> float | None:
        value = self.values.get(key) if missing else self.value(key)
        if value is None and missing:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            raise self.bad(key, f"write a number{'' if least == -math.inf else f', at least {least:g}'}.")
        return float(value)

    def part(self, key: str) -> "Record":
        if not isinstance(self.value(key), dict):
            raise self.bad(key, "write an object.")
        return Record(self.file, f"{self.place} {key}".strip(), self.values[key])

    def check_keys(self, keys: Mapping[str, Any]) -> None:
        for key, expected in keys.items():
            if self.value(key) != expected:
                raise self.bad(key, f"the folder says {expected!r}; a results folder must not be renamed or copied.")

    def bad(self, key: str, hint: str) -> BadInput:
        return BadInput(self.file, f"{self.place} {key}".strip(), self.values[key], hint)


def read_bytes(file: Path, hint: str) -> bytes:
    """The file's content.

    Raises:
        BadInput: it is not there, or the system cannot read it.
    """
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BadInput(file, "file", None, hint) from error
    except OSError as error:
        raise BadInput(file, "file", error.strerror, "make the file readable, or run this cell again.") from error


def records_of(raw: bytes, file: Path) -> Iterator[Record]:
    """One record per line; a blank line is none."""
    for number, line in enumerate(raw.splitlines(), start=1):
        yield Record(file, f"line {number}", parse(line, file, f"line {number}"))


def refuse_repeats(records: list[Record], keys: tuple[str, ...]) -> None:
    """Raise BadInput, naming both lines, where two records agree in all of `keys`."""
    first: dict[tuple[Any, ...], str] = {}
    for record in records:
        row = tuple(record.value(key) for key in keys)
        if row in first:
            shown = ", ".join(f"{key} {value}" for key, value in zip(keys, row, strict=True))
            raise BadInput(record.file, record.place, shown, f"{first[row]} has the same row; run this cell again.")
        first[row] = record.place


def parse(text: bytes, file: Path, place: str) -> dict[str, Any]:
    """One JSON object, read as `plain_json` reads it.

    Raises:
        BadInput: it is anything else.
    """
    value = parse_json(text, file, place, "the run broke off here: run it again.")
    if not isinstance(value, dict):
        raise BadInput(file, place, value, "write a JSON object.")
    return value
