"""What is compared: benchmark, model, task and arm files, and the other kinds of files in benchmarks/."""

from pathlib import Path

from groupppo.config.benchmark import Benchmark as Benchmark
from groupppo.config.benchmark import BenchmarkFile as BenchmarkFile
from groupppo.config.benchmark import CellPlan as CellPlan
from groupppo.config.benchmark import load_benchmark as load_benchmark
from groupppo.config.files import Form
from groupppo.config.forms import ClaimsFile as ClaimsFile
from groupppo.config.forms import ProfileFile, SiteFile
from groupppo.config.things import FILE as FILE
from groupppo.config.things import FOLDER as FOLDER
from groupppo.config.things import GROUPED as GROUPED
from groupppo.config.things import HUB as HUB
from groupppo.config.things import Arm as Arm
from groupppo.config.things import Evaluation as Evaluation
from groupppo.config.things import Model as Model
from groupppo.config.things import Task as Task
from groupppo.config.things import Train as Train
from groupppo.config.things import WarmStart as WarmStart
from groupppo.config.things import beside as beside
from groupppo.config.things import is_grouped as is_grouped
from groupppo.config.things import load_arm as load_arm
from groupppo.config.things import load_model as load_model
from groupppo.config.things import load_task as load_task
from groupppo.config.things import own_files as own_files
from groupppo.config.things import own_path as own_path
from groupppo.config.things import recorded as recorded
from groupppo.config.things import trains_critic as trains_critic
from groupppo.errors import BadInput
from groupppo.records.folders import REPOSITORY as REPOSITORY
from groupppo.records.plain_yaml import read_yaml

KINDS: dict[str, type[Form]] = {
    "arm": Arm,
    "benchmark": BenchmarkFile,
    "claims": ClaimsFile,
    "model": Model,
    "profile": ProfileFile,
    "site": SiteFile,
    "task": Task,
}
FOLDERS = {"models": "model", "tasks": "task", "arms": "arm", "claims": "claims"}
"""Folders whose files are all of one kind."""


def kind_of(path: Path) -> str:
    """The kind of a file, by its folder (models/, tasks/, arms/, claims/), else by the keys that it has.

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
    known = {kind: set(form.__dataclass_fields__) - {"source", "reward_text"} for kind, form in KINDS.items()}
    # A key that several kinds have, such as title, decides nothing.
    shared = {key for each in known.values() for key in each if sum(key in other for other in known.values()) > 2}
    scores = {kind: len(keys & (each - shared)) for kind, each in known.items()}
    best = [kind for kind in known if scores[kind] == max(scores.values())]
    if len(best) > 1:
        hint = f"put it into {', '.join(f'{each}/' for each in FOLDERS)}, or write the keys of one kind; "
        hint += "`groupppo new` writes such files."
        raise BadInput(path, "file", sorted(map(str, keys)) or data, f"its kind cannot be told: {hint}")
    return best[0]
