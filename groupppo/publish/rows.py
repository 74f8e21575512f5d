"""Rows of the tables against the files of the runs that they come from: none is left out, none says another thing.

Each function yields (place, as the table says, as the file says) of all that differs.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.publish.reading import read_json
from groupppo.tables import Tables
from groupppo.tables.keys import Keys, found_keys, planned_keys
from groupppo.tables.runs import SET_ASIDE
from groupppo.tables.schema import FAILED, FINISHED

RELATIVE = 1e-9
"""Numbers this close are the same: another processor may round the last digits differently."""
_STATED = ("status", "steps", "planned_steps", "wall_seconds", "startup_seconds")


def same_number(ours: Any, theirs: Any) -> bool:
    """Whether two numbers are the same up to `RELATIVE`, or are both missing; what is no number is never the same."""
    gone = [value is None or (isinstance(value, float) and math.isnan(value)) for value in (ours, theirs)]
    if any(gone):
        return all(gone)
    if any(isinstance(value, bool | str) or not isinstance(value, int | float) for value in (ours, theirs)):
        return False
    return math.isclose(ours, theirs, rel_tol=RELATIVE, abs_tol=RELATIVE)


def run_differences(folder: Path, runs: pd.DataFrame) -> Iterator[tuple[str, object, object]]:
    """Every run with a status.json has one row, and every row of a run that ended says what its status.json does."""
    home, rows = folder / "runs", dict[Keys, dict[str, Any]]()
    for row in runs.to_dict("records"):
        if pd.isna(row["seed"]):
            continue  # a stray folder; its row says so
        keys = Keys(row["task"], row["model"], row["arm"], int(row["seed"]))
        if keys in rows:
            yield f"runs: {_name(keys)}", "one row", "two rows"
        rows[keys] = {str(key): value for key, value in row.items()}
    files = {keys: _status(keys.below(home)) for keys in found_keys(home)[0]}
    for keys in sorted(keys for keys, file in files.items() if file.is_file() and keys not in rows):
        yield f"runs/{_name(keys)}", "no row in the table of runs", "a run"
    for keys in sorted(rows):
        row, file = rows[keys], files.get(keys, keys.below(home) / "status.json")
        if row["status"] not in (FINISHED, FAILED):
            continue
        name = file.relative_to(folder).as_posix()
        try:
            stated = read_json(file)
        except BadInput as error:
            yield name, f"a run that {row['status']}", "no file" if error.value is None else error.value
            continue
        for key in _STATED:
            ours, theirs = row[key], stated.get(key)
            if not (ours == theirs if key == "status" else same_number(ours, theirs)):
                yield f"{name}: {key}", ours, theirs


def evaluation_differences(folder: Path, tables: Tables, benchmark: Benchmark) -> Iterator[tuple[str, object, object]]:
    """Every row stands in the result of its evaluation; every result of a planned run that finished has its rows."""
    rows: dict[Keys, dict[str, float]] = {}
    for row in tables.evals.itertuples():
        seed = None if pd.isna(row.seed) else int(row.seed)
        rows.setdefault(Keys(row.task, row.model, row.arm, seed), {})[row.metric] = row.value
    for keys, values in rows.items():
        name = f"evals/{_name(keys)}/result.json"
        try:
            metrics = read_json(folder / name).get("metrics")
        except BadInput as error:
            yield name, "the result of rows of the table", "no file" if error.value is None else error.value
            continue
        found = {metric: _value(entry) for metric, entry in metrics.items()} if isinstance(metrics, dict) else {}
        for metric in [*values, *(metric for metric in found if metric not in values)]:
            if not (metric in values and same_number(values[metric], found.get(metric))):
                yield f"{name}: {metric}", f"{values.get(metric)} as in the table", found.get(metric)
    ended = tables.runs[(tables.runs["status"] == FINISHED) & tables.runs["seed"].notna()]
    finished = {Keys(row.task, row.model, row.arm, int(row.seed)) for row in ended.itertuples()}
    for keys in planned_keys(benchmark):
        name = f"evals/{_name(keys)}/result.json"
        if keys in finished - set(rows) and (folder / name).is_file():
            yield name, "no row in the table of evaluations", "a result"


def _status(run: Path) -> Path:
    """Where a run says how it ended: a failed one may have been set aside for another attempt."""
    file, aside = run / "status.json", run / SET_ASIDE / "status.json"
    return aside if aside.is_file() and not file.exists() else file


def _name(keys: Keys) -> str:
    return keys.below(Path()).as_posix()


def _value(entry: Any) -> Any:
    return entry.get("value") if isinstance(entry, dict) else None
