"""A repository to follow the pages in, and its commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Workflow and benchmarks of the repository in a folder, with its environment and nothing computed."""
    for name in [
        "Snakefile",
        "workflow",
        "benchmarks",
        "requirements",
        "environment.yml",
        "pyproject.toml",
        "Makefile",
    ]:
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    (tmp_path / "profiles").symlink_to((REPOSITORY / "profiles").readlink())
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    return tmp_path


@pytest.fixture
def shell(project: Path):
    """Run a line in bash, in the project with what is published, with its environment's commands on the path."""
    shutil.copytree(REPOSITORY / "results" / "reference", project / "results" / "reference")

    def run(line: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "PATH": f"{project / '.venv' / 'bin'}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(project / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            ["bash", "-e", "-c", line], cwd=project, env=environment, capture_output=True, text=True, timeout=300
        )

    return run
