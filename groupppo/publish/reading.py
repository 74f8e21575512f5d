"""Files of a bundle read without trust: sizes are looked at before anything is unpacked into memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.tables import SCHEMA, Only, Tables, load_tables
from groupppo.tables.schema import arrow_schema

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


def safe_tables(folder: Path, only: Mapping[str, Only]) -> Tables:
    """`load_tables`, after a look at what the files say they unpack to; `only` holds `runs` and `evals` whole.

    Raises:
        BadInput: as `load_tables`, also for a table that is not in `only`; a table of more rows or bytes than its size
            can hold honestly; a task, model or arm that is no name of a folder, for files are looked up by them.
    """
    for name in SCHEMA:
        file = folder / f"{name}.parquet"
        found = refuse_bomb(file)
        if not found.equals(arrow_schema(name)):
            mend = "not the columns and types of this version; read it with the version that wrote it."
            raise BadInput(file, "columns", found.names, mend)
    tables = load_tables(folder, only)
    for name, table in (("runs", tables.runs), ("evals", tables.evals)):
        for column in ("task", "model", "arm"):
            for text in table[column].unique():
                if text in ("", ".", "..") or "/" in text or "\0" in text:
                    raise BadInput(folder / f"{name}.parquet", column, text, "refused: not the name of a folder.")
    return tables


def refuse_bomb(file: Path) -> pa.Schema:
    """The columns of a Parquet file, after a look at what it says that it unpacks to.

    Raises:
        BadInput: it is missing, not Parquet, or says that it holds more rows or bytes than its size can hold honestly.
    """
    if not file.is_file():
        raise BadInput(file, "file", None, _MEND)
    try:
        with pq.ParquetFile(file) as table:
            metadata, schema = table.metadata, table.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise BadInput(file, "file", str(error).splitlines()[0], f"not Parquet; {_MEND}") from error
    size = file.stat().st_size
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if metadata.num_rows > FREE_ROWS + ROWS_PER_BYTE * size:
        raise BadInput(file, "rows", metadata.num_rows, "refused: more rows than a file of its size holds.")
    if unpacked > FREE_BYTES + EXPANSION * size:
        raise BadInput(file, "size", unpacked, "refused: it unpacks to far more than its size.")
    return schema
