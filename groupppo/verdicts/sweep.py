"""Learning rates by the pilot: every arm swept over the same rates, and the spread that the seeds are counted from.

A pilot is a benchmark whose `learning_rates` are lists (groupppo/rates.py). The benchmark that names it as its `pilot`
trains each arm at the rate at which the pilot's mean held-out accuracy was highest, the lower of equals.
"""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from groupppo.config import Benchmark
from groupppo.config.benchmark import RATE_KEY as KEY
from groupppo.config.benchmark import rate_title
from groupppo.errors import BadInput
from groupppo.records.plain_yaml import read_yaml
from groupppo.records.where import Found, find
from groupppo.tables import Only, load_tables

RECORD, TABLE = "benchmark.yaml", "sweep.parquet"
METRIC = "accuracy"
_READ = (RECORD, "tables/runs.parquet", "tables/evals.parquet")
COLUMNS = ("task", "model", "arm", "title", "rate", "seed", "accuracy")
"""Of the table: cell, the arm's file and title, the policy's learning rate, training seed, held-out greedy accuracy."""


def pilot_place(pilot: Path, results: Path) -> Found:
    """Where a pilot's tables are, a folder of results or a bundle.zip of the pilot's name.

    This machine's own in the folder of results folders `results` if there are any, else the published ones.

    Raises:
        BadInput: there is neither.
    """

    def place(home: Path) -> Path | None:
        folder, bundle = home / pilot.stem, home / f"{pilot.stem}.zip"
        if all((folder / file).is_file() for file in _READ):
            return folder
        return bundle if bundle.is_file() else None

    found = find(results, place)
    if found is None:
        raise BadInput(pilot, "tables", list(_READ), f"run it first: snakemake --config benchmark={pilot}")
    return found


@contextlib.contextmanager
def opened_pilot(place: Path) -> Iterator[Path]:
    """The folder with a pilot's matrix and tables; of a bundle these are unpacked, for as long as it lasts.

    Raises:
        BadInput: the bundle is damaged, or lacks one of them.
    """
    if place.is_dir():
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="groupppo-") as folder:
        try:
            with zipfile.ZipFile(place) as bundle:
                bundle.extractall(folder, _READ)
        except (zipfile.BadZipFile, KeyError) as error:
            raise BadInput(place, "file", str(error), "restore the bundle from a copy, or run the pilot.") from error
        yield Path(folder)


def write_sweep(benchmark: Benchmark, results: Path, out: Path) -> pd.DataFrame:
    """Write `out`/sweep.parquet from the pilot of `benchmark`, with the pilot's benchmark.yaml beside it.

    Returns:
        The table, with columns that say where the pilot was found (`Found.columns`).

    Raises:
        BadInput: there is no pilot, it is not one, or a run of it is no evidence.
    """
    if benchmark.pilot is None:
        raise BadInput(benchmark.source, "pilot", None, "name the benchmark that swept the learning rates.")
    found = pilot_place(benchmark.pilot, results)
    with opened_pilot(found.path) as folder:
        tables = load_tables(folder / "tables", {"runs": Only(), "evals": Only()})
        table = sweep_table(read_record(folder / RECORD), tables.runs, tables.evals).assign(**found.columns())
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / RECORD, out / RECORD)
    table.to_parquet(out / TABLE, index=False)
    return table


def read_record(file: Path) -> dict[str, Any]:
    """The pilot's benchmark.yaml.

    Raises:
        BadInput: it is missing, or no matrix with swept arms.
    """
    record = read_yaml(file) if file.is_file() else None
    if not isinstance(record, dict) or not isinstance(record.get("arms"), dict):
        raise BadInput(file, "arms", None, "run the pilot first, with this version.")
    if not any(arm.get("swept_from") for arm in record["arms"].values()):
        raise BadInput(file, "arms", list(record["arms"]), "give its arms several rates under learning_rates.")
    return record


def sweep_table(record: dict[str, Any], runs: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """One row for each swept run of the pilot's resolved matrix, columns COLUMNS, in the order of its arms.

    Raises:
        BadInput: a run is missing or inadmissible: a rate chosen among what is left would not be the pilot's.
    """
    known = {(row.task, row.model, row.arm, row.seed): row for row in runs.itertuples()}
    scores = evals[evals["metric"] == METRIC].set_index(["task", "model", "arm", "seed"])["value"]
    swept = [(name, arm) for name, arm in record["arms"].items() if arm.get("swept_from")]
    rows = []
    for (name, arm), task, model, seed in product(swept, record["tasks"], record["models"], record["seeds"]):
        run = known.get((task, model, name, seed))
        if run is None or not run.admissible:
            why = "not there" if run is None else run.reason
            hint = f"run the pilot to its end: {task}/{model}/{name}/seed{seed} is no evidence ({why})."
            raise BadInput("runs.parquet", "admissible", False, hint)
        rate = float(arm["verl"][KEY])
        title = str(arm["title"]).removesuffix(rate_title("", rate))
        value = float(scores.loc[(task, model, name, seed)])
        rows.append((task, model, arm["swept_from"], title, rate, int(seed), value))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def chosen_rates(table: pd.DataFrame) -> dict[str, float]:
    """By arm, the rate with the highest mean accuracy over tasks, models and seeds; the lower of equals."""
    means = table.groupby(["arm", "rate"], sort=True)["accuracy"].mean().round(12)
    return {str(arm): float(own.droplevel("arm").idxmax()) for arm, own in means.groupby("arm", sort=False)}


def at_an_end(table: pd.DataFrame) -> list[str]:
    """Arms whose best rate is the lowest or the highest that was tried, so that a better one may lie beyond."""
    best, ends = chosen_rates(table), table.groupby("arm")["rate"].agg(["min", "max"])
    return [arm for arm in dict.fromkeys(table["arm"]) if best[arm] in set(ends.loc[arm])]


def paired_spread(table: pd.DataFrame, reference: str) -> tuple[float, int]:
    """Standard deviation of the paired difference to the reference, pooled over arms, each at its best rate.

    Args:
        table: of `sweep_table`.
        reference: the arm that the others are compared with, paired by task, model and seed.

    Returns:
        sqrt(mean of the arms' variances), and its degrees of freedom, arms x (seeds - 1) within each cell. Arms share
        the reference's runs, so that it is known a little less well than so many degrees of freedom say.

    Raises:
        ValueError: fewer than two seeds, or no arm but the reference.
    """
    best = chosen_rates(table)
    kept = table[table["rate"] == table["arm"].map(best)]
    wide = kept.pivot(index=["task", "model", "seed"], columns="arm", values="accuracy")
    differences = wide.drop(columns=reference).sub(wide[reference], axis=0)
    within = differences.groupby(level=["task", "model"]).var(ddof=1)
    seeds = len(set(table["seed"]))
    if seeds < 2 or differences.shape[1] == 0:
        raise ValueError(f"{seeds} seeds and {differences.shape[1]} arms beside {reference}: no spread of differences")
    return float(np.sqrt(within.to_numpy().mean())), within.size * (seeds - 1)
