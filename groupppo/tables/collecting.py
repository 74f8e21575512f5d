"""From run folders and evaluations to tables, a batch of runs at a time."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from groupppo.config import Benchmark
from groupppo.records.folders import ResultsFolder
from groupppo.tables.batches import Batch, Job, arrow_tables, read_batch, rows_table, start_rows
from groupppo.tables.keys import Keys, found_keys, planned_keys
from groupppo.tables.runs import Plan, Start, start_of, stray_row
from groupppo.tables.writing import TableWriter

BATCH = 200
"""Runs read and written together: 60 MB at 200 steps."""


def collect(results: Path, benchmark: Benchmark, processes: int = 1) -> None:
    """Write the tidy tables of `benchmark` from the runs/ and evals/ below `results` to `results`/tables.

    Nothing that is wrong with a run stops the others. Every planned run gives a row in `runs`, also one that failed,
    that is not there or that cannot be read; so does a run that is not in the benchmark's matrix, so that a seed taken
    out after the fact stays visible. None of these is in another table. A run that can be read but fails a gate of
    `groupppo.tables.gates` is in all tables, and not admissible.

    Args:
        results: the results folder; nothing of runs/ and evals/ is changed.
        benchmark: its matrix.
        processes: that read runs, beside this one, which writes; with 1, or few runs, this one does all.
    """
    plan = Plan.of(results, benchmark)
    planned = planned_keys(benchmark)
    found, stray = found_keys(ResultsFolder(results).runs)
    runs = [(keys, True) for keys in planned] + [(keys, False) for keys in sorted(found - set(planned))]
    cells = list(dict.fromkeys((keys.task, keys.model) for keys, _ in runs))
    starts = {cell: start_of(results, *cell) for cell in cells}
    with TableWriter(ResultsFolder(results).tables) as writer:
        evals = [row for (task, model), start in starts.items() for row in start_rows(task, model, start)]
        writer.write("evals", rows_table("evals", evals))
        for batch in _read_all(list(_jobs(plan, starts, runs)), processes):
            for name, table in arrow_tables(batch):
                writer.write(name, table)
        if stray:
            # Names of a few odd folders; their rows have no seed.
            rows = [tuple(vars(stray_row(plan, folder)).values()) for folder in stray]
            writer.write("runs", rows_table("runs", rows))


def _jobs(plan: Plan, starts: dict[tuple[str, str], Start], runs: list[tuple[Keys, bool]]) -> Iterator[Job]:
    """Batches that stay within a task and model, so that a reader of one finds its rows side by side."""
    for cell, members in groupby(runs, key=lambda run: (run[0].task, run[0].model)):
        those = tuple(members)
        for first in range(0, len(those), BATCH):
            yield Job(plan, starts[cell], those[first : first + BATCH])


def _read_all(jobs: list[Job], processes: int) -> Iterator[Batch]:
    """The batches in the jobs' order; with several processes at most two more are read than there are processes."""
    if processes < 2 or len(jobs) < 2:
        yield from map(read_batch, jobs)
        return
    # Forked: a spawned process would run the workflow's script again, which has no guard.
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        waiting: deque[Future[Batch]] = deque()
        for job in jobs:
            waiting.append(pool.submit(read_batch, job))
            if len(waiting) > processes + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
