"""groupppo ls: what there is to compare, and where each is written."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from groupppo.cli.place import root, short
from groupppo.cli.screen import complain, say, say_json, say_table
from groupppo.errors import BadInput
from groupppo.kinds import FOLDERS, MATRICES, Entry, kind_of


class Kind(StrEnum):
    models = "models"
    tasks = "tasks"
    arms = "arms"
    claims = "claims"
    benchmarks = "benchmarks"
    profiles = "profiles"


def add(app: typer.Typer) -> None:
    app.command("ls")(ls)


def ls(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; everything unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: kinds, each a list of entries.")] = False,
) -> None:
    """List models, tasks, arms, claims, benchmarks and profiles: name, title, one line.

    A file that cannot be read is named with its fault, and the exit code is then 1.

    \b
    Examples:
      groupppo ls
      groupppo ls arms
      groupppo ls claims --json
    """
    home, faults = root() / "benchmarks", list[BadInput]()
    found = {each.value: _entries(home, each.value, faults) for each in ([kind] if kind else Kind)}
    if as_json:
        say_json({name: [asdict(entry) for entry in entries] for name, entries in found.items()})
    for number, (name, entries) in enumerate(found.items() if not as_json else ()):
        if not kind:
            say(f"{chr(10) if number else ''}{name}")
        rows = [(entry.name, entry.title, entry.line) for entry in entries]
        say_table(("name", "title", ""), rows, indent=0 if kind else 2)
        if not rows:
            say(f"none in {short(home)}")
    for fault in faults:
        complain(str(fault))
    if faults:
        raise typer.Exit(1)


def _entries(home: Path, folder: str, faults: list[BadInput]) -> list[Entry]:
    """All entries of one kind; what cannot be read goes to `faults`."""
    from groupppo.schemas import read_checked

    kind = (FOLDERS | MATRICES)[folder]
    found = []
    for file in sorted((home / folder if folder in FOLDERS else home).glob("*.yaml")):
        path = short(file)
        try:
            if kind_of(path) == kind:
                found += list(_LINES[kind](read_checked(path, kind), path))
        except BadInput as fault:
            if fault.file not in {known.file for known in faults}:
                faults.append(fault)
    return found


def _model(data: dict[str, Any], file: Path) -> Iterator[Entry]:
    sizes = ", ".join(f"{key} {value}" for key, value in data["params"].items())
    yield _named(data, file, f"{data['factory']}: {sizes}; {data['resources']['mem_mb']:,} MB a run")


def _task(data: dict[str, Any], file: Path) -> Iterator[Entry]:
    splits = ", ".join(f"{number:,} {name}" for name, number in data["splits"].items())
    yield _named(
        data, file, f"{data['generator']} {data['version']}: {splits}; at most {data['max_response_tokens']} tokens"
    )


def _arm(data: dict[str, Any], file: Path) -> Iterator[Entry]:
    yield _named(data, file, " ".join(data["description"].split()))


def _claims(data: dict[str, Any], file: Path) -> Iterator[Entry]:
    for claim in data["claims"]:
        ends = [f"{word} {claim['claimed'][key]:g}" for key, word in _ENDS if key in claim["claimed"]]
        against = f" against {claim['against']}" if "against" in claim else ""
        line = f"{claim['arm']}{against}: {claim['quantity']} {' and '.join(ends)} ({claim['rule']})"
        yield Entry(claim["id"], claim["claim"], line, str(file))


def _benchmark(data: dict[str, Any], file: Path) -> Iterator[Entry]:
    counts = [f"{len(data[key])} {key[: len(key) - (len(data[key]) == 1)]}" for key in _AXES]
    yield _named(data, file, f"{' x '.join(counts)}, {data['train']['steps']} steps")


def _profile(data: dict[str, Any], file: Path) -> Iterator[Entry]:
    yield _named(data, file, f"{len(data['shapes'])} shapes counted, {len(data['measured'])} settings measured")


def _named(data: dict[str, Any], file: Path, line: str) -> Entry:
    return Entry(data["name"], data["title"], line, str(file))


_AXES = ("models", "tasks", "arms", "seeds")
_ENDS = (("low", "at least"), ("high", "at most"))
_LINES: dict[str, Callable[[dict[str, Any], Path], Iterator[Entry]]] = {
    "model": _model,
    "task": _task,
    "arm": _arm,
    "claims": _claims,
    "benchmark": _benchmark,
    "profile": _profile,
}
