"""groupppo new: a commented file that can be used as it is, to be edited."""

import re
from typing import Annotated, Any

import typer

from groupppo.cli.place import root, short
from groupppo.cli.screen import say
from groupppo.errors import BadInput, suggest
from groupppo.records.storage import write_whole

LONGEST = 100
TAKEN = {"arm": ("start", "reference")}
"""Names that mean something else: the checkpoint every run starts from, and a benchmark's reference arm."""

_name = typer.Argument(metavar="NAME", help="Its name and its file's: lower case letters, digits and _.")
_like = typer.Option(help="The one whose values it starts with.")
new = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def add(app: typer.Typer) -> None:
    app.add_typer(new, name="new")


@new.callback()
def about() -> None:
    """Write a commented, valid task, model or arm file into benchmarks/; one that exists is never replaced.

    \b
    Examples:
      groupppo new arm group_ppo_small
      groupppo new task sorting_long --like sorting
      groupppo new model small
    """


@new.command()
def task(name: Annotated[str, _name], like: Annotated[str, _like] = "sorting") -> None:
    """Write benchmarks/tasks/NAME.yaml. A task of a new kind also needs a generator in groupppo/tasks/.

    \b
    Example:
      groupppo new task sorting_long --like sorting
    """
    from groupppo.cli.templates import task_template

    _write("task", name, like, task_template)


@new.command()
def model(name: Annotated[str, _name], like: Annotated[str, _like] = "tiny") -> None:
    """Write benchmarks/models/NAME.yaml.

    \b
    Example:
      groupppo new model small --like tiny
    """
    from groupppo.cli.templates import model_template

    _write("model", name, like, model_template)


@new.command()
def arm(name: Annotated[str, _name], like: Annotated[str, _like] = "group_ppo") -> None:
    """Write benchmarks/arms/NAME.yaml, with every key of algorithm.group_params and what it does.

    \b
    Example:
      groupppo new arm group_ppo_small --like group_ppo
    """
    from groupppo.cli.templates import arm_template

    _write("arm", name, like, arm_template)


def _write(kind: str, name: str, like: str, template: Any) -> None:
    from groupppo.schemas import read_checked

    folder = root() / "benchmarks" / f"{kind}s"
    _check_name(kind, name)
    example = folder / f"{like}.yaml"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if like not in known:
        raise BadInput("--like", kind, like, f"{suggest(like, known)}Known: {', '.join(known) or 'none'}.")
    text = template(name, read_checked(example, kind))
    file = folder / f"{name}.yaml"
    if file.is_symlink() or file.exists():
        raise BadInput(short(file), "file", "exists", "choose another name, or edit the file.")
    write_whole(file, text)
    say(f"{short(file)}")
    say(f"  edit it, then: groupppo validate {short(file)}; name it under {kind}s: of a benchmark to use it")


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch("[a-z0-9_]+", name):
        better = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
        hint = f", such as {better}" if better else ""
        raise BadInput("NAME", kind, name, f"write lower case letters, digits and _{hint}.")
    if len(name) > LONGEST:
        raise BadInput("NAME", kind, name, f"write at most {LONGEST} characters.")
    if name in TAKEN.get(kind, ()):
        raise BadInput("NAME", kind, name, "choose another name: this one means something else in tables and claims.")
