"""Results that are written once, and copied for every test that breaks something in them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import Benchmark
from groupppo.tables import Tables, collect, load_tables
from tests.synthetic import write_results

STEPS = 5
RUN = Path("runs/sorting/tiny/group_ppo/seed2")
EVAL = Path("evals/sorting/tiny/group_ppo/seed2/result.json")
Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Benchmark]:
    folder = tmp_path_factory.mktemp("written")
    return folder, write_results(folder, steps=STEPS)


@pytest.fixture
def results(written: tuple[Path, Benchmark], tmp_path: Path) -> tuple[Path, Benchmark]:
    shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, written[1]


def tables_of(folder: Path, benchmark: Benchmark) -> Tables:
    collect(folder, benchmark)
    return load_tables(folder / "tables")


def run_row(tables: Tables, arm: str = "group_ppo", seed: int = 2) -> pd.Series:
    return tables.runs.set_index(["arm", "seed"]).loc[(arm, seed)]
