"""Tables read back: whole, or only the rows and columns that are wanted."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.tables.schema import SCHEMA, arrow_schema

_MEND = "delete the tables folder and collect the results again."


@dataclass(frozen=True)
class Only:
    """Part of a table: the columns, in the table's order (none named: all), and the texts that a column may have."""

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
    _cells: dict[str, dict[tuple[str, str], pd.DataFrame]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def cell(self, name: str, task: str, model: str) -> pd.DataFrame:
        """The rows of a table that are of this task and model; found once for all tasks and models."""
        if name not in self._cells:
            table: pd.DataFrame = getattr(self, name)
            by_cell = table.groupby(["task", "model"], sort=False, observed=True)
            self._cells[name] = {cell: table.iloc[_places(rows)] for cell, rows in by_cell.indices.items()}
        found = self._cells[name].get((task, model))
        return getattr(self, name).iloc[:0] if found is None else found


class HasCells(Protocol):
    """What `Tables` and `StoredTables` share, for whoever looks at one task and model after another."""

    @property
    def runs(self) -> pd.DataFrame: ...

    def cell(self, name: str, task: str, model: str) -> pd.DataFrame: ...


@dataclass(frozen=True)
class StoredTables:
    """Tables that stay on disk: `cell` reads the rows of a task and model when they are asked for, and keeps nothing.

    Args:
        folder: the tables folder.
        only: what of each table `cell` reads; a table that is not named is read whole.
    """

    folder: Path
    only: Mapping[str, Only] = field(default_factory=dict)

    @cached_property
    def runs(self) -> pd.DataFrame:
        return load_table(self.folder, "runs")

    def cell(self, name: str, task: str, model: str) -> pd.DataFrame:
        """As `Tables.cell`."""
        part = self.only.get(name, Only())
        return load_table(self.folder, name, replace(part, where={**part.where, "task": [task], "model": [model]}))


class _NotLoaded:
    """Stands for a table that was not asked for; whoever uses it is told so."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(f"the table {self._name} was not loaded: name it in `only` ({attribute} was wanted)")


def load_tables(folder: Path, only: Mapping[str, Only] | None = None) -> Tables:
    """Read the tables that `collect` wrote to `folder`.

    Args:
        folder: the tables folder.
        only: the tables to read, by name, and what of each; None for all of all. Parquet is read by column and row
            group, so a metric of `steps` or a stage of `stages` costs its own size.

    Raises:
        BadInput: a table is missing, truncated, damaged, or has other columns than `SCHEMA`.
    """
    wanted = dict.fromkeys(SCHEMA, Only()) if only is None else only
    return Tables(**{name: _table(folder, name, wanted) for name in SCHEMA})


def _table(folder: Path, name: str, wanted: Mapping[str, Only]) -> Any:
    return load_table(folder, name, wanted[name]) if name in wanted else _NotLoaded(name)


def load_table(folder: Path, name: str, only: Only | None = None) -> pd.DataFrame:
    """Read one table, or part of it, as `load_tables` does."""
    file, part = folder / f"{name}.parquet", only or Only()
    if not file.is_file():
        raise BadInput(file, "file", None, _MEND)
    columns = [column for column in SCHEMA[name] if not part.columns or column.name in part.columns]
    try:
        _check_schema(file, name, pq.read_schema(file))
        table = _rows(file, [column.name for column in columns], part.where)
    except (pa.ArrowException, OSError) as error:
        hint = f"the file is truncated, damaged or not Parquet; {_MEND}"
        raise BadInput(file, "file", str(error).splitlines()[0], hint) from error
    return pd.DataFrame({column.name: _series(table[column.name], column.dtype) for column in columns}, copy=False)


def _rows(file: Path, columns: list[str], where: Mapping[str, Collection[str]]) -> pa.Table:
    """The rows that `where` picks. Row groups are told apart here: Arrow's own filters do not look at the statistics
    of dictionary columns, and would read all of a table for one metric."""
    with pq.ParquetFile(file, page_checksum_verification=True) as source:
        groups = [i for i, ranges in enumerate(_ranges(file, file.stat().st_mtime_ns)) if _may_hold(ranges, where)]
        table = source.read_row_groups(groups, columns=list(dict.fromkeys([*columns, *where])))
    for column, values in where.items():
        table = table.filter(pc.is_in(table[column].cast(pa.string()), pa.array(sorted(values), pa.string())))
    return table.select(columns)


@cache
def _ranges(file: Path, _written: int) -> list[dict[str, tuple[str, str]]]:
    """Least and greatest text of the columns of every row group; a column without statistics is left out."""
    metadata = pq.read_metadata(file)
    texts = [i for i, field in enumerate(pq.read_schema(file)) if pa.types.is_dictionary(field.type)]
    found = []
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        chunks = [group.column(i) for i in texts]
        found.append(
            {
                chunk.path_in_schema: (chunk.statistics.min, chunk.statistics.max)
                for chunk in chunks
                if chunk.statistics is not None and chunk.statistics.has_min_max
            }
        )
    return found


def _may_hold(ranges: Mapping[str, tuple[str, str]], where: Mapping[str, Collection[str]]) -> bool:
    return all(
        column not in ranges or any(ranges[column][0] <= value <= ranges[column][1] for value in values)
        for column, values in where.items()
    )


def _check_schema(file: Path, name: str, found: pa.Schema) -> None:
    if not found.equals(arrow_schema(name)):
        raise BadInput(file, "columns", found.names, f"not the columns and types of this version; {_MEND}")


def _series(values: pa.ChunkedArray, dtype: str) -> pd.Series:
    if dtype == "Int64":
        return pd.Series(pd.Int64Dtype().__from_arrow__(values))
    if dtype == "category":
        return values.unify_dictionaries().to_pandas()
    return values.to_pandas().astype(dtype)


def _places(rows: Any) -> Any:
    """A slice where the places follow one another, which copies nothing."""
    return slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
