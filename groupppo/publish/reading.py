"""Files of a bundle read without trust: sizes are looked at before anything is unpacked into memory."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.profile.tables import ProfileTables, read_tables
from groupppo.tables import SCHEMA, Tables, load_tables

LARGEST_JSON = 256 << 20
ROWS_PER_BYTE, FREE_ROWS = 20, 10_000
EXPANSION, FREE_BYTES = 200, 1 << 20
_MEND = "fetch it again, or make it again from its results."


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of sane size and depth.

    Raises:
        BadInput: missing, larger than `LARGEST_JSON` bytes, not JSON, nested too deeply or not an object.
    """
    if not file.is_file():
        raise BadInput(file, "file", None, _MEND)
    if file.stat().st_size > LARGEST_JSON:
        raise BadInput(file, "size", file.stat().st_size, f"refused: more than {LARGEST_JSON:,} bytes.")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(file, "file", type(error).__name__, f"not valid JSON; {_MEND}") from error
    if not isinstance(value, dict):
        raise BadInput(file, "file", type(value).__name__, f"not a JSON object; {_MEND}")
    return value


def safe_tables(folder: Path) -> Tables:
    """`load_tables`, after a look at what the files say they unpack to.

    Raises:
        BadInput: as `load_tables`, or a table of more rows or bytes than its size can hold honestly.
    """
    for name in SCHEMA:
        _refuse_bomb(folder / f"{name}.parquet")
    return load_tables(folder)


def safe_variants(folder: Path) -> pd.DataFrame:
    """The table `variants` of a profile in `folder`/tables, after the same look.

    Raises:
        BadInput: a table of the profile is missing, not Parquet or a bomb.
    """
    for name in ProfileTables.__dataclass_fields__:
        _refuse_bomb(folder / "tables" / f"{name}.parquet")
    return read_tables(folder / "tables").variants


def _refuse_bomb(file: Path) -> None:
    if not file.is_file():
        raise BadInput(file, "file", None, _MEND)
    try:
        metadata = pq.ParquetFile(file).metadata
    except (pa.ArrowException, OSError) as error:
        raise BadInput(file, "file", str(error).splitlines()[0], f"not Parquet; {_MEND}") from error
    size = file.stat().st_size
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if metadata.num_rows > FREE_ROWS + ROWS_PER_BYTE * size:
        raise BadInput(file, "rows", metadata.num_rows, "refused: more rows than a file of its size holds.")
    if unpacked > FREE_BYTES + EXPANSION * size:
        raise BadInput(file, "size", unpacked, "refused: it unpacks to far more than its size.")
