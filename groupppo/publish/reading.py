"""Files of bundles, read within bounds and compared with what they should be.

Two files say the same if their bytes are the same, or all but the last digits of their numbers; of tables columns and
values are compared.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.records.plain_parquet import refuse_bomb
from groupppo.records.plain_yaml import read_yaml
from groupppo.records.seal import scrub_record
from groupppo.tables import SCHEMA, Only, Tables, load_tables
from groupppo.tables.schema import arrow_schema

RELATIVE = 1e-9
"""Numbers this close are the same: another processor may round the last digits differently."""
_NOTHING = 1e-15
"""What is left of a difference of equal numbers."""
_NUMBER = re.compile(rb"(?<![\w.])-?\d+\.\d+(?:[eE][+-]?\d+)?(?![\w.])")
# Names that matplotlib gives to clip paths by where objects lie in memory.
_CLIP = re.compile(rb'(?<=["#])p[0-9a-f]{10}(?=[")])')
_SHOWN = 120


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file of a bundle.

    Raises:
        BadInput: as `groupppo.records.plain_json.read_object`.
    """
    return read_object(file, "fetch it again, or make it again from its results.")


def flat(value: Any) -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys."""

    def leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping | list):
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from leaves(item, f"{place}.{key}" if place else str(key))
        else:
            yield place, value

    return dict(leaves(value, ""))


def config_values(file: Path) -> dict[str, Any]:
    """verl's config of a run by dotted keys, without the paths of a machine.

    Raises:
        BadInput: as `groupppo.records.plain_yaml.read_yaml`.
    """
    values = flat(read_yaml(file))
    return {key: scrub_record(value) if isinstance(value, str) else value for key, value in values.items()}


def safe_tables(folder: Path, only: Mapping[str, Only]) -> Tables:
    """`load_tables`, after a look at what the files say they unpack to; `only` holds `runs` and `evals` whole.

    Raises:
        BadInput: as `load_tables`, also for a table that is not in `only`; a table of more rows or bytes than its size
            can hold honestly; a task, model or arm that is no name of a folder, for files are looked up by them.
    """
    for name in SCHEMA:
        found = refuse_bomb(folder / f"{name}.parquet")
        if not found.equals(arrow_schema(name)):
            hint = "not the columns and types of this version; read it with the version that wrote it."
            raise BadInput(folder / f"{name}.parquet", "columns", found.names, hint)
    tables = load_tables(folder, only)
    for name, table in (("runs", tables.runs), ("evals", tables.evals)):
        for column in ("task", "model", "arm"):
            for text in table[column].unique():
                if text in ("", ".", "..") or "/" in text or "\0" in text:
                    raise BadInput(folder / f"{name}.parquet", column, text, "refused: not the name of a folder.")
    return tables


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
    lines = ours.split(b"\n"), theirs.split(b"\n")
    for number, (a, b) in enumerate(zip(*lines, strict=False), start=1):
        if a != b and not _same_line(a, b):
            start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            shown = slice(max(0, start - _SHOWN // 3), start + _SHOWN)
            told = [f"line {number}: {line[shown].decode('utf-8', 'replace')}" for line in (a, b)]
            return told[0], told[1]
    return None if len(lines[0]) == len(lines[1]) else (f"{len(lines[0])} lines", f"{len(lines[1])} lines")


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
        columns = (", ".join(f"{field.name} {field.type}" for field in table.schema) for table in (ours, theirs))
        return f"columns {next(columns)}", next(columns)
    rows = (table.to_pandas(integer_object_nulls=True, ignore_metadata=True) for table in (theirs, ours))
    try:
        pd.testing.assert_frame_equal(*rows, rtol=RELATIVE, atol=_NOTHING, check_categorical=False)
    except AssertionError as error:
        lines = str(error).splitlines()  # the last one says where the first difference is, and which
        return "the table as made", f"{lines[0]}: {lines[-1]}"[:300]
    return None
