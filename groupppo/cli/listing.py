"""groupppo ls and groupppo validate: the files of benchmarks/, and every fault in them."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from groupppo.cli.terminal import complain, root, say, say_json, say_table, short
from groupppo.draw.wording import plural
from groupppo.errors import BadInput


class Kind(StrEnum):
    models = "models"
    tasks = "tasks"
    arms = "arms"
    claims = "claims"
    benchmarks = "benchmarks"
    profiles = "profiles"


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
    listed = {each.value: _entries(home, each, faults) for each in ([kind] if kind else Kind)}
    if as_json:
        say_json(listed)
    else:
        for name, entries in listed.items():
            if not kind:
                say(f"{name}" if name == Kind.models else f"\n{name}")
            rows = [(entry["name"], entry["title"], entry["line"]) for entry in entries]
            say_table(("name", "title", ""), rows, indent=0 if kind else 2)
            if not rows:
                say(f"none in {short(home)}")
    for fault in faults.values():
        complain(str(fault))
    if faults:
        raise typer.Exit(1)


def _entries(home: Path, kind: Kind, faults: dict[str, BadInput]) -> list[dict[str, str]]:
    """Name, title, line and file of all of one kind; the first fault of a file that cannot be read goes to `faults`."""
    from groupppo.config import FOLDERS, KINDS, kind_of
    from groupppo.config.files import read_form

    form = "claims" if kind is Kind.claims else kind.removesuffix("s")
    entries = []
    homes = [home / kind] if kind in FOLDERS else [home]
    # A benchmark may have a file of claims of its own beside it.
    homes += [home] if kind is Kind.claims else []
    for file in sorted(file for each in homes for file in each.glob("*.yaml")):
        path = short(file)
        try:
            if kind_of(path) == form:
                for name, title, line in _shown(form, read_form(path, KINDS[form])):
                    entries.append({"name": name, "title": title, "line": line, "file": str(path)})
        except BadInput as fault:
            faults.setdefault(fault.file, fault)
    return entries


def _shown(kind: str, form: Any) -> Iterator[tuple[str, str, str]]:
    """Name, title and a line about a file; of each of its claims where it has claims."""
    if kind == "claims":
        for claim in form.claims:
            against = f" against {claim.against}" if claim.against else ""
            yield claim.id, claim.claim, f"{claim.arm}{against}: {claim.quantity} {claim.claimed} ({claim.rule})"
        return
    line = ""
    if kind == "model":
        sizes = ", ".join(f"{key} {value}" for key, value in form.params.items())
        line = f"{form.factory}: {sizes}; {form.resources['mem_mb']:,} MB a run"
    elif kind == "task":
        splits = ", ".join(f"{number:,} {name}" for name, number in form.splits.items())
        line = f"{form.generator} {form.version}: {splits}; at most {form.max_response_tokens} tokens"
    elif kind == "arm":
        line = " ".join(form.description.split())
    elif kind == "benchmark":
        axes = ("model", "task", "arm", "seed")
        counts = " x ".join(plural(len(getattr(form, f"{axis}s")), axis) for axis in axes)
        line = f"{counts}, {form.train.steps} steps"
    elif kind == "profile":
        line = f"{len(form.shapes)} shapes counted, {len(form.measured)} settings measured"
    yield form.name, form.title, line


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
      groupppo validate benchmarks/arms/*.yaml benchmarks/claims/*.yaml
    """
    from groupppo.cli.check import check
    from groupppo.config import kind_of, load_benchmark

    wrong, known, told = 0, dict[Path, list[BadInput]](), set[str]()
    for file in files:
        faults = check(file, known)
        wrong += bool(faults)
        # A file that two benchmarks name is at fault once.
        for message in dict.fromkeys(map(str, faults)):
            if message not in told:
                complain(message)
        told.update(map(str, faults))
        say(f"{file}: {plural(len(faults), 'fault') if faults else f'ok ({kind_of(file)})'}")
        if not faults and kind_of(file) == "benchmark":
            for note in load_benchmark(file).notes():
                say(f"  note: {note}")
    if len(files) > 1:
        say(f"{len(files) - wrong} of {len(files)} files can be used")
    if wrong:
        raise typer.Exit(1)
