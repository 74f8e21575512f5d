"""A small finished results folder, made once by the real stages from synthetic runs, and its bundle."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groupppo.publish.bundle import make_bundle
from groupppo.report.figures import write_figures
from groupppo.report.page import write_report
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from groupppo.verdicts.preregistration import register
from tests.synthetic import write_results

MACHINE_PATH = "/somewhere/project/results/quick/runs"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three arms and three seeds with report, figures and lm-eval's files; copy before changing."""
    results = tmp_path_factory.mktemp("finished") / "quick"
    benchmark = write_results(results, seeds=(1, 2, 3), steps=8)
    for run in results.glob("runs/*/*/*/*"):
        with (run / "config.yaml").open("a", encoding="utf-8") as file:
            file.write(f"trainer.default_local_dir: {MACHINE_PATH}/{run.name}\n")
    for place in results.glob("evals/*/*/*/*"):
        if place.is_dir():
            found = {"model_name": f"{MACHINE_PATH}/checkpoint", "results": {}}
            (place / "results_2026-11-22.json").write_text(json.dumps(found), encoding="utf-8")
            sample = {"prompt": "sort /3/1/2", "resps": [f"1 {MACHINE_PATH}/secret"]}
            (place / "samples_sorting_2026-11-22.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
            (
                place.parents[4] / "runs" / place.relative_to(results / "evals") / "checkpoint" / "model.safetensors"
            ).write_bytes(b"\x08" + bytes(64))
    register(results, benchmark)
    collect(results, benchmark)
    tables = load_tables(results / "tables")
    judged = decide(load_claims(benchmark.claims), tables, benchmark)
    (results / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    write_figures(tables, benchmark, results / "figures", judged)
    write_report(results, benchmark, memory_definition="Resident memory.")
    return results


@pytest.fixture(scope="session")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(finished, tmp_path_factory.mktemp("bundle") / "bundle.zip", checkpoints=False)


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    """The bundle unpacked, to be damaged."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The results folder at another place, to be changed."""
    shutil.copytree(finished, tmp_path / "elsewhere" / "quick")
    return tmp_path / "elsewhere" / "quick"


def change_column(folder: Path, table: str, column: str, change: Callable[[dict], object]) -> None:
    """Rewrite one column of a table on disk; `change` takes a row and gives the new value."""
    file = folder / "tables" / f"{table}.parquet"
    found = pq.read_table(file)
    index = found.schema.get_field_index(column)
    values = pa.array([change(row) for row in found.to_pylist()], type=found.schema.field(index).type)
    pq.write_table(found.set_column(index, found.schema.field(index), values), file)
