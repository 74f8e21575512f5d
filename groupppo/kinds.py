"""The kinds of files in benchmarks/, and which kind a file is."""

from dataclasses import dataclass
from pathlib import Path

from groupppo.errors import BadInput
from groupppo.records.plain_yaml import read_yaml
from groupppo.schemas import kinds, schema

FOLDERS = {"models": "model", "tasks": "task", "arms": "arm"}
"""Folders whose files are all of one kind."""
MATRICES = {"benchmarks": "benchmark", "claims": "claims", "profiles": "profile"}
"""Kinds of the files in benchmarks/ itself, which content tells apart."""


@dataclass(frozen=True)
class Entry:
    """One thing of a kind: its name, title, one line about it, and the file that says so."""

    name: str
    title: str
    line: str
    file: str


def kind_of(path: Path) -> str:
    """The kind of a file: told by its folder (models/, tasks/, arms/), else by the keys that it has.

    Raises:
        BadInput: there is no such file, it is not YAML, or its keys are as much one kind's as another's.
    """
    if path.is_dir():
        raise BadInput(path, "file", "a folder", f"name its files: {path}/*.yaml")
    data = read_yaml(path)
    folder = path.absolute().parent.name
    if folder in FOLDERS:
        return FOLDERS[folder]
    keys = set(data) if isinstance(data, dict) else set()
    # A key that several kinds have, such as title, tells nothing.
    known = {kind: set(schema(kind)["properties"]) for kind in kinds()}
    shared = {key for kind in known for key in known[kind] if sum(key in other for other in known.values()) > 2}
    scores = {kind: len(keys & (known[kind] - shared)) for kind in known}
    best = [kind for kind in known if scores[kind] == max(scores.values())]
    if len(best) > 1:
        hint = "put it into models/, tasks/ or arms/, or write the keys of one kind; `groupppo new` writes such files."
        raise BadInput(path, "file", sorted(map(str, keys)) or data, f"its kind cannot be told: {hint}")
    return best[0]
