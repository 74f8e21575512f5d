"""groupppo validate: every fault of files, before anything runs."""

from pathlib import Path
from typing import Annotated

import typer

from groupppo.cli.screen import complain, say
from groupppo.errors import BadInput


def add(app: typer.Typer) -> None:
    app.command("validate")(validate)


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of any kind that benchmarks/ holds.")],
) -> None:
    """Check benchmark, arm, task, model, claims and profile files; name every fault with file, key, value and hint.

    The kind is told by the folder (arms/, tasks/, models/), else by the file's keys. A benchmark is checked with every
    file it names, an arm against verl's own config. All files are checked, also after one that fails. Exit code 1 when
    any does.

    \b
    Examples:
      groupppo validate benchmarks/quick.yaml
      groupppo validate benchmarks/arms/*.yaml benchmarks/claims.yaml
    """
    from groupppo.check import check, notes
    from groupppo.config import load_benchmark
    from groupppo.kinds import kind_of

    wrong, known, said = 0, dict[Path, list[BadInput]](), set[str]()
    for file in files:
        faults = check(file, known)
        wrong += bool(faults)
        # A file that two benchmarks name is at fault once.
        for told in dict.fromkeys(map(str, faults)):
            if told not in said:
                complain(told)
        said.update(map(str, faults))
        say(f"{file}: {f'{len(faults)} fault' + 's' * (len(faults) > 1) if faults else f'ok ({kind_of(file)})'}")
        if not faults and kind_of(file) == "benchmark":
            for note in notes(load_benchmark(file)):
                say(f"  note: {note}")
    if len(files) > 1:
        say(f"{len(files) - wrong} of {len(files)} files can be used")
    if wrong:
        raise typer.Exit(1)
