"""A small finished results folder, made once by the real stages from synthetic runs, and its bundle."""

import contextlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groupppo.publish.bundle import make_bundle
from tests.publish.made import save_stand_in, write_whole_results


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Pictures are stand-ins: drawing ten figures takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupppo.draw.figures.save", save_stand_in)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_drawing() -> Iterator[None]:
    with stand_ins():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three arms and three seeds with report, figures and lm-eval's files; copy before changing."""
    results = tmp_path_factory.mktemp("finished") / "quick"
    with stand_ins():
        write_whole_results(results)
    for run in results.glob("runs/*/*/*/*"):
        (run / "checkpoint" / "model.safetensors").write_bytes(b"\x08" + bytes(64))
    return results


@pytest.fixture(scope="session")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with stand_ins():
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
