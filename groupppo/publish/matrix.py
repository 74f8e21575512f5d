"""The matrix and the claims that results belong to, as config files a benchmark can be run from again.

A results folder records its matrix in benchmark.yaml with all names resolved. `config_files` turns the record back into
benchmark, model, task and arm files, so that they are those of the results even where the repository has moved on;
claims, a profile and arms that only claims name are copied, from the repository or the results alone: whoever made the
record may have put any path into it. Studies are the repository's own.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from groupppo.allowed import require_inside
from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.errors import BadInput
from groupppo.matrix import KEY as CELLS
from groupppo.records.hashing import sha256_file
from groupppo.records.plain_yaml import read_yaml
from groupppo.schemas import read_checked
from groupppo.verdicts.claims import Claims, load_claims

_KINDS = ("models", "tasks", "arms")
CONFIG, RECORD = "config", "benchmark.yaml"
# Keys of a matrix that name a file beside it, and its kind; a record has their places instead, as it has each source.
_BESIDE = {"claims": "claims", "profile": "profile", "pilot": "benchmark"}
_PLACES = ("source", *_BESIDE)
_NAME = re.compile("[a-z0-9_]+")
_STUDIES = Path("groupppo", "studies")
_AGAIN = "run the benchmark again with this version."


def config_files(results: Path, claims_sha256: str) -> dict[str, bytes]:
    """Config files of `results` by name below config/.

    Args:
        results: holds benchmark.yaml.
        claims_sha256: SHA-256 of the claims file that the verdicts were decided with.

    Raises:
        BadInput: benchmark.yaml is missing, not a resolved matrix or names a file outside of the repository and
            `results`, or the claims file has changed since.
    """
    record, homes = read_record(results / RECORD), (REPOSITORY, results, *_project(results))
    for key in _BESIDE:
        if record.get(key) is not None:
            require_inside(REPOSITORY / record[key], results / RECORD, key, *homes)
    claims = REPOSITORY / record["claims"]
    if not claims.is_file() or sha256_file(claims) != claims_sha256:
        hint = f"decide the verdicts again: they were decided with claims whose SHA-256 is {claims_sha256}."
        raise BadInput(claims, "file", sha256_file(claims) if claims.is_file() else None, hint)
    copied = {name: REPOSITORY / place for name, place in copied_files(record, claims).items()}
    kinds = {Path(record[key]).name: kind for key, kind in _BESIDE.items() if record.get(key) is not None}
    for name, file in copied.items():
        kind = "arm" if name.startswith("arms/") else kinds.get(name)
        if kind == "arm":
            require_inside(file, claims, "arm", *homes, claims.parent)
        if not file.is_file():
            raise BadInput(file, "file", None, "put it back: the claims or the benchmark of these results name it.")
        if kind is not None:
            read_checked(file, kind)  # a file of another kind is nothing to publish
    return written_files(record) | {name: file.read_bytes() for name, file in copied.items()}


def _project(results: Path) -> list[Path]:
    """The folder of the workflow that these results are of, where it is not this repository."""
    home = results.absolute().parents[1]
    return [home] if results.absolute().parent.name == "results" and (home / "Snakefile").is_file() else []


def copied_files(record: Mapping[str, Any], claims: Path) -> dict[str, Path]:
    """Files of a benchmark's config that a record does not hold, by name below config/; where the repository has them.

    Args:
        claims: the claims file, which names arms.

    Raises:
        BadInput: it is not in its schema.
    """
    judged = read_checked(claims, "claims")["claims"]
    named = {claim[key] for claim in judged for key in ("arm", "against") if key in claim} - {"reference"}
    arms = Path(record["claims"]).parent / "arms"
    copied = {f"arms/{arm}.yaml": arms / f"{arm}.yaml" for arm in sorted(named - set(record["arms"]))}
    copied |= {f"studies/{name}.py": _STUDIES / f"{name}.py" for name in record.get("studies") or []}
    return copied | {Path(record[key]).name: Path(record[key]) for key in _BESIDE if record.get(key) is not None}


def written_files(record: Mapping[str, Any]) -> dict[str, bytes]:
    """Files of a benchmark's config that are made of its record, by name below config/."""
    written = {f"{kind}/{name}.yaml": _without_places(entry) for kind in _KINDS for name, entry in record[kind].items()}
    matrix = {key: value for key, value in record.items() if key not in _PLACES and value is not None}
    matrix |= {kind: list(record[kind]) for kind in _KINDS}
    matrix |= {key: Path(record[key]).name for key in _BESIDE if record.get(key) is not None}
    written[f"{record['name']}.yaml"] = matrix
    return {
        name: yaml.safe_dump(entry, sort_keys=False, allow_unicode=True).encode() for name, entry in written.items()
    }


def read_record(file: Path) -> dict[str, Any]:
    """benchmark.yaml, far enough checked to be taken apart.

    Raises:
        BadInput: missing, not YAML, with aliases (a few lines of which can stand for gigabytes), not a matrix, or with
            a name by which a file made from it could leave its folder.
    """
    record = read_yaml(file)
    if not isinstance(record, dict):
        raise BadInput(file, "file", record, _AGAIN)
    for key in ("name", "source", "claims"):
        if not isinstance(record.get(key), str):
            raise BadInput(file, key, record.get(key), _AGAIN)
    for key in _KINDS:
        if not isinstance(record.get(key), dict) or not all(isinstance(entry, dict) for entry in record[key].values()):
            raise BadInput(file, key, record.get(key), _AGAIN)
    for key, kind in (("studies", list), ("profile", str), ("pilot", str)):
        if record.get(key) is not None and not isinstance(record[key], kind):
            raise BadInput(file, key, record[key], _AGAIN)
    for name in (record["name"], *(record.get("studies") or []), *(name for kind in _KINDS for name in record[kind])):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput(file, "name", name, "write lower case letters, digits and _.")
    return record


def load_config(config: Path, record_file: Path) -> tuple[Benchmark, Claims]:
    """Benchmark and claims from the files of `config_files`, checked as any benchmark is, and against the record.

    Raises:
        BadInput: a file is missing or not in its schema, or the config is not the matrix that `record_file` records.
    """
    record = read_record(record_file)
    matrix = config / f"{record['name']}.yaml"
    given = read_checked(matrix, "benchmark")
    for key in _BESIDE:
        name = given.get(key)
        if name is not None and Path(name).name != name:
            raise BadInput(matrix, key, name, "name a file beside this one.")
    benchmark = load_benchmark(matrix)
    recorded = flat(_without_places(record))
    loaded = flat(_without_places(benchmark.resolved()))
    for key in dict.fromkeys([*recorded, *loaded]):
        if key not in loaded or key not in recorded or loaded[key] != recorded[key]:
            hint = f"{record_file.name} says {recorded.get(key)!r}: not the same matrix."
            raise BadInput(matrix, key, loaded.get(key), hint)
    if benchmark.resolved().get(CELLS) != record.get(CELLS):
        hint = f"{record_file.name} says {record.get(CELLS)!r}: not the same matrix."
        raise BadInput(matrix, CELLS, given.get(CELLS), hint)
    return benchmark, load_claims(benchmark.claims)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys."""
    return dict(_leaves(value, prefix))


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    children: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not children and not isinstance(value, Mapping | list):
        yield place, value
    for key, item in children:
        yield from _leaves(item, f"{place}.{key}" if place else str(key))


def _without_places(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without the paths of its files, and without optional keys that are not set."""
    return {
        key: _without_places(value) if isinstance(value, Mapping) else value
        for key, value in entry.items()
        if key not in _PLACES and value is not None
    }
