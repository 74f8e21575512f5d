"""What a file of benchmarks/ may say: one JSON schema for each kind of file, and the faults that it finds."""

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema

from groupppo.errors import BadInput, suggest
from groupppo.records.plain_yaml import read_yaml

SCHEMAS = Path(__file__).parent
SUFFIX = ".schema.yaml"
MOST_FAULTS = 100
_LONGEST = 200


def kinds() -> list[str]:
    """Every kind of file that has a schema."""
    return sorted(file.name.removesuffix(SUFFIX) for file in SCHEMAS.glob(f"*{SUFFIX}"))


@cache
def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind; do not change it, everybody has the same one."""
    found: dict[str, Any] = read_yaml(SCHEMAS / f"{kind}{SUFFIX}")
    return found


def read_checked(path: Path, kind: str) -> dict[str, Any]:
    """A YAML file that its schema accepts, with the schema's defaults filled in.

    Raises:
        BadInput: the first fault of the file.
    """
    data = read_yaml(path)
    for fault in schema_faults(path, kind, data):
        raise fault
    found: dict[str, Any] = _with_defaults(data, schema(kind))
    return found


def schema_faults(path: Path, kind: str, data: Any) -> Iterator[BadInput]:
    """What the schema of a kind refuses in a file's data, each fault once, the file's own first.

    Of more than `MOST_FAULTS` the others wait until these are mended.
    """
    found = islice(_Validator(schema(kind)).iter_errors(data), MOST_FAULTS)
    said = set()
    for error in sorted(found, key=lambda error: (len(error.absolute_path), str(error.absolute_path), error.message)):
        for fault in _faults_of(path, error):
            if (fault.key, fault.hint) not in said:
                said.add((fault.key, fault.hint))
                yield fault


def _unique(_: Any, wanted: bool, instance: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """uniqueItems by hashes: jsonschema compares every item with every other where they cannot be sorted."""
    if not wanted or not isinstance(instance, list):
        return
    seen = set[str]()
    for item in instance:
        # 1 and 1.0 are one number in JSON, and true is none.
        whole = isinstance(item, float) and item.is_integer()
        told = json.dumps(int(item) if whole else item, sort_keys=True)
        if told in seen:
            yield jsonschema.ValidationError(f"{told[:_LONGEST]} is there twice")
            return
        seen.add(told)


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"uniqueItems": _unique})


def _faults_of(path: Path, error: jsonschema.ValidationError) -> Iterator[BadInput]:
    where = ".".join(map(str, error.absolute_path))
    rules: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties" and rules["additionalProperties"] is False:
        known = sorted(rules["properties"])
        for key in sorted(set(error.instance) - set(known))[:MOST_FAULTS]:
            hint = f"unknown key; {suggest(key, known)}Known keys: {', '.join(known)}."
            yield BadInput(path, f"{where}.{key}".lstrip("."), error.instance[key], hint)
    elif error.validator == "required":
        for key in sorted(set(rules["required"]) - set(error.instance)):
            text = rules.get("properties", {}).get(key, {}).get("description", "")
            yield BadInput(
                path, f"{where}.{key}".lstrip("."), None, f"add this key: {text}" if text else "add this key."
            )
    else:
        yield BadInput(path, where or "file", error.instance, f"{_hint(error)} {rules.get('description', '')}".strip())


def _hint(error: jsonschema.ValidationError) -> str:
    if error.validator == "pattern":  # an expression says less than the key's description
        return str(error.schema.get("errorMessage", "")) if isinstance(error.schema, dict) else ""
    if error.validator == "type" and error.validator_value in ("number", "integer") and number_hint(error.instance):
        return number_hint(error.instance)
    return f"{error.message}." if len(error.message) <= _LONGEST else f"not allowed by {error.validator}."


def number_hint(value: object) -> str:
    """What to write for text that is meant as a number, else nothing: YAML 1.1 takes 1e-5 for text, without a point."""
    if not isinstance(value, str):
        return ""
    try:
        meant = float(value)
    except ValueError:
        return ""
    if not math.isfinite(meant):
        return ""
    shown = f"{meant:.17g}" if meant.is_integer() and abs(meant) < 1e15 else repr(meant)
    mantissa, exponent, power = shown.partition("e")
    shown = f"{mantissa if '.' in mantissa or not exponent else f'{mantissa}.0'}{exponent}{power}"
    return f"write {shown}: YAML takes {value} for text."


def _with_defaults(data: Any, rules: dict[str, Any]) -> Any:
    if not isinstance(data, dict):
        return data
    filled = dict(data)
    for key, sub in rules.get("properties", {}).items():
        if key not in filled and "default" in sub:
            filled[key] = sub["default"]
        if key in filled:
            filled[key] = _with_defaults(filled[key], sub)
    return filled
