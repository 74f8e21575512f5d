"""Commented files of one kind: keys and comments from its schema, values from an example, so that neither is copied."""

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import yaml

from groupppo.config import is_grouped
from groupppo.schemas import schema

WIDTH = 118
PARAMS = "algorithm.group_params."


def task_template(name: str, example: Mapping[str, Any]) -> str:
    """A task file; `example` is another task's content, whose generator and values it has."""
    from groupppo.tasks.base import get_generator

    generator = get_generator(example["generator"])
    told = [f"{example['generator']}: {_summary(generator)}"]
    values = dict(example) | {"name": name, "title": _title(name), "version": "1.0"}
    return _document("task", values, {"params": told})


def model_template(name: str, example: Mapping[str, Any]) -> str:
    """A model file, as `task_template`."""
    return _document("model", dict(example) | {"name": name, "title": _title(name)}, {})


def arm_template(name: str, example: Mapping[str, Any]) -> str:
    """An arm file, as `task_template`, with all keys of algorithm.group_params: comments unless in the example."""
    texts = {
        "name": name,
        "title": _title(name),
        "description": f"As {example['name']}; say here what differs and why.",
    }
    if not is_grouped(example["verl"]):
        return _document("arm", dict(example) | texts, {})
    docs = {f"{PARAMS}{key}": told for key, told in group_docs().items()}
    text = _document("arm", dict(example) | texts, {}, docs)
    return text + "".join(f"{line}\n" for line in _other_keys(set(example["verl"]), docs))


def group_docs() -> dict[str, str]:
    """What each key of `GroupParams` does, and what it may be."""
    from groupppo.algorithm.params import key_docs

    return key_docs()


def _other_keys(written: set[str], docs: Mapping[str, str]) -> Iterator[str]:
    from groupppo.algorithm.params import GroupParams

    yield "  # Every further key of the grouping with its default. One that the rule does not use is refused."
    for field in fields(GroupParams):
        key = f"{PARAMS}{field.name}"
        if key not in written:
            yield ""
            yield from _comment(docs[key], 2)
            yield f"  # {key}: {_scalar(field.default)}"


def _document(
    kind: str, values: Mapping[str, Any], further: Mapping[str, list[str]], docs: Mapping[str, str] | None = None
) -> str:
    rules = schema(kind)
    lines = [f"# {rules['title']}. Keys and ranges: groupppo/schemas/{kind}.schema.yaml"]
    for key, rule in rules["properties"].items():
        lines += _comment(" ".join([rule.get("description", ""), *further.get(key, [])]).strip(), 0)
        empty = key not in rules["required"] and values.get(key) in (None, {}, [])
        if empty:
            lines.append(f"# {key}: {_scalar(rule['default']) if 'default' in rule else ''}".rstrip())
        elif isinstance(values[key], dict):
            lines += [f"{key}:", *_mapping(values[key], rule, docs or {})] if values[key] else [f"{key}: {{}}"]
        else:
            lines.append(f"{key}: {_scalar(values[key])}")
    return "\n".join(lines) + "\n"


def _mapping(values: Mapping[str, Any], rule: Mapping[str, Any], docs: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        yield from _comment(docs.get(key) or rule.get("properties", {}).get(key, {}).get("description", ""), 2)
        yield f"  {_scalar(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """One line of YAML that reads back as the value."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str, indent: int) -> list[str]:
    lead = f"{' ' * indent}# "
    return textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False)


def _summary(function: Any) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _title(name: str) -> str:
    return name.replace("_", " ").strip().capitalize() or name
