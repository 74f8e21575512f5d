"""A repository of its own for commands to work in: benchmarks that may be changed, and no results."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groupppo.cli.__main__ import app
from groupppo.config import REPOSITORY


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test: a repository with the real benchmarks."""
    shutil.copytree(REPOSITORY / "benchmarks", tmp_path / "benchmarks")
    shutil.copy(REPOSITORY / "Snakefile", tmp_path / "Snakefile")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Outcome:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture(scope="session")
def groupppo() -> Callable[..., Outcome]:
    """Run a command; an error that is nobody's input is raised."""

    def call(*arguments: object) -> Outcome:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Outcome(done.exit_code, done.stdout, done.stderr)

    return call
