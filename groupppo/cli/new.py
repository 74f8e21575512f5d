"""groupppo new: a commented file that can be used as it is: keys and comments from its form, values from an example."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml

from groupppo.cli.terminal import root, say, short
from groupppo.errors import BadInput, suggest
from groupppo.records.storage import write_whole

LONGEST = 100
TAKEN = {"arm": ("start", "reference")}
"""Names that mean something else: the checkpoint every run starts from, and a benchmark's reference arm."""
PARAMS = "algorithm.group_params."
_WIDTH = 118

_LIKE = {"task": "sorting", "model": "tiny", "arm": "group_ppo"}


class Kind(StrEnum):
    task = "task"
    model = "model"
    arm = "arm"


def add(app: typer.Typer) -> None:
    app.command("new")(new)


def new(
    kind: Annotated[Kind, typer.Argument(metavar="task|model|arm", help="What to add.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name and its file's: lower case letters, digits and _.")
    ],
    like: Annotated[
        str | None, typer.Option(help="The one whose values it starts with; sorting, tiny or group_ppo unless given.")
    ] = None,
) -> None:
    """Write a commented, valid task, model or arm file into benchmarks/; one that exists is never replaced.

    An arm has every key of algorithm.group_params and what it does. A task of a new kind also needs a generator in
    groupppo/tasks/.

    \b
    Examples:
      groupppo new arm group_ppo_small
      groupppo new task sorting_long --like sorting
      groupppo new model small --like tiny
    """
    from groupppo.config import KINDS
    from groupppo.config.files import read_form

    like = like or _LIKE[kind]
    folder = root() / "benchmarks" / f"{kind}s"
    _check_name(kind, name)
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if like not in known:
        raise BadInput("--like", kind.value, like, f"{suggest(like, known)}Known: {', '.join(known) or 'none'}.")
    text = template(kind, name, vars(read_form(folder / f"{like}.yaml", KINDS[kind])))
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


def template(kind: str, name: str, example: Mapping[str, Any]) -> str:
    """A file of a kind, with another one's values.

    An arm that forms groups has all keys of algorithm.group_params: as comments unless the example sets them.

    Args:
        kind: "task", "model" or "arm".
        name: its name.
        example: values of another file.
    """
    from groupppo.config import is_grouped

    values = dict(example) | {"name": name, "title": name.replace("_", " ").strip().capitalize() or name}
    notes: dict[str, str] = {}
    more: list[str] = []
    if kind == "task":
        from groupppo.tasks.base import get_generator

        values["version"] = "1.0"
        doc = (get_generator(example["generator"]).__doc__ or "").strip().partition("\n\n")[0]
        notes["params"] = f"{example['generator']}: {' '.join(doc.split())}"
    if kind == "arm":
        values["description"] = f"As {example['name']}; say here what differs and why."
        if is_grouped(example["verl"]):
            docs = group_docs()
            notes |= docs
            more = list(_other_keys(set(example["verl"]), docs))
    return "\n".join(_document(kind, values, notes, more)) + "\n"


def group_docs() -> dict[str, str]:
    """What each key of algorithm.group_params does, and what it may be."""
    from groupppo.algorithm.params import key_docs

    return {f"{PARAMS}{key}": doc for key, doc in key_docs().items()}


def _other_keys(written: set[str], docs: Mapping[str, str]) -> Iterator[str]:
    from groupppo.algorithm.params import GroupParams

    yield "  # Every further key of the grouping with its default. One that the rule does not use is refused."
    for key, doc in docs.items():
        if key not in written:
            yield ""
            yield from _comment(doc, 2)
            yield f"  # {key}: {_scalar(getattr(GroupParams, key.removeprefix(PARAMS)))}"


def _document(kind: str, values: Mapping[str, Any], notes: Mapping[str, str], more: list[str]) -> Iterator[str]:
    """The lines of a file.

    Args:
        kind: "task", "model" or "arm".
        values: by key.
        notes: what keys, or keys in them, do, beside what the form says.
        more: what follows the keys of verl.
    """
    from groupppo.config import KINDS
    from groupppo.config.files import json_schema, resolved

    schema = json_schema(KINDS[kind])
    yield f"# {schema['description'].rstrip('.')}. Keys and ranges: docs/reference/files.md"
    for key, given in schema["properties"].items():
        rules = resolved(given, schema)
        yield from _comment(f"{rules['description']} {notes.get(key, '')}".strip(), 0)
        value = values[key]
        if value in (None, {}, ()) and key not in schema["required"]:
            yield f"# {key}: {'' if rules.get('default') is None else _scalar(rules['default'])}".rstrip()
        elif isinstance(value, dict) or hasattr(value, "__dataclass_fields__"):
            entries = value if isinstance(value, dict) else vars(value)
            yield f"{key}:" if entries else f"{key}: {{}}"
            for name, item in entries.items():
                inner = rules.get("properties", {}).get(name, {}).get("description", "")
                yield from _comment(notes.get(name, inner), 2)
                yield f"  {_scalar(name)}: {_scalar(item)}"
            yield from more if key == "verl" else ()
        else:
            yield f"{key}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """One line of YAML that reads back as the value."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str, indent: int) -> list[str]:
    lead = f"{' ' * indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False)
