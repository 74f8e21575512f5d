"""What a job of any rule says when the disk that it writes to has no room."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from groupppo.config import REPOSITORY
from tests.disks import fill, small_disk


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("job", REPOSITORY / "workflow" / "scripts" / "job.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_much(out: Path) -> None:
    out.write_bytes(bytes(10**6))


def print_much(out: Path) -> None:
    print("x" * 10**6)


def wrapped(out: Path) -> None:
    try:
        out.write_bytes(bytes(10**6))
    except OSError as error:
        raise RuntimeError("the writer failed") from error


def told_nothing(out: Path) -> None:
    fill(out.parent)
    raise RuntimeError("the writer failed")


@pytest.mark.parametrize("body", [write_much, print_much, wrapped, told_nothing])
def test_a_full_disk_is_named_and_another_fault_keeps_its_traceback(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    body: Callable[[Path], None],
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(script.signal, "signal", lambda *_: None)
    with small_disk(tmp_path / "small", "128k") as disk:
        snakemake = SimpleNamespace(log=[str(disk / "log" / "job.txt")], output=[str(disk / "out")], config={})
        with pytest.raises(SystemExit) as ended, script.job(snakemake):
            body(disk / "out")
        assert ended.value.code == 1
        said = capsys.readouterr().err
        assert str(disk) in said
        assert "free disk (GB)" in said
        assert "No space left on device: make room there" in said
        assert "Traceback" not in said
    snakemake = SimpleNamespace(log=[str(tmp_path / "job.txt")], output=[str(tmp_path / "out")], config={})
    with pytest.raises(RuntimeError, match="the writer failed"), script.job(snakemake):
        raise RuntimeError("the writer failed")
    assert "RuntimeError: the writer failed" in (tmp_path / "job.txt").read_text()
