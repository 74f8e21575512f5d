"""What two cells were run with, and in what they differ: nobody should compare apples with pears unknowingly."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from groupppo.errors import BadInput
from groupppo.matrix import KEY as CELLS
from groupppo.publish.matrix import flat
from groupppo.publish.reading import read_json
from groupppo.records.folders import ResultsFolder, RunFolder
from groupppo.records.plain_yaml import DEEPEST, LARGEST, read_yaml
from groupppo.records.seal import scrub_record

MACHINE = ("device", "rollout", "machine.cpu", "machine.cpu_cores", "machine.gpu", "machine.gpu_count")
"""What seconds and bytes depend on; where it differs they are not compared."""
THREADS = "software.omp_num_threads"
_RECORDED = ("machine", "software", "source", "inputs", "host", "cpu", "torch", "verl", "transformers")
# They differ between any two runs or copies, or follow from what is compared by itself.
_IGNORED = ("machine.cpu_mhz", "machine.memory_bytes", "inputs.config_sha256", "source.uncommitted_sha256")
# Older runs hashed the start with its logs, seconds included, so that equal weights had unequal hashes. The evaluation
# of the start has always hashed the model alone.
_START, _START_WITH_LOGS = "inputs.start_model_sha256", "inputs.start_checkpoint_sha256"
_EVALUATION = ("n", "data_sha256", "yaml_sha256", "lm_eval_version", "batch_size", "repeats", "eval_seed")
_PLACE_KEYS = ("trainer.experiment_name", "trainer.project_name")
SHOWN = 12
"""Differing keys that are named; further ones are counted."""


@dataclass(frozen=True)
class SettingDifference:
    """One setting that differs.

    Args:
        key: such as "config train.steps" or "machine.cpu".
        a, b: its values, "not set" where a side has none.
        cells: cells it differs in, as texts; empty for a setting of the whole benchmark.
    """

    key: str
    a: str
    b: str
    cells: tuple[str, ...] = ()


class CellFiles(NamedTuple):
    """Where the settings of one run are: results, "<task>/<model>/<arm>/seed<k>", and the server that sampled."""

    folder: Path
    cell: str
    rollout: str

    @property
    def config(self) -> Path:
        return RunFolder(ResultsFolder(self.folder).runs / self.cell).config


def cell_differences(a: CellFiles, b: CellFiles) -> list[tuple[str, str, str]]:
    """(key, value in a, value in b) of every setting of two runs that differs, sorted by key.

    Compared are machine, software, source, inputs, evaluation, and "config" for each key of verl's config.

    Raises:
        BadInput: a file of settings is damaged or hostile.
    """
    ours, theirs = _recorded(a), _recorded(b)
    was, now = _config_text(a.config), _config_text(b.config)
    if was is None or now is None:
        ours |= {} if was is None else {"config": "a file"}
        theirs |= {} if now is None else {"config": "a file"}
    # A config has a thousand lines, and those of one cell are mostly the same to the letter.
    elif was != now:
        ours |= _config(a.config, was)
        theirs |= _config(b.config, now)
    return differences(*({key: str(value) for key, value in side.items()} for side in (ours, theirs)))


def _recorded(side: CellFiles) -> dict[str, Any]:
    found: dict[str, Any] = {"rollout": side.rollout}
    provenance, result = (
        RunFolder(side.config.parent).provenance,
        ResultsFolder(side.folder).evals / side.cell / "result.json",
    )
    if provenance.is_file():
        kept = {key: value for key, value in read_json(provenance).items() if key in ("device", *_RECORDED)}
        found |= {key: value for key, value in flat(kept).items() if key not in _IGNORED}
    if _START_WITH_LOGS in found and (start := _start_evaluation(side)).is_file():
        found[_START] = read_json(start).get("checkpoint_sha256")
    found.pop(_START_WITH_LOGS, None)
    if result.is_file():
        found |= {f"evaluation {key}": value for key, value in read_json(result).items() if key in _EVALUATION}
    return found


def _start_evaluation(side: CellFiles) -> Path:
    return (side.folder / "evals" / side.cell).parents[1] / "start" / "result.json"


def _config_text(file: Path) -> str | None:
    """The scrubbed text of a config; None where a run left none."""
    if not file.is_file():
        return None
    _refuse_costly_yaml(file)
    return scrub_record(file.read_text(encoding="utf-8", errors="replace"))[0]


def config_values(file: Path) -> dict[str, Any]:
    """verl's config of a run by dotted keys; values are the texts that they are written as.

    Raises:
        BadInput: it is no YAML, or YAML that is costly to read.
    """
    return _values(file, _config_text(file) or "")


def as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as `config_values` has them."""
    return flat(yaml.load(yaml.safe_dump(dict(values)), Loader=yaml.BaseLoader))


def _config(file: Path, text: str) -> dict[str, Any]:
    return {f"config {key}": value for key, value in _values(file, text).items() if key not in _PLACE_KEYS}


def _values(file: Path, text: str) -> dict[str, Any]:
    # The C reader takes a tenth of the time. Values are compared as the texts that they are written as.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise BadInput(file, "file", "an alias", "write the values out.")
        values = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(file, "file", type(error).__name__, "write valid UTF-8 YAML.") from error
    return flat(values)


def _refuse_costly_yaml(file: Path) -> None:
    """Refuse what would keep a YAML reader busy for minutes: its time grows with the square of the nesting.

    Raises:
        BadInput: longer than `LARGEST` bytes, or more than `DEEPEST` levels of brackets or indentation.
    """
    if file.stat().st_size > LARGEST:
        raise BadInput(file, "size", file.stat().st_size, f"refused: more than {LARGEST:,} bytes of YAML.")
    depth = deepest = 0
    text = file.read_bytes()
    for bracket in re.finditer(rb"[\[\]{}]", text):
        depth = depth + 1 if bracket[0] in b"[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    # An indicator of a list or key may stand in place of a space.
    indented = max((len(found[0]) for found in re.finditer(rb"^[ \t?-]+", text, re.MULTILINE)), default=0)
    if deepest > DEEPEST or indented > 4 * DEEPEST:
        raise BadInput(file, "nesting", max(deepest, indented // 4), f"refused: more than {DEEPEST} levels.")


def differences(a: dict[str, str], b: dict[str, str]) -> list[tuple[str, str, str]]:
    """(key, value in a, value in b) of every setting that differs, sorted by key."""
    unset = "not set"
    keys = sorted(set(a) | set(b))
    return [(key, a.get(key, unset), b.get(key, unset)) for key in keys if a.get(key) != b.get(key)]


def matrix_differences(a: Path, b: Path) -> list[SettingDifference]:
    """Keys of the two matrices (benchmark.yaml) that differ, cells and places of files apart."""
    sides = [{key: str(value) for key, value in _matrix(path).items()} for path in (a, b)]
    return [SettingDifference(f"benchmark {key}", was, now) for key, was, now in differences(*sides)]


def _matrix(record: Path) -> dict[str, Any]:
    apart = ("source", "claims", "profile", "pilot", "name", "title", "description", "seeds", "studies", CELLS)
    values = flat(read_yaml(record))
    return {key: value for key, value in values.items() if not set(key.split(".")) & set(apart)}


def unlike_machines(found: list[tuple[str, str, str]]) -> list[str]:
    """The keys among differences that make seconds and bytes incomparable."""
    return [key for key, _, _ in found if key in (*MACHINE, THREADS, "cpu")]


def grouped(found: dict[str, list[tuple[str, str, str]]]) -> list[SettingDifference]:
    """Differences of many cells, one entry for each key and pair of values."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for cell, items in found.items():
        for item in items:
            cells.setdefault(item, []).append(cell)
    return [SettingDifference(*item, tuple(names)) for item, names in sorted(cells.items())]
