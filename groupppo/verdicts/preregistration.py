"""What was fixed before the first run, and what has changed since: claims and matrix, with hashes and commit.

register(results, benchmark)           # by every run as it starts; only the first one of a benchmark leaves a stamp
changes(results, benchmark)            # for the report
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.measure.provenance import source
from groupppo.records.hashing import STAMP
from groupppo.records.plain_json import read_object
from groupppo.records.plain_yaml import read_yaml
from groupppo.records.storage import room_for, write_whole

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
ABSENT = "absent"


@dataclass(frozen=True)
class Change:
    """A value that is not what was registered; `key` is dotted, `ABSENT` stands for a key that is not there."""

    key: str
    registered: str
    now: str


@dataclass(frozen=True)
class Stamp:
    """What was registered when the first run of a benchmark started, at a time in UTC, and what has changed since.

    `commit` is the repository's, empty outside one, `clean` where nothing differed from it. Hashes are of content,
    whatever its comments and layout.
    """

    at: str
    commit: str
    clean: bool
    claims_sha256: str
    matrix_sha256: str
    changes: list[Change]


def register(results: Path, benchmark: Benchmark) -> None:
    """Leave the stamp in a results folder, once: one that is there is never replaced, not even by two runs at once."""
    if (results / STAMP).exists():
        return
    results.mkdir(parents=True, exist_ok=True)
    claims, matrix = _claims(benchmark), benchmark.resolved()
    content = {
        "benchmark": benchmark.name,
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **source(),
        "claims_sha256": content_sha256(claims),
        "matrix_sha256": content_sha256(matrix),
        "claims": claims,
        "matrix": matrix,
    }
    # Written whole before it has its name: half a stamp, of a killed run, would stand for ever.
    stamp, part = results / STAMP, results / f".{STAMP}.{uuid4().hex}"
    write_whole(part, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    try:
        with contextlib.suppress(FileExistsError), room_for(stamp):  # another run of the benchmark may have been first
            os.link(part, stamp)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not stamp.exists():
            part.replace(stamp)
    finally:
        part.unlink(missing_ok=True)


def read_stamp(results: Path, benchmark: Benchmark) -> Stamp | None:
    """The stamp and what differs from it now; None where no run has left one.

    Raises:
        BadInput: the file is not what `register` writes.
    """
    file = results / STAMP
    if not file.is_file():
        return None
    hint = "restore it from a copy; a stamp that is made anew would not be one from before the runs."
    content = read_object(file, hint)
    try:
        registered = {"claims": _by_id(content["claims"]), "matrix": _placeless(content["matrix"])}
        stamp = {key: content[key] for key in ("claims_sha256", "matrix_sha256")}
        at, commit, dirty = content["registered_at"], content["commit"] or "", content["uncommitted_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(file, "file", str(error), hint) from error
    now = {"claims": _by_id(_claims(benchmark)), "matrix": _placeless(benchmark.resolved())}
    before, after = _flat(registered), _flat(now)
    changes = [Change(key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in dict.fromkeys([*before, *after])]
    return Stamp(at, commit, dirty is None, **stamp, changes=[one for one in changes if one.registered != one.now])


def content_sha256(content: Any) -> str:
    """SHA-256 of plain data as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _claims(benchmark: Benchmark) -> dict[str, Any]:
    """The content of the benchmark's claims files, of several as that of one."""
    first, *others = (read_yaml(path) for path in benchmark.claims_files)
    return {**first, "claims": [*first["claims"], *(claim for other in others for claim in other["claims"])]}


def _by_id(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Claims under their ids, so that a new one does not shift the others."""
    return {key: value for key, value in claims.items() if key != "claims"} | {
        claim["id"]: claim for claim in claims["claims"]
    }


def _placeless(matrix: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved matrix whose files have names and no places: an unpacked bundle has them in a folder of its own."""
    entries = {
        kind: {name: entry | {"source": Path(entry["source"]).name} for name, entry in matrix[kind].items()}
        for kind in ("models", "tasks", "arms")
    }
    files: dict[str, Any] = {key: matrix[key] for key in ("source", "claims", "profile", "pilot") if matrix.get(key)}
    files = {
        key: Path(named).name if isinstance(named, str) else [Path(each).name for each in named]
        for key, named in files.items()
    }
    return {**matrix, **entries, **files}


def _flat(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        parts = (_flat(item, f"{key}.{name}".removeprefix(".")) for name, item in value.items())
        return {name: text for part in parts for name, text in part.items()}
    return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
