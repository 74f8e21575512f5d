"""Where commands look for files, and what they print: plain text in a pipe or a file, tables as wide as a terminal."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from groupppo.errors import BadInput


def root() -> Path:
    """The repository: the nearest folder from here upwards that holds a Snakefile and benchmarks/.

    Raises:
        BadInput: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").exists() and (folder / "benchmarks").exists():
            return folder
    hint = "change into a clone of the repository (with Snakefile and benchmarks/)."
    raise BadInput(here, "folder", "outside of the repository", hint)


def short(path: Path) -> Path:
    """The path as one would type it here: relative to the working folder unless that is longer."""
    return Path(min(os.path.relpath(path), str(path), key=len))


def benchmark_file(named: str) -> Path:
    """The file of a benchmark named by path, or by name for benchmarks/<name>.yaml; a path wins.

    Raises:
        BadInput: it is a name, and this is outside of the repository.
    """
    path = Path(named)
    return path if _is_path(path) else short(root() / "benchmarks" / f"{named}.yaml")


def results_folder(named: str) -> Path:
    """Results named by path, or inside of the repository by name for results/<name>; a path wins."""
    path = Path(named)
    with contextlib.suppress(BadInput):
        return path if _is_path(path) else short(root() / "results" / named)
    return path


def _is_path(path: Path) -> bool:
    return path.exists() or len(path.parts) > 1 or bool(path.suffix)


def say(text: str = "") -> None:
    typer.echo(printable(text))


def complain(text: str) -> None:
    """To standard error."""
    typer.echo(printable(text), err=True)


def say_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def printable(text: str) -> str:
    """The text with control characters written out: names in a file could hold a terminal's escape sequences."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), *, indent: int = 0
) -> None:
    """Print rows below their heads; columns named in `right` are flush right. Cells wrap on a terminal only."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(force_terminal=terminal, width=None if terminal else 1000, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as capture:
        console.print(Padding(table, (0, 0, 0, indent), expand=False))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
