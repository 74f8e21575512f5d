"""A wheel has what the commands need outside of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel made of this tree was installed."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    shutil.copytree(REPOSITORY / "groupppo", source / "groupppo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*PIP, "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheels, source], check=True)
    subprocess.run([*PIP, "install", *offline, "--target", target, *wheels.glob("*.whl")], check=True)
    return target


def test_a_wheel_reads_bundles_outside_of_the_repository(installed: Path, bundle: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "groupppo.cli", "compare", bundle, bundle, "--out", "page"]
    env = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(arguments, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "page/compare.md"


def test_a_wheel_has_every_file_of_the_package_that_is_read_at_run_time(installed: Path) -> None:
    def data(root: Path) -> set[str]:
        files = (file.relative_to(root) for file in (root / "groupppo").rglob("*") if file.is_file())
        return {file.as_posix() for file in files if file.suffix not in (".py", ".pyc", ".nbi", ".nbc")}

    assert data(REPOSITORY) == data(installed)
