"""Every fault of a file of benchmarks/, not only the first: those its schema sees, then those its loader sees.

A loader stops at its first fault. Where a key on its own can be wrong, the key is set aside and the loader asked again.
"""

import difflib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from groupppo.cli.kinds import FOLDERS, kind_of, schema
from groupppo.config import load_arm, load_benchmark, load_model, load_task, read_checked, read_yaml
from groupppo.errors import BadInput

if TYPE_CHECKING:
    import jsonschema

PARAMS = "algorithm.group_params."
_STAND_IN = 0.5  # density of another arm's run, which is not there yet


def file_faults(path: Path, known: dict[Path, list[BadInput]] | None = None) -> list[BadInput]:
    """All faults of a file, and of the files that a benchmark names; empty when it can be used.

    Args:
        known: faults of files that were checked already, by resolved path; those found here are added.
    """
    known = {} if known is None else known
    place = path.resolve()
    if place not in known:
        known[place] = _found(path, known)
    return known[place]


def _found(path: Path, known: dict[Path, list[BadInput]]) -> list[BadInput]:
    try:
        kind = kind_of(path)
        faults = list(schema_faults(path, kind))
    except BadInput as fault:
        return [fault]
    if kind == "benchmark":
        below = [fault for file in _named(path) for fault in file_faults(file, known)]
        faults += below or ([] if faults else _first(lambda: load_benchmark(path)))
        return faults
    return faults or (list(_CHECKS[kind](path)) if kind in _CHECKS else [])


def schema_faults(path: Path, kind: str) -> Iterator[BadInput]:
    """Everything that the schema of the kind refuses, in the order of the file's depth.

    Raises:
        BadInput: the file is missing or not YAML.
    """
    import jsonschema

    found = jsonschema.Draft202012Validator(schema(kind)).iter_errors(read_yaml(path))
    said = set()
    for error in sorted(found, key=lambda error: (len(error.absolute_path), str(error.absolute_path))):
        for fault in _faults_of(path, error):
            if (fault.key, fault.mend) not in said:
                said.add((fault.key, fault.mend))
                yield fault


def _faults_of(path: Path, error: "jsonschema.ValidationError") -> Iterator[BadInput]:
    where = ".".join(map(str, error.absolute_path))
    rules: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties":
        known = sorted(rules["properties"])
        for key in sorted(set(error.instance) - set(known), key=str):
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            mend = f"unknown key; {hint}Known keys: {', '.join(known)}."
            yield BadInput(path, f"{where}.{key}".lstrip("."), error.instance[key], mend)
    elif error.validator == "required":
        for key in sorted(set(rules["required"]) - set(error.instance)):
            text = rules.get("properties", {}).get(key, {}).get("description", "")
            yield BadInput(
                path, f"{where}.{key}".lstrip("."), None, f"add this key: {text}" if text else "add this key."
            )
    else:
        yield BadInput(
            path, where or "file", error.instance, f"{error.message}. {rules.get('description', '')}".strip()
        )


def _named(path: Path) -> Iterator[Path]:
    """Existing files that a benchmark names; what is missing, its own loader says."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        return
    listed = [(f"{folder}/", name) for folder in FOLDERS for name in _list(data.get(folder))]
    for folder, name in [*listed, ("", data.get("claims")), ("", data.get("profile"))]:
        file = path.parent / f"{folder}{name}{'.yaml' if folder else ''}"
        if isinstance(name, str) and file.is_file():
            yield file


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _first(load: Callable[[], object]) -> list[BadInput]:
    try:
        load()
    except BadInput as fault:
        return [fault]
    return []


def _each(load: Callable[[dict[str, Any]], object], keys: Mapping[str, Any], prefix: str = "") -> Iterator[BadInput]:
    """The faults of a mapping: a key at fault is set aside and the rest tried again, until a fault is no such key's."""
    left, gone = dict(keys), set[str]()
    while found := _first(lambda: load(left)):
        key = found[0].key.removeprefix(prefix)
        if key in gone:
            return
        yield found[0]
        if key not in left:
            return
        gone.add(key)
        del left[key]


def _task_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.tasks.base import bind

    faults = _first(lambda: load_task(path))
    yield from faults
    if not faults:
        task = load_task(path)
        yield from _each(lambda params: bind(replace(task, params=params)), task.params, "params.")


def _model_faults(path: Path) -> Iterator[BadInput]:
    """Factory and names of its parameters; sizes that do not fit each other show when the model is built."""
    import inspect

    from groupppo.models import FACTORIES

    faults = _first(lambda: load_model(path))
    yield from faults
    if faults:
        return
    model = load_model(path)
    if model.published:
        return
    if model.factory not in FACTORIES:
        mend = f"known factories: {', '.join(sorted(FACTORIES))}."
        yield BadInput(path, "factory", model.factory, mend)
        return
    parameters = inspect.signature(FACTORIES[model.factory]).parameters
    known = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "seed"}
    listing = f"parameters of {model.factory}: {', '.join(sorted(known))}."
    for key in sorted(set(model.params) - set(known), key=str):
        yield BadInput(path, f"params.{key}", model.params[key], f"unknown parameter; {listing}")
    for key in sorted(known):
        value = model.params.get(key)
        if value is None and known[key].default is inspect.Parameter.empty:
            yield BadInput(path, f"params.{key}", None, f"add it; {listing}")
        elif known[key].annotation is int and (type(value) is not int or value < 1):
            yield BadInput(path, f"params.{key}", value, "write a whole number, at least 1.")


def _arm_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.grouping.params import GroupParams

    faults = _first(lambda: load_arm(path))
    yield from faults
    if faults:
        return
    arm = load_arm(path)
    stand_in = {} if arm.density_from is None else {"density": _STAND_IN}
    settings = {key.removeprefix(PARAMS): value for key, value in arm.verl.items() if key.startswith(PARAMS)}
    wrong = list(_each(lambda keys: GroupParams.from_config(keys | stand_in), settings))
    for fault in wrong:
        yield BadInput(path, f"verl.{PARAMS}{fault.key}", fault.value, fault.mend)
    spoilt = {f"{PARAMS}{fault.key}" for fault in wrong}
    composed = {key: value for key, value in arm.verl.items() if key not in spoilt}
    for fault in _each(_composed(path), composed):
        if fault.key in spoilt:
            continue
        yield BadInput(path, f"verl.{fault.key}", fault.value, fault.mend)


def _composed(path: Path) -> Callable[[dict[str, Any]], object]:
    """verl's own config with the keys of an arm, as a run would have it in a cell that is otherwise plain."""
    from groupppo.cli.standin import cell
    from groupppo.verl.compose import compose

    arm = load_arm(path)

    def load(keys: dict[str, Any]) -> object:
        density = None if arm.density_from is None else path
        return compose(replace(cell(arm), arm=replace(arm, verl=keys), density_source=density))

    return load


def _claims_faults(path: Path) -> Iterator[BadInput]:
    """Each claim's fault: the claim is set aside in a copy and the rest read again."""
    from groupppo.verdicts.claims import load_claims

    data = read_checked(path, "claims")
    left = list(enumerate(data["claims"]))
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        copy = Path(place) / path.name
        (Path(place) / "arms").symlink_to((path.parent / "arms").resolve())
        while left:
            text = yaml.safe_dump(data | {"claims": [claim for _, claim in left]}, sort_keys=False)
            copy.write_text(text, encoding="utf-8")
            faults = _first(lambda: load_claims(copy))
            at = re.match(r"claims\.(\d+)(.*)", faults[0].key) if faults else None
            if at is None:
                break
            number, _ = left.pop(int(at[1]))
            mend = faults[0].mend.replace(str(copy.parent), str(path.parent))
            yield BadInput(path, f"claims.{number}{at[2]}", faults[0].value, mend)


def _profile_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.profile.config import load_profile

    yield from _first(lambda: load_profile(path))


_CHECKS: dict[str, Callable[[Path], Iterator[BadInput]]] = {
    "task": _task_faults,
    "model": _model_faults,
    "arm": _arm_faults,
    "claims": _claims_faults,
    "profile": _profile_faults,
}
