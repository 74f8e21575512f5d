"""From run folders and evaluations to tables, one task and model after another."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.config import Benchmark
from groupppo.records.folders import ResultsFolder
from groupppo.tables.keys import found_keys, planned_keys
from groupppo.tables.runs import Plan, Row, Run, read_run, read_start, stray_row
from groupppo.tables.schema import SCHEMA, arrow_schema

ROW_GROUP = 100_000
"""Rows written together: a reader skips those that have nothing of what it wants."""
_SIDE_BY_SIDE = {"steps": "metric", "stages": "stage", "groups": None}


def collect(results: Path, benchmark: Benchmark, processes: int = 1) -> None:
    """Write the tidy tables of `benchmark` from the runs/ and evals/ below `results` to `results`/tables.

    Nothing that is wrong with a run stops the others. Every planned run gives a row in `runs`, also one that failed,
    that is not there or that cannot be read; so does a run that is not in the benchmark's matrix, so that a seed taken
    out after the fact stays visible. None of these is in another table. A run that can be read but fails a gate of
    `groupppo.tables.gates` is in all tables, and not admissible.

    Args:
        results: the results folder; nothing of runs/ and evals/ is changed.
        benchmark: its matrix.
        processes: that read runs.
    """
    plan, planned = Plan.of(results, benchmark), planned_keys(benchmark)
    existing, stray = found_keys(ResultsFolder(results).runs)
    runs = [(keys, True) for keys in planned] + [(keys, False) for keys in sorted(existing - set(planned))]
    cells = dict.fromkeys((keys.task, keys.model) for keys, _ in runs)
    starts = {cell: read_start(results, *cell) for cell in cells}
    rows, evals = list[Row](), [row for start in starts.values() if start.evaluation for row in start.evaluation.rows]
    with ExitStack() as stack:
        writers = stack.enter_context(_writers(ResultsFolder(results).tables))
        read: Callable[..., Iterable[Run]] = map
        if processes > 1:
            # Forked: a spawned process would run the workflow's script again, which has no guard.
            read = stack.enter_context(ProcessPoolExecutor(processes, mp_context=get_context("fork"))).map
        for cell, members in groupby(runs, key=lambda run: (run[0].task, run[0].model)):
            of_cell = list(read(partial(read_run, plan, starts[cell]), members))
            rows += [run.row for run in of_cell]
            evals += [row for run in of_cell for row in run.evals]
            for name, column in _SIDE_BY_SIDE.items():
                parts = [run.tables[name] for run in of_cell if name in run.tables]
                if parts:
                    writers[name].write_table(_joined(parts, column), row_group_size=ROW_GROUP)
        rows += [stray_row(plan, folder) for folder in stray]
        for name, content in (("runs", rows), ("evals", evals)):
            writers[name].write_table(pa.Table.from_pylist(content, arrow_schema(name)))


def _joined(parts: Iterable[pa.Table], column: str | None) -> pa.Table:
    """One table of those of several runs; rows of the same text in `column` stand side by side."""
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    if column is None:
        return table
    codes = table[column].combine_chunks().indices.to_numpy()
    return table.take(np.argsort(codes, kind="stable"))


@contextmanager
def _writers(folder: Path) -> Iterator[dict[str, pq.ParquetWriter]]:
    """A writer for each table; files get their names together, when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = {name: folder / f"{name}.parquet.part" for name in SCHEMA}
    try:
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(pq.ParquetWriter(file, arrow_schema(name), write_page_checksum=True))
                for name, file in unfinished.items()
            }
        for name, file in unfinished.items():
            os.replace(file, folder / f"{name}.parquet")
    finally:
        for file in unfinished.values():
            file.unlink(missing_ok=True)
