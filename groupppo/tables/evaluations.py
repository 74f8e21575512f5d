"""result.json of the start checkpoint and of every trained one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput
from groupppo.records.folders import ResultsFolder
from groupppo.tables.keys import Keys
from groupppo.tables.records import Record
from groupppo.tables.schema import START

MATCHED_EVALUATION = ("n", "data_sha256", "yaml_sha256", "batch_size", "repeats", "eval_seed")
"""What the evaluations of a task and model must share."""


@dataclass(frozen=True)
class Evaluation:
    """One result.json.

    Args:
        rows: of the table `evals`, after the keys: metric, value, stderr, n.
        matched: the values of MATCHED_EVALUATION.
        checkpoint: SHA-256 of the checkpoint that was evaluated; None where it is not recorded.
    """

    rows: tuple[tuple[str, float, float, int], ...]
    matched: dict[str, Any]
    checkpoint: str | None


def read_start(results: Path, task: str, model: str) -> Evaluation:
    """The evaluation of the checkpoint that all runs of a task and model start from.

    Raises:
        BadInput: it is missing, not a record of this checkpoint, or holds a value of another kind.
    """
    return _read(results, Keys(task, model, START, None))


def read_evaluation(results: Path, keys: Keys, start: Evaluation | None) -> Evaluation:
    """The evaluation of a trained checkpoint, compared with that of the start where that could be read.

    Raises:
        BadInput: as `read_start`, or it was measured with other prompts or settings than the start.
    """
    found = _read(results, keys)
    for key, expected in start.matched.items() if start else ():
        if found.matched[key] != expected:
            hint = f"evaluate again: the start checkpoint was measured with {expected!r}."
            raise BadInput(_file(results, keys), key, found.matched[key], hint)
    return found


def _read(results: Path, keys: Keys) -> Evaluation:
    record = Record.of_file(_file(results, keys), "evaluate this checkpoint.")
    record.check_keys(keys._asdict())
    metrics = record.part("metrics")
    parts = {metric: metrics.part(metric) for metric in metrics.values}
    rows = tuple((metric, *_numbers(part)) for metric, part in parts.items())
    checkpoint = record.values.get("checkpoint_sha256")
    return Evaluation(rows, {key: record.value(key) for key in MATCHED_EVALUATION}, checkpoint)


def _numbers(part: Record) -> tuple[float, float, int]:
    value, stderr = part.real("value"), part.real("stderr", least=0.0)
    assert value is not None  # `real` raises on null unless told that it may be missing
    assert stderr is not None
    return value, stderr, part.whole("n", least=1)


def _file(results: Path, keys: Keys) -> Path:
    return ResultsFolder(results).evaluation(*keys) / "result.json"
