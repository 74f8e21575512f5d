"""What two cells were run with, and in what they differ: nobody should compare apples with pears unknowingly."""

from collections.abc import Mapping
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
_OF_MACHINE = ("cpu", "cpu_cores", "gpu", "gpu_count")
MACHINE = ("device", "rollout", "cpu", "software.omp_num_threads", *(f"machine.{name}" for name in _OF_MACHINE))
"""What seconds and bytes depend on; where it differs they are not compared."""
_RECORDED = ("device", "machine", "software", "source", "inputs", "host", "cpu", "torch", "verl", "transformers")
# They differ between any two runs or copies, or follow from what is compared by itself, as the start is by the hash
# of its evaluation: older runs hashed it with its logs, seconds included.
_IGNORED = ("machine.cpu_mhz", "machine.memory_bytes", "inputs.config_sha256", "source.uncommitted_sha256")
_IGNORED += ("inputs.start_model_sha256", "inputs.start_checkpoint_sha256")
_EVALUATION = ("n", "data_sha256", "yaml_sha256", "lm_eval_version", "batch_size", "repeats", "eval_seed")
_PLACE_KEYS = ("trainer.experiment_name", "trainer.project_name")
_NO_SETTINGS = {"source", "claims", "profile", "pilot", "name", "title", "description", "seeds", "studies", CELLS}


class SettingDifference(NamedTuple):
    """One setting, such as "config train.steps" or "machine.cpu", that differs; `cells`: where, empty for all."""

    key: str
    a: str
    b: str
    cells: tuple[str, ...] = ()


def cell_differences(a: Path, b: Path, cell: str) -> Differences:
    """Machine, software, source, inputs, evaluation and "config" for each key of verl's config that two runs differ in.

    Args:
        a, b: results folders. cell: "<task>/<model>/<arm>/seed<k>".

    Raises:
        BadInput: a file of settings is damaged or hostile.
    """
    recorded = [_recorded(side, cell) for side in (a, b)]
    files = [RunFolder(side / "runs" / cell).config for side in (a, b)]
    texts = [_config_text(file) for file in files]
    for own, file, text in zip(recorded, files, texts, strict=True):
        if text is not None and None in texts:
            own["config"] = "a file"
        elif text is not None and texts[0] != texts[1]:  # mostly they are the same to the letter
            values = flat(parse_texts(text, file))
            own |= {f"config {key}": value for key, value in values.items() if key not in _PLACE_KEYS}
    return _differences(*recorded)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Differences:
    was, now = ({key: str(value) for key, value in side.items()} for side in (a, b))
    keys = sorted(set(was) | set(now))
    return [(key, was.get(key, "not set"), now.get(key, "not set")) for key in keys if was.get(key) != now.get(key)]


def _recorded(folder: Path, cell: str) -> dict[str, Any]:
    provenance, result = RunFolder(folder / "runs" / cell).provenance, folder / "evals" / cell / "result.json"
    start = result.parents[2] / "start" / "result.json"
    found: dict[str, Any] = {}
    if provenance.is_file():
        kept = {key: value for key, value in read_json(provenance).items() if key in _RECORDED}
        found |= {key: value for key, value in flat(kept).items() if key not in _IGNORED}
    if start.is_file():
        found["start (SHA-256)"] = read_json(start).get("checkpoint_sha256")
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
    return scrub_record(read_bytes(file, "fetch it again.", LARGEST).decode(errors="replace"))


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
