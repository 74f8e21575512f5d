"""Whether two files say the same: bytes, else all but the last digits of numbers; tables by their content."""

import math
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.publish.reading import refuse_bomb

RELATIVE = 1e-9
"""Numbers this close are the same: another processor may round the last digits differently."""
_NUMBER = re.compile(rb"(?<![\w.])-?\d+\.\d+(?:[eE][+-]?\d+)?(?![\w.])")
_NOTHING = 1e-15
"""What is left of a difference of equal numbers."""
_SHOWN = 120
# Names that matplotlib gives to clip paths by where objects lie in memory.
_CLIP = re.compile(rb'(?<=["#])p[0-9a-f]{10}(?=[")])')


def same_number(ours: Any, theirs: Any, relative: float = RELATIVE) -> bool:
    """Whether two numbers are the same up to `relative`, or are both missing; what is no number is never the same."""
    gone = [value is None or (isinstance(value, float) and math.isnan(value)) for value in (ours, theirs)]
    if any(gone):
        return all(gone)
    if any(isinstance(value, bool | str) or not isinstance(value, int | float) for value in (ours, theirs)):
        return False
    return math.isclose(ours, theirs, rel_tol=relative, abs_tol=_NOTHING)


def difference(made: Path, found: Path) -> tuple[str, str] | None:
    """The first difference of two files of one name, as (made, found); None where they say the same."""
    ours, theirs = made.read_bytes(), found.read_bytes()
    if ours == theirs:
        return None
    if made.suffix == ".parquet":
        return _table_difference(made, found)
    if made.suffix == ".svg":
        ours, theirs = _CLIP.sub(b"p", ours), _CLIP.sub(b"p", theirs)
    if made.suffix == ".png":
        return "the picture as drawn", "another picture"
    return _text_difference(ours, theirs)


def _text_difference(ours: bytes, theirs: bytes) -> tuple[str, str] | None:
    for number, (a, b) in enumerate(zip_longest(ours.split(b"\n"), theirs.split(b"\n")), start=1):
        if a is None or b is None:
            lines = len(ours.split(b"\n")), len(theirs.split(b"\n"))
            return f"{lines[0]} lines", f"{lines[1]} lines"
        if a != b and not _same_line(a, b):
            start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            shown = slice(max(0, start - _SHOWN // 3), start + _SHOWN)
            told = (f"line {number}: {line[shown].decode('utf-8', 'replace')}" for line in (a, b))
            return next(told), next(told)
    return None


def _same_line(a: bytes, b: bytes) -> bool:
    """Alike but for the last digits of numbers."""
    if _NUMBER.sub(b"", a) != _NUMBER.sub(b"", b):
        return False
    numbers = zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True)
    return all(x == y or same_number(float(x), float(y)) for x, y in numbers)


def _table_difference(made: Path, found: Path) -> tuple[str, str] | None:
    """Bytes depend on the library that wrote them: columns, types and values are compared."""
    refuse_bomb(found)
    ours, theirs = pq.read_table(made), pq.read_table(found)
    if not ours.schema.equals(theirs.schema):
        return f"columns {_columns(ours)}", _columns(theirs)
    if len(ours) != len(theirs):
        return f"{len(ours)} rows", f"{len(theirs)} rows"
    return next(_column_differences(ours, theirs), None)


def _columns(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)


def _column_differences(ours: pa.Table, theirs: pa.Table) -> Iterator[tuple[str, str]]:
    for name in ours.column_names:
        a, b = (_plain(table[name]) for table in (ours, theirs))
        if a.equals(b):
            continue
        if pa.types.is_floating(a.type):
            x, y = a.to_numpy(), b.to_numpy()
            if np.isclose(x, y, rtol=RELATIVE, atol=_NOTHING, equal_nan=True).all():
                continue
        values = zip(a.to_pylist(), b.to_pylist(), strict=True)
        yield from (
            (f"row {row} {name} = {x}", str(y)) for row, (x, y) in enumerate(values) if x != y and not same_number(x, y)
        )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
