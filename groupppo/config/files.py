"""Files of benchmarks/ as dataclasses: pydantic checks a file against one and makes its JSON schema.

The class of a kind of file is a `Form`. Its fields and the docstrings below them are the single source of what the file
may hold: from them come faults, the JSON schema, defaults, the templates of `groupppo new` and the reference pages.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, field, make_dataclass, replace
from itertools import filterfalse, islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from groupppo.errors import BadInput, suggest
from groupppo.records.plain_yaml import read_yaml

MOST_FAULTS = 100
"""Faults of one file that are listed at once."""
_NAME = "^[a-z0-9_]{1,100}$"
_KEY = r"^[a-z0-9_]+(\.[a-zA-Z0-9_]+)+$"
_FILE = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
_PYTHON = r"^[a-z0-9_]{1,100}\.py$"
_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_HUB, _REPO = f"^{_PART}(/{_PART})*$", f"^{_PART}/{_PART}$"
_OWN = r"^[^\x00-\x1f]+$"
# An expression says less than these.
_HINTS = {
    _NAME: "write lower case letters, digits and _, at most 100.",
    _KEY: "write keys of verl as actor_rollout_ref.actor.optim.lr is written.",
    _FILE: "write the name of a file beside this one.",
    _PYTHON: "write the name of a file in rewards/, in lower case letters, digits and _, such as my_reward.py.",
    _HUB: "write a name as the Hugging Face hub has it, such as openai/gsm8k, a commit, or main.",
    _OWN: "write a path from the folder of the benchmark, such as data/questions.jsonl.",
    _REPO: "write a name as the Hugging Face hub has it, such as Qwen/Qwen3-0.6B.",
}


class KeysOf:
    """A dictionary that is read as a dataclass; keys that are left out and have no default stay out."""

    def __init__(self, form: type):
        self.form = form

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(_as_dict, handler.generate_schema(self.form))


def _as_dict(written: Any, check: Any) -> dict[str, Any]:
    """The keys as they are ordered in the file, then defaults."""
    keys = {key: value for key, value in asdict(check(written)).items() if value is not None}
    return {key: keys[key] for key in written} | keys


class _LeftOut:
    """A key that may be left out, and may not be null."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(get_args(source)[0])


def _unique(items: tuple[Any, ...]) -> tuple[Any, ...]:
    seen = set[Any]()
    for item in items:
        if item in seen:
            raise PydanticCustomError("unique", "{item} is there twice", {"item": repr(item)[:80]})
        seen.add(item)
    return items


T = TypeVar("T")
Maybe = Annotated[T | None, _LeftOut()]
"""A key that may be left out, which is None then, and may not be null in the file."""
UNIQUE = AfterValidator(_unique)
"""No item of a list is there twice."""
AS_WRITTEN = WrapValidator(lambda value, check: (check(value), value)[1])
"""A number stays whole where it was written whole, so that what files say hashes as before."""
LATER = {"later": True}
"""Metadata of a field that came later: left out of records at its default, so that earlier records stay equal."""

Name = Annotated[str, Field(pattern=_NAME)]
Names = Annotated[tuple[Name, ...], UNIQUE]
Title = Annotated[str, Field(pattern=r"^[^\n]*\S[^\n]*$", max_length=120)]
Prose = Annotated[str, Field(pattern=r"\S", max_length=4000)]
Metric = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_@/.-]{0,99}$")]
BesideName = Annotated[str, Field(pattern=_FILE)]
PythonName = Annotated[str, Field(pattern=_PYTHON)]
HubName = Annotated[str, Field(pattern=_HUB, max_length=200)]
HubRepo = Annotated[str, Field(pattern=_REPO, max_length=200)]
OwnPath = Annotated[str, Field(pattern=_OWN, max_length=1000)]
VerlKey = Annotated[str, Field(pattern=_KEY, max_length=200)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), UNIQUE]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]


class Form:
    """A kind of file; the first line of its docstring says what it is."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    def faults(self) -> Iterator[BadInput]:
        """What is wrong beyond single keys."""
        return iter(())


F = TypeVar("F", bound=Form)


def read_form(path: Path, form: type[F]) -> F:
    """Read a file of a kind.

    Raises:
        BadInput: the first fault of the file.
    """
    thing, faults = _checked(path, form, read_yaml(path))
    for fault in faults:
        raise fault
    assert thing is not None
    for fault in thing.faults():
        raise fault
    return thing


def form_faults(path: Path, form: type[Form], data: Any) -> list[BadInput]:
    """All faults of a file's data; of more than `MOST_FAULTS` the others wait until these are mended."""
    thing, faults = _checked(path, form, data)
    return faults if thing is None else [*faults, *islice(thing.faults(), MOST_FAULTS)]


def keyword_faults(path: Path, key: str, function: Callable[..., Any], written: Mapping[str, Any]) -> list[BadInput]:
    """Faults of a function's keyword arguments, which a file has under `key`, by the annotations of its parameters.

    Those that are keyword-only can be written there, but for `seed`, which files have as a key of their own.
    """
    return _validated(path, function, dict(written), f"{key}.")[1]


def json_schema(form: type[Form]) -> dict[str, Any]:
    """The JSON schema of a kind of file; do not change it, everybody has the same one."""
    return _validator(form)[1]


_VALIDATORS: dict[Any, tuple[TypeAdapter[Any], dict[str, Any]]] = {}


def _validator(form: Callable[..., Any]) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    if form not in _VALIDATORS:
        adapter = TypeAdapter[Any](form if isinstance(form, type) else _keywords(form))
        _VALIDATORS[form] = adapter, adapter.json_schema()
    return _VALIDATORS[form]


def _keywords(function: Callable[..., Any]) -> type:
    """The parameters of a function that a file can give, as a dataclass."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    named = [
        (each.name, hints[each.name], field() if each.default is each.empty else field(default=each.default))
        for each in parameters
        if each.kind is each.KEYWORD_ONLY and each.name != "seed"
    ]
    strict = {"__pydantic_config__": Form.__pydantic_config__}
    return make_dataclass(function.__name__, named, kw_only=True, namespace=strict)


def _checked(path: Path, form: type[F], data: Any) -> tuple[F | None, list[BadInput]]:
    """The file's data as a form, None if its keys are at fault, and their faults."""
    schema = json_schema(form)
    # Where the file is, and what another file says; no keys of it.
    own = set(form.__dataclass_fields__) - set(schema["properties"])
    faults: list[BadInput] = []
    if isinstance(data, dict):
        faults = [_unknown(path, key, data[key], schema["properties"]) for key in sorted(own & set(data))]
        data = {key: value for key, value in data.items() if key not in own}
    thing, more = _validated(path, form, data)
    faults += more
    if thing is not None:
        thing = replace(thing, **dict.fromkeys(own & {"source"}, path))
        named = getattr(thing, "name", path.stem)
        if named != path.stem:
            faults.append(BadInput(path, "name", named, f"write the file's own name: {path.stem}."))
    return thing, faults


def _validated(path: Path, form: Callable[..., F], data: Any, home: str = "") -> tuple[F | None, list[BadInput]]:
    """What `form` makes of the data, None if a key is at fault, and the faults; keys are named below `home`."""
    adapter, schema = _validator(form)
    try:
        thing: F = adapter.validate_json(json.dumps(data))
    except ValidationError as error:
        listed = islice(filterfalse(_follows, error.errors(include_url=False, include_context=True)), MOST_FAULTS)
        return None, [_fault(path, each, schema, home) for each in listed]
    return thing, []


def _follows(error: Mapping[str, Any]) -> bool:
    """Whether a list is called too short only because items of it are at fault, which pydantic leaves out."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _fault(path: Path, error: Mapping[str, Any], schema: Mapping[str, Any], home: str) -> BadInput:
    places, here = _walk(error["loc"], schema)
    key, kind, value = home + ".".join(map(str, places)), error["type"], error["input"]
    if kind == "unexpected_keyword_argument":
        _, parent = _walk(error["loc"][:-1], schema)
        return _unknown(path, key, value, parent["properties"])
    about = here.get("description", "")
    if kind == "missing":
        return BadInput(path, key, None, f"add this key: {about}" if about else "add this key.")
    if kind == "string_pattern_mismatch":
        hint = _HINTS.get(error["ctx"]["pattern"], "")
    elif kind in ("int_type", "float_type") and number_hint(value):
        hint = number_hint(value)
    else:
        hint = re.sub(r"^\w+ should", "it should", error["msg"]).replace(" after validation", "") + "."
    return BadInput(path, key or "file", value, f"{hint} {about}".strip() or "write another value.")


def _unknown(path: Path, key: str, value: Any, known: Mapping[str, Any]) -> BadInput:
    hint = f"unknown key; {suggest(key.rpartition('.')[2], known)}Known keys: {', '.join(sorted(known)) or 'none'}."
    return BadInput(path, key, value, hint)


def _walk(location: tuple[str | int, ...], schema: Mapping[str, Any]) -> tuple[list[str | int], Mapping[str, Any]]:
    """pydantic's location without its marks, and the rules of the schema there."""
    places: list[str | int] = []
    here: Mapping[str, Any] = schema
    for part in location:
        if "oneOf" in here:  # by the name of the alternative
            here = next(each for each in here["oneOf"] if (each["type"] == "array") == (part == SEVERAL))
            continue
        if part == "[key]":
            continue
        places.append(part)
        about = {} if isinstance(part, str) else {"description": here.get("description", "")}  # a list's is its items'
        here = about | resolved(_below(here, part), schema)
    return places, here


def _below(here: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    if isinstance(part, int):
        return here.get("items", {})
    patterns = iter(here.get("patternProperties", {}).values())
    rules: Any = here.get("properties", {}).get(part) or here.get("additionalProperties") or next(patterns, {})
    return rules if isinstance(rules, Mapping) else {}


def resolved(rules: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Rules with what their `$ref` points to; keys beside it win."""
    target = schema["$defs"][rules["$ref"].removeprefix("#/$defs/")] if "$ref" in rules else {}
    return {**target, **rules}


ONE, SEVERAL = "one", "several"
"""Tags of the alternatives of a key that has one value or a list."""


def number_hint(value: object) -> str:
    """What to write for text that is meant as a number, else nothing: YAML 1.1 takes 1e-5 for text, without a point."""
    try:
        meant = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    if not math.isfinite(meant):
        return ""
    shown = yaml.safe_dump(int(meant) if meant.is_integer() and abs(meant) < 1e15 else meant).split()[0]
    return f"write {shown}: YAML takes {value} for text."
