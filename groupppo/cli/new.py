"""groupppo new: a commented file that can be used as it is: keys and comments from its form, values from an example."""

import contextlib
import re
import textwrap
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml

from groupppo.cli.terminal import root, say, short
from groupppo.errors import BadInput, suggest
from groupppo.records.storage import write_whole

PARAMS = "algorithm.group_params."
_TAKEN = ("start", "reference")
"""Of an arm: the checkpoint that every run starts from, and a benchmark's reference arm."""
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
    from groupppo.records.plain_yaml import read_yaml

    like = like or _LIKE[kind]
    folder = root() / "benchmarks" / f"{kind}s"
    file, example = folder / f"{name}.yaml", folder / f"{like}.yaml"
    if not re.fullmatch("[a-z0-9_]{1,100}", name):
        raise BadInput("NAME", kind.value, name, "write at most 100 lower case letters, digits and _.")
    if kind is Kind.arm and name in _TAKEN:
        raise BadInput("NAME", kind.value, name, "choose another name: this one means something else in claims.")
    known = sorted(each.stem for each in folder.glob("*.yaml"))
    if like not in known:
        raise BadInput("--like", kind.value, like, f"{suggest(like, known)}Known: {', '.join(known) or 'none'}.")
    if file.is_symlink() or file.exists():
        raise BadInput(short(file), "file", "exists", "choose another name, or edit the file.")
    read_form(example, KINDS[kind])
    write_whole(file, template(kind, name, read_yaml(example)))
    say(f"{short(file)}")
    say(f"  edit it, then: groupppo validate {short(file)}; name it under {kind}s: of a benchmark to use it")


def template(kind: str, name: str, example: Mapping[str, Any]) -> str:
    """A file of a kind, with another one's values.

    An arm that forms groups has all keys of algorithm.group_params: as comments unless the example sets them.

    Args:
        kind: "task", "model" or "arm".
        name: its name.
        example: the content of another file.
    """
    from groupppo.config import KINDS
    from groupppo.config.files import json_schema, resolved

    schema = json_schema(KINDS[kind])
    values = dict(example) | {"name": name, "title": name.replace("_", " ").strip().capitalize() or name}
    notes, more = dict[str, str](), list[str]()
    if kind == "task":
        from groupppo.tasks.base import get_generator

        values["version"] = "1.0"
        with contextlib.suppress(KeyError):  # a published data set has none
            doc = (get_generator(example["generator"]).__doc__ or "").strip().partition("\n\n")[0]
            notes["params"] = f" {example['generator']}: {' '.join(doc.split())}"
    if kind == "arm":
        values["description"] = f"As {example['name']}; say here what differs and why."
        notes, more = _of_groups(example["verl"])
    lines = [f"# {schema['description'].rstrip('.')}. Keys and ranges: docs/reference/files.md"]
    for key, given in schema["properties"].items():
        rules = resolved(given, schema)
        lines += _comment(rules["description"] + notes.get(key, ""))
        if key not in values:
            default = rules.get("default")
            lines.append(f"# {key}:" if default is None else f"# {_block({key: default})[0]}")
            continue
        first, *entries = _block({key: values[key]})
        lines.append(first)
        for entry in entries:
            inner = entry.strip().partition(":")[0]
            words = notes.get(inner) or rules.get("properties", {}).get(inner, {}).get("description", "")
            lines += [*_comment(words, "  "), entry]
        lines += more if key == "verl" else []
    return "\n".join(lines) + "\n"


def _of_groups(written: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What each key of an arm's groups does, and the lines of those that it does not set; none for an arm without."""
    from groupppo.algorithm.params import default_of, key_docs
    from groupppo.config import GROUPED, is_grouped

    if not is_grouped(written):
        return {}, []
    docs, stock = key_docs(), written.get("algorithm.adv_estimator") != GROUPED
    lines = ["  # Every further key of the grouping with its default. One that the rule does not use is refused."]
    for key in docs:
        if f"{PARAMS}{key}" not in written:
            [line] = _block({f"{PARAMS}{key}": default_of(key, stock=stock)})
            lines += ["", *_comment(docs[key], "  "), f"  # {line}"]
    return {f"{PARAMS}{key}": doc for key, doc in docs.items()}, lines


def _block(values: Mapping[str, Any]) -> list[str]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    text: str = yaml.safe_dump(plain, default_flow_style=False, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.splitlines()


def _comment(text: str, indent: str = "") -> list[str]:
    lead = f"{indent}# "
    return textwrap.wrap(text, 118, initial_indent=lead, subsequent_indent=lead, break_long_words=False)
