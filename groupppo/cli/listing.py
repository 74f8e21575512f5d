"""groupppo ls and groupppo validate: the files of benchmarks/, and every fault in them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from groupppo.cli.terminal import complain, root, say, say_json, say_table, short
from groupppo.errors import BadInput


class Kind(StrEnum):
    models = "models"
    tasks = "tasks"
    arms = "arms"
    claims = "claims"
    benchmarks = "benchmarks"
    profiles = "profiles"


@dataclass(frozen=True)
class Entry:
    """One thing of a kind: its name, title, one line about it, and its file."""

    name: str
    title: str
    line: str
    file: str


def add(app: typer.Typer) -> None:
    app.command("ls")(ls)
    app.command("validate")(validate)


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
    home, faults = root() / "benchmarks", dict[str, BadInput]()
    listed = {each.value: _entries(home, each.value, faults) for each in ([kind] if kind else Kind)}
    if as_json:
        say_json({name: [asdict(entry) for entry in entries] for name, entries in listed.items()})
    for number, (name, entries) in enumerate(listed.items() if not as_json else ()):
        if not kind:
            say(f"{chr(10) if number else ''}{name}")
        rows = [(entry.name, entry.title, entry.line) for entry in entries]
        say_table(("name", "title", ""), rows, indent=0 if kind else 2)
        if not rows:
            say(f"none in {short(home)}")
    for fault in faults.values():
        complain(str(fault))
    if faults:
        raise typer.Exit(1)


def _entries(home: Path, folder: str, faults: dict[str, BadInput]) -> list[Entry]:
    """All entries of one kind; the first fault of a file that cannot be read goes to `faults`."""
    from groupppo.config import FOLDERS, KINDS, kind_of
    from groupppo.config.files import read_form

    kind = FOLDERS.get(folder) or {"benchmarks": "benchmark", "profiles": "profile"}.get(folder, folder)
    entries = list[Entry]()
    for file in sorted((home / folder if folder in FOLDERS else home).glob("*.yaml")):
        path = short(file)
        try:
            if kind_of(path) == kind:
                form: Any = read_form(path, KINDS[kind])
                named = list(_claims(form)) if kind == "claims" else [(form.name, form.title, _LINES[kind](form))]
                entries += [Entry(name, title, line, str(path)) for name, title, line in named]
        except BadInput as fault:
            faults.setdefault(fault.file, fault)
    return entries


def _model(model: Any) -> str:
    sizes = ", ".join(f"{key} {value}" for key, value in model.params.items())
    return f"{model.factory}: {sizes}; {model.resources['mem_mb']:,} MB a run"


def _task(task: Any) -> str:
    splits = ", ".join(f"{number:,} {name}" for name, number in task.splits.items())
    return f"{task.generator} {task.version}: {splits}; at most {task.max_response_tokens} tokens"


def _benchmark(benchmark: Any) -> str:
    axes = {axis: len(getattr(benchmark, axis)) for axis in ("models", "tasks", "arms", "seeds")}
    counts = [f"{count} {axis.removesuffix('s') if count == 1 else axis}" for axis, count in axes.items()]
    return f"{' x '.join(counts)}, {benchmark.train.steps} steps"


_LINES: dict[str, Callable[[Any], str]] = {
    "model": _model,
    "task": _task,
    "arm": lambda arm: " ".join(arm.description.split()),
    "benchmark": _benchmark,
    "profile": lambda form: f"{len(form.shapes)} shapes counted, {len(form.measured)} settings measured",
}


def _claims(file: Any) -> Iterator[tuple[str, str, str]]:
    for claim in file.claims:
        against = f" against {claim.against}" if claim.against else ""
        yield claim.id, claim.claim, f"{claim.arm}{against}: {claim.quantity} {claim.claimed} ({claim.rule})"


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of any kind that benchmarks/ holds.")],
) -> None:
    """Check benchmark, arm, task, model, claims and profile files; name every fault with file, key, value and hint.

    The kind of a file is its folder's (arms/, tasks/, models/), else the one whose keys it has. A benchmark is checked
    with every file it names, an arm against verl's own config. All files are checked, also after one that fails. Exit
    code 1 when any does.

    \b
    Examples:
      groupppo validate benchmarks/quick.yaml
      groupppo validate benchmarks/arms/*.yaml benchmarks/claims.yaml
    """
    from groupppo.cli.check import check
    from groupppo.config import kind_of, load_benchmark

    wrong, known, shown = 0, dict[Path, list[BadInput]](), set[str]()
    for file in files:
        faults = check(file, known)
        wrong += bool(faults)
        # A file that two benchmarks name is at fault once.
        for message in dict.fromkeys(map(str, faults)):
            if message not in shown:
                complain(message)
        shown.update(map(str, faults))
        say(f"{file}: {f'{len(faults)} fault' + 's' * (len(faults) > 1) if faults else f'ok ({kind_of(file)})'}")
        if not faults and kind_of(file) == "benchmark":
            for note in load_benchmark(file).notes():
                say(f"  note: {note}")
    if len(files) > 1:
        say(f"{len(files) - wrong} of {len(files)} files can be used")
    if wrong:
        raise typer.Exit(1)
