"""Tables written as their rows come: nothing waits in memory for the rest, and no half-written table takes the name."""

import os
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.tables.schema import SCHEMA, arrow_schema

PART = ".part"
_REPEATED = ("str", "category", "Int64")
"""Types of columns with few values, or with stretches of one; the others hold measurements, each its own."""


_COUNTED = ("seed", "step")
"""Columns that count up or stand still: differences take a quarter less time to write than a dictionary."""


class TableWriter:
    """Writes every table of `SCHEMA` into a folder; they get their names together, when the block ends well.

    with TableWriter(folder) as writer:
        writer.write("runs", table)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> "TableWriter":
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, columns in SCHEMA.items():
            counted = [column.name for column in columns if column.name in _COUNTED]
            few = [column.name for column in columns if column.dtype in _REPEATED and column.name not in _COUNTED]
            self._writers[name] = pq.ParquetWriter(
                self._unfinished(name),
                arrow_schema(name),
                use_dictionary=few,
                column_encoding=dict.fromkeys(counted, "DELTA_BINARY_PACKED"),
                write_page_checksum=True,
            )
        return self

    def write(self, name: str, table: pa.Table) -> None:
        """Append a row group."""
        # Neighbours in a row group may keep different texts; one file's column keeps one list at a time.
        self._writers[name].write_table(table.unify_dictionaries(), row_group_size=max(1, len(table)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()
        for name in self._writers:
            if kind is None:
                os.replace(self._unfinished(name), self._folder / f"{name}.parquet")
            else:
                self._unfinished(name).unlink(missing_ok=True)

    def _unfinished(self, name: str) -> Path:
        return self._folder / f"{name}.parquet{PART}"
