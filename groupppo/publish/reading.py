"""Files of a bundle read without trust: sizes are looked at before anything is unpacked into memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.plain_json import LARGEST, read_object
from groupppo.profile.tables import ProfileTables, read_tables
from groupppo.tables import SCHEMA, Only, Tables, load_tables
from groupppo.tables.schema import arrow_schema

LARGEST_JSON = LARGEST
"""Bytes of a list of checksums."""
ROWS_PER_BYTE, FREE_ROWS = 20, 10_000
EXPANSION, FREE_BYTES = 200, 1 << 20
_MEND = "fetch it again, or make it again from its results."


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file of a bundle.

    Raises:
        BadInput: as `groupppo.plain_json.read_object`.
    """
    return read_object(file, _MEND)


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


def safe_variants(folder: Path) -> pd.DataFrame:
    """The table `variants` of a profile in `folder`/tables, after the same look.

    Raises:
        BadInput: a table of the profile is missing, not Parquet or a bomb.
    """
    for name in ProfileTables.__dataclass_fields__:
        refuse_bomb(folder / "tables" / f"{name}.parquet")
    try:
        return read_tables(folder / "tables").variants
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(folder / "tables", "file", str(error).splitlines()[0], f"damaged; {_MEND}") from error


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
