"""What the site's pages take from the code: Markdown made of schemas, docstrings and registries.

A page asks with a line of its own, `<!-- generated: columns runs -->`: the name of a function in `SECTIONS` and its
arguments. Nothing made here is written to a file.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from groupppo.config import KINDS, REPOSITORY
from groupppo.config.files import json_schema, resolved

MARK = re.compile(r"^<!-- generated: (?P<call>[a-z_ ]+) -->$", re.MULTILINE)


def filled(text: str, page: str) -> str:
    """The page with every mark replaced.

    Raises:
        ValueError: a mark names nothing that can be made.
    """

    def made(found: re.Match[str]) -> str:
        name, *arguments = found["call"].split()
        if name not in SECTIONS:
            raise ValueError(f"{page}: nothing generates {name!r}; known: {', '.join(sorted(SECTIONS))}")
        return SECTIONS[name](*arguments)

    return MARK.sub(made, text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a cell is one line of text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    # A tag outside of code would be HTML, and a bar the next cell.
    parts = re.split(r"(`[^`]*`)", " ".join(str(value).split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts).replace("|", "\\|")


def keys(kind: str) -> str:
    """Every key of a kind of file, from its class in groupppo/config/."""
    schema = json_schema(KINDS[kind])
    return table(("key", "type", "default", "what it is"), _keys(schema, schema, ""))


def _keys(rules: Mapping[str, Any], schema: Mapping[str, Any], lead: str) -> Iterator[tuple[str, str, str, str]]:
    for key, given in rules.get("properties", {}).items():
        sub = resolved(given, schema)
        name, needed = f"{lead}{key}", key in rules.get("required", ())
        default = "none" if sub.get("default") is None else f"`{_plain(sub['default'])}`"
        yield f"`{name}`", _type(sub), "required" if needed else default, sub.get("description", "")
        yield from _keys(sub, schema, f"{name}.")
        named = [sub.get("additionalProperties"), *sub.get("patternProperties", {}).values()]
        for inner, joint in ((sub.get("items"), "[]."), *((each, ".*.") for each in named)):
            if isinstance(inner, Mapping):
                yield from _keys(resolved(inner, schema), schema, f"{name}{joint}")


def _type(rules: Mapping[str, Any]) -> str:
    if "enum" in rules:
        return ", ".join(f"`{_plain(value)}`" for value in rules["enum"])
    name = {"object": "mapping", "array": "list"}.get(rules.get("type", ""), rules.get("type", ""))
    bounds = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
    }
    told = [text.format(rules[key]) for key, text in bounds.items() if key in rules]
    return " ".join([name, ", ".join(told)]).strip()


def _plain(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def group_params() -> str:
    """Keys of `algorithm.group_params`: defaults, meaning, and the rules that read them."""
    from dataclasses import fields

    from groupppo.algorithm.params import COMMON, GroupParams, key_docs, known_rules

    docs = key_docs()
    readers = {
        field.name: ", ".join(f"`{name}`" for name, rule in known_rules().items() if field.name in rule.uses)
        for field in fields(GroupParams)
    }
    rows = [
        (f"`{field.name}`", f"`{_plain(field.default)}`", docs[field.name],
         "any" if field.name in COMMON else readers[field.name])
        for field in fields(GroupParams)
    ]  # fmt: skip
    return table(("key", "default", "what it is", "read with rule"), rows)


def rules() -> str:
    """Every grouping rule, what it reads and which keys change it."""
    from groupppo.algorithm.params import known_rules

    rows = [
        (f"`{name}`", _summary(rule.close), _code(rule.needs), _code(sorted(rule.uses)))
        for name, rule in known_rules().items()
    ]
    return table(("rule", "closes a group", "reads, beside the mask", "its keys"), rows)


def columns(name: str) -> str:
    """Columns of one tidy table."""
    from groupppo.tables.schema import SCHEMA

    rows = [(column.name, column.dtype, column.description) for column in SCHEMA[name]]
    return table(("column", "type", "description"), rows)


def gates() -> str:
    """What a run must satisfy to be evidence."""
    from groupppo.tables.gates import GATES

    rows = [(f"`{gate.name}`", gate.checks, gate.why) for gate in GATES]
    return table(("gate", "holds", "because otherwise"), rows)


def study_tables() -> str:
    """Every CSV table of the studies."""
    from groupppo.studies.shared.study import find_study, known_names

    return "\n\n".join(
        f"### {study}: {name}.csv\n\n{table(('column', 'description'), described.items())}"
        for study in known_names()
        for name, described in find_study(study).columns.items()
    )


def claims() -> str:
    """The registry of claims, by file of benchmarks/claims/."""
    from groupppo.verdicts.claims import load_claims

    return "\n\n".join(
        f"### {file.name}\n\n" + "\n\n".join(map(_claim, load_claims(file).claims))
        for file in sorted((REPOSITORY / "benchmarks" / "claims").glob("*.yaml"))
    )


def _claim(claim: Any) -> str:
    """One claim under a heading of its own."""
    place = " ".join(f"{key} `{value}`" for key in ("stage", "metric", "setting", "variant")
                     if (value := getattr(claim, key)))  # fmt: skip
    against = f" against `{claim.against}`" if claim.against else ""
    region = "an identity" if claim.rule == "identity" else f"{claim.claimed}, margin {claim.margin:g} ({claim.rule})"
    rows = [
        ("claim", claim.claim),
        ("source", claim.source),
        ("reading", claim.reading),
        ("measured", f"`{claim.quantity}` of `{claim.arm}`{against} {place}".strip()),
        ("compared", claim.comparison),
        ("claimed", region),
        ("decided by runs on", " or ".join(claim.evidence)),
        ("warm-up steps left out", claim.warmup_steps),
        ("needs a reference that learns", "yes" if claim.needs_learning else "no"),
        ("would change with", claim.what_would_change),
    ]
    return f"#### {claim.id}\n\n{table(('', ''), rows)}"


def quantities() -> str:
    """What a claim can be about."""
    from groupppo.verdicts.quantities import COSTS, QUANTITIES, SHARES

    rows = [
        (f"`{name}`", each.what + (f" Stage `{each.stage}`." if each.stage else ""),
         f"[{each.table}](../tables.md#{each.table})", each.unit, _code(sorted(each.needs)))
        for name, each in QUANTITIES.items()
    ]  # fmt: skip
    rows += [
        (f"`{name}`", f"Column `{each.column}` of one variant of the update.", "profile", each.unit,
         "`setting`, `variant`")
        for name, each in COSTS.items()
    ]  # fmt: skip
    rows += [
        (f"`{name}`", f"Share of {each.cases} where `{each.column}` holds.", f"study {each.study}", each.unit, "")
        for name, each in SHARES.items()
    ]
    return table(("quantity", "what it is", "from", "unit", "a claim also states"), rows)


def metrics() -> str:
    """Our metrics of a training step."""
    from generated_metrics import metrics as logged

    return table(("metric", "what it is", "logged"), logged())


def update_costs() -> str:
    """Measured costs of one update, as published."""
    from generated_profile import update_costs as measured

    head = ("response", "update", "operations", "bound", "seconds", "memory", "memory to the chunked head")
    return table(head, measured())


def bounds() -> str:
    """Counted bounds, by model."""
    from generated_profile import bounds as counted
    from generated_profile import bounds_head

    return table(bounds_head(), counted())


def savings() -> str:
    """Counted bounds of an update in which responses share their prompt."""
    from generated_profile import savings as counted
    from generated_profile import savings_head

    return table(savings_head(), counted())


def commands() -> str:
    """What `--help` says of every command."""
    import typer

    from groupppo.cli.__main__ import app

    def told(command: Any, parent: Any, name: str) -> Iterator[str]:
        context = type(command).context_class(command, parent=parent, info_name=name, **command.context_settings)
        with context:
            yield f"### {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
            for each in getattr(command, "commands", {}):
                yield from told(command.commands[each], context, each)

    return "\n\n".join(told(typer.main.get_command(app), None, "groupppo"))


def _summary(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


SECTIONS: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        keys, group_params, rules, columns, gates, study_tables, claims, quantities, metrics, update_costs,
        bounds, savings, commands,
    )
}  # fmt: skip
