"""What two cells were run with, and in what they differ: nobody should compare apples with pears unknowingly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from groupppo.config.benchmark import CELLS
from groupppo.publish.reading import read_json
from groupppo.publish.source import flat
from groupppo.records.folders import RunFolder
from groupppo.records.plain_json import read_bytes
from groupppo.records.plain_yaml import LARGEST, parse_texts, read_yaml
from groupppo.records.seal import scrub_record

Differences = list[tuple[str, str, str]]
"""Key, value in a and value in b of every setting that differs, sorted by key; "not set" where a side has none."""
MACHINE = ("device", "rollout", "machine.cpu", "machine.cpu_cores", "machine.gpu", "machine.gpu_count", "cpu")
THREADS = "software.omp_num_threads"
"""With MACHINE what seconds and bytes depend on; where it differs they are not compared."""
_RECORDED = ("device", "machine", "software", "source", "inputs", "host", "cpu", "torch", "verl", "transformers")
# They differ between any two runs or copies, or follow from what is compared by itself.
_IGNORED = ("machine.cpu_mhz", "machine.memory_bytes", "inputs.config_sha256", "source.uncommitted_sha256")
# Older runs hashed the start with its logs, seconds included, so that equal weights had unequal hashes. The evaluation
# of the start has always hashed the model alone.
_START, _START_WITH_LOGS = "inputs.start_model_sha256", "inputs.start_checkpoint_sha256"
_EVALUATION = ("n", "data_sha256", "yaml_sha256", "lm_eval_version", "batch_size", "repeats", "eval_seed")
_PLACE_KEYS = ("trainer.experiment_name", "trainer.project_name")
_NO_SETTINGS = {"source", "claims", "profile", "pilot", "name", "title", "description", "seeds", "studies", CELLS}


@dataclass(frozen=True)
class SettingDifference:
    """One setting that differs.

    Args:
        key: such as "config train.steps" or "machine.cpu".
        a: its value in a.
        b: its value in b.
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
        return RunFolder(self.folder / "runs" / self.cell).config


def cell_differences(a: CellFiles, b: CellFiles) -> Differences:
    """Machine, software, source, inputs, evaluation and "config" for each key of verl's config that two runs differ in.

    Raises:
        BadInput: a file of settings is damaged or hostile.
    """
    recorded, texts = [_recorded(side) for side in (a, b)], [_config_text(side.config) for side in (a, b)]
    for side, own, text in zip((a, b), recorded, texts, strict=True):
        # A config has a thousand lines, and those of one cell are mostly the same to the letter.
        if text is not None and None not in texts and texts[0] != texts[1]:
            values = flat(parse_texts(text, side.config))
            own |= {f"config {key}": value for key, value in values.items() if key not in _PLACE_KEYS}
        elif text is not None and None in texts:
            own["config"] = "a file"
    return _differences(*recorded)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Differences:
    was, now = ({key: str(value) for key, value in side.items()} for side in (a, b))
    keys = sorted(set(was) | set(now))
    return [(key, was.get(key, "not set"), now.get(key, "not set")) for key in keys if was.get(key) != now.get(key)]


def _recorded(side: CellFiles) -> dict[str, Any]:
    found: dict[str, Any] = {"rollout": side.rollout}
    result = side.folder / "evals" / side.cell / "result.json"
    provenance, start = RunFolder(side.config.parent).provenance, result.parents[2] / "start" / "result.json"
    if provenance.is_file():
        kept = {key: value for key, value in read_json(provenance).items() if key in _RECORDED}
        found |= {key: value for key, value in flat(kept).items() if key not in _IGNORED}
    if found.pop(_START_WITH_LOGS, None) is not None and start.is_file():
        found[_START] = read_json(start).get("checkpoint_sha256")
    if result.is_file():
        found |= {f"evaluation {key}": value for key, value in read_json(result).items() if key in _EVALUATION}
    return found


def config_values(file: Path) -> dict[str, Any]:
    """verl's config of a run by dotted keys; values are the texts that they are written as.

    Raises:
        BadInput: as `groupppo.records.plain_yaml.parse_texts`.
    """
    return flat(parse_texts(_config_text(file) or "", file))


def as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as `config_values` has them."""
    return flat(yaml.load(yaml.safe_dump(dict(values)), Loader=yaml.BaseLoader))


def _config_text(file: Path) -> str | None:
    """The scrubbed text of a config; None where a run left none."""
    if not file.is_file():
        return None
    return scrub_record(read_bytes(file, "fetch it again.", LARGEST).decode(errors="replace"))[0]


def matrix_differences(a: Path, b: Path) -> list[SettingDifference]:
    """Keys of the two matrices (benchmark.yaml) that differ, cells and places of files apart."""
    flattened = (flat(read_yaml(path)) for path in (a, b))
    sides = [{k: v for k, v in side.items() if not set(k.split(".")) & _NO_SETTINGS} for side in flattened]
    return [SettingDifference(f"benchmark {key}", was, now) for key, was, now in _differences(*sides)]


def grouped(found: Mapping[str, Differences]) -> list[SettingDifference]:
    """Differences of many cells, one entry for each key and pair of values."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for cell, items in found.items():
        for item in items:
            cells.setdefault(item, []).append(cell)
    return [SettingDifference(*item, tuple(names)) for item, names in sorted(cells.items())]
