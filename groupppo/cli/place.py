"""Where things are: the repository around the working folder, its benchmarks and results."""

import os
from pathlib import Path

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput

_MARKS = ("Snakefile", "benchmarks")


def root() -> Path:
    """The repository: the nearest folder from here upwards that holds a Snakefile and benchmarks/.

    Raises:
        BadInput: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / mark).exists() for mark in _MARKS):
            return folder
    installed = f", such as {REPOSITORY}" if all((REPOSITORY / mark).exists() for mark in _MARKS) else ""
    hint = f"change into a clone of the repository (with Snakefile and benchmarks/){installed}."
    raise BadInput(here, "folder", "outside of the repository", hint)


def short(path: Path) -> Path:
    """The path as one would type it here: relative to the working folder unless that is longer."""
    relative = os.path.relpath(path)
    return Path(min(relative, str(path), key=len))


def benchmark_file(named: str) -> Path:
    """The file of a benchmark named by path, or by name for benchmarks/<name>.yaml; a path wins.

    Raises:
        BadInput: it is a name, and this is outside of the repository.
    """
    return Path(named) if _is_path(named) else short(root() / "benchmarks" / f"{named}.yaml")


def results_folder(named: str) -> Path:
    """Results named by path, or inside of the repository by name for results/<name>; a path wins."""
    if _is_path(named):
        return Path(named)
    try:
        return short(root() / "results" / named)
    except BadInput:
        return Path(named)


def _is_path(named: str) -> bool:
    path = Path(named)
    return path.exists() or path.name != named or bool(path.suffix)
