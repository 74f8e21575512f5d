"""What is compared: benchmark, model, task and arm files, and the other kinds of files in benchmarks/."""

from pathlib import Path

from groupppo.config.benchmark import Benchmark, BenchmarkFile, CellPlan, load_benchmark
from groupppo.config.files import Form
from groupppo.config.forms import ClaimsFile, ProfileFile, SiteFile
from groupppo.config.things import (
    GROUPED,
    HUB,
    Arm,
    Evaluation,
    Model,
    Task,
    Train,
    WarmStart,
    is_grouped,
    load_arm,
    load_model,
    load_task,
    recorded,
    trains_critic,
)
from groupppo.errors import BadInput
from groupppo.records.folders import REPOSITORY
from groupppo.records.plain_yaml import read_yaml

__all__ = [
    "FOLDERS",
    "GROUPED",
    "HUB",
    "KINDS",
    "REPOSITORY",
    "Arm",
    "Benchmark",
    "BenchmarkFile",
    "CellPlan",
    "ClaimsFile",
    "Evaluation",
    "Model",
    "Task",
    "Train",
    "WarmStart",
    "is_grouped",
    "kind_of",
    "load_arm",
    "load_benchmark",
    "load_model",
    "load_task",
    "recorded",
    "trains_critic",
]

KINDS: dict[str, type[Form]] = {
    "arm": Arm,
    "benchmark": BenchmarkFile,
    "claims": ClaimsFile,
    "model": Model,
    "profile": ProfileFile,
    "site": SiteFile,
    "task": Task,
}
FOLDERS = {"models": "model", "tasks": "task", "arms": "arm"}
"""Folders whose files are all of one kind."""


def kind_of(path: Path) -> str:
    """The kind of a file, by its folder (models/, tasks/, arms/), else by the keys that it has.

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
    known = {kind: set(form.__dataclass_fields__) - {"source"} for kind, form in KINDS.items()}
    # A key that several kinds have, such as title, decides nothing.
    shared = {key for each in known.values() for key in each if sum(key in other for other in known.values()) > 2}
    scores = {kind: len(keys & (each - shared)) for kind, each in known.items()}
    best = [kind for kind in known if scores[kind] == max(scores.values())]
    if len(best) > 1:
        hint = "put it into models/, tasks/ or arms/, or write the keys of one kind; `groupppo new` writes such files."
        raise BadInput(path, "file", sorted(map(str, keys)) or data, f"its kind cannot be told: {hint}")
    return best[0]
