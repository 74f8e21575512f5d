"""Tables read back: whole, or only the rows and columns that are wanted."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.tables.schema import SCHEMA, arrow_schema

_HINT = "delete the tables folder and collect the results again."


@dataclass(frozen=True)
class Only:
    """Part of a table: columns in the table's order, none named for all, and the texts that a column may have."""

    columns: tuple[str, ...] = ()
    where: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """The tidy tables of a results folder, columns as in `SCHEMA`."""

    runs: pd.DataFrame
    steps: pd.DataFrame
    stages: pd.DataFrame
    groups: pd.DataFrame
    evals: pd.DataFrame

    def cell(self, name: str, task: str, model: str) -> pd.DataFrame:
        """The rows of a table that are of this task and model."""
        table: pd.DataFrame = getattr(self, name)
        return table[(table["task"] == task) & (table["model"] == model)]


@dataclass(frozen=True)
class StoredTables:
    """As `Tables`, on disk: `cell` reads of a task and model what `only` names of the table, and keeps nothing."""

    folder: Path
    only: Mapping[str, Only] = field(default_factory=dict)

    @cached_property
    def runs(self) -> pd.DataFrame:
        return load_table(self.folder, "runs")

    def cell(self, name: str, task: str, model: str) -> pd.DataFrame:
        """As `Tables.cell`."""
        part = self.only.get(name, Only())
        return load_table(self.folder, name, replace(part, where={**part.where, "task": [task], "model": [model]}))


def load_tables(folder: Path, only: Mapping[str, Only] | None = None) -> Tables:
    """Read the tables that `collect` wrote to `folder`.

    Args:
        folder: the tables folder.
        only: the tables to read, by name, and what of each; None for all of all. Others are None.

    Raises:
        BadInput: a table is missing, truncated, damaged, or has other columns than `SCHEMA`.
    """
    wanted = dict.fromkeys(SCHEMA, Only()) if only is None else only
    tables: dict[str, Any] = {
        name: load_table(folder, name, wanted[name]) if name in wanted else None for name in SCHEMA
    }
    return Tables(**tables)


def load_table(folder: Path, name: str, only: Only | None = None) -> pd.DataFrame:
    """Read one table, or part of it, as `load_tables` does."""
    file, part = folder / f"{name}.parquet", only or Only()
    if not file.is_file():
        raise BadInput(file, "file", None, _HINT)
    columns = [column for column in SCHEMA[name] if not part.columns or column.name in part.columns]
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as source:
            if not source.schema_arrow.equals(arrow_schema(name)):
                hint = f"not the columns and types of this version; {_HINT}"
                raise BadInput(file, "columns", source.schema_arrow.names, hint)
            table = _rows(source, [column.name for column in columns], part.where)
    except (pa.ArrowException, OSError) as error:
        hint = f"the file is truncated, damaged or not Parquet; {_HINT}"
        raise BadInput(file, "file", str(error).splitlines()[0], hint) from error
    return pd.DataFrame({column.name: _series(table[column.name], column.dtype) for column in columns}, copy=False)


def _rows(source: pq.ParquetFile, columns: list[str], where: Mapping[str, Collection[str]]) -> pa.Table:
    """The rows that `where` picks, read a row group at a time. Arrow's own filters read every row group, for they do
    not look at the statistics of dictionary columns."""
    read = list(dict.fromkeys([*columns, *where]))
    parts = [source.schema_arrow.empty_table().select(read)]
    for number in range(source.num_row_groups):
        if _may_hold(source.metadata.row_group(number), where):
            part = source.read_row_group(number, columns=read)
            for column, values in where.items():
                part = part.filter(pc.is_in(part[column].cast(pa.string()), pa.array(sorted(values), pa.string())))
            parts.append(part)
    return pa.concat_tables(parts).select(columns)


def _may_hold(group: pq.RowGroupMetaData, where: Mapping[str, Collection[str]]) -> bool:
    """Whether the least and the greatest text of every column of `where` leave room for one of its values."""
    for chunk in (group.column(i) for i in range(group.num_columns)):
        texts, values = chunk.statistics, where.get(chunk.path_in_schema)
        if values is None or texts is None or not texts.has_min_max:
            continue
        if not any(texts.min <= value <= texts.max for value in values):
            return False
    return True


def _series(values: pa.ChunkedArray, dtype: str) -> pd.Series:
    if dtype == "Int64":
        return pd.Series(pd.Int64Dtype().__from_arrow__(values))
    if dtype == "category":
        return values.unify_dictionaries().to_pandas()
    return values.to_pandas().astype(dtype)
