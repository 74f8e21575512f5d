"""What commands print: plain text in a pipe or a file, tables as wide as the terminal on one; JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

_WIDE = 1000
_SAFE = "\n\t"


def say(text: str = "") -> None:
    typer.echo(printable(text))


def complain(text: str) -> None:
    """To standard error."""
    typer.echo(printable(text), err=True)


def say_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def printable(text: str) -> str:
    """The text with control characters written out: names in a file could hold a terminal's escape sequences."""
    return "".join(c if c.isprintable() or c in _SAFE else c.encode("unicode_escape").decode() for c in text)


def say_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = (), *, indent: int = 0
) -> None:
    """Print rows below their heads; columns named in `right` are flush right. Cells wrap on a terminal only."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        force_terminal=terminal,
        width=None if terminal else _WIDE,
        markup=False,
        emoji=False,
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    with console.capture() as capture:
        console.print(Padding(table, (0, 0, 0, indent), expand=False))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
