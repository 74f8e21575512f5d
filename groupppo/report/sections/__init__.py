"""One file, one part of the report's page, found by being there: it defines `sections(results)`, which yields values.

    for section in all_sections(results): ...

What a section may say is in `groupppo.draw.blocks`; where it stands is its `order`.
"""

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from groupppo.config import Benchmark
from groupppo.draw.blocks import Section
from groupppo.draw.figures import FigureRecord
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.verdicts.item_share import ItemShare
from groupppo.verdicts.quantities import COSTS
from groupppo.verdicts.rules import VERDICTS
from groupppo.where import UNRECORDED, Where

PROFILE = "profile"
"""Folder of the profile in a results folder."""
_AGAIN = "decide the verdicts again."


class Evidence(BaseModel):
    table: str
    file: str
    rows: str


class Verdict(BaseModel):
    """A verdict of verdicts.json; docs/method/verdicts.md explains the keys."""

    id: str
    task: str
    model: str
    claim: str
    source: str
    reading: str
    arm: str
    quantity: str
    comparison: str
    margin: float | None
    unit: str
    verdict: str
    asked: bool
    estimate: float | None
    low: float | None
    high: float | None
    seeds: int
    seeds_needed: int | None
    replicates: str
    reason: str
    what_would_change: str
    item_noise: ItemShare | None
    evidence: Evidence
    figure: str | None
    elsewhere: Where | None


class ExcludedRun(BaseModel):
    task: str
    model: str
    arm: str
    seed: int | None
    reason: str


class Judged(BaseModel):
    """The content of verdicts.json."""

    level: float
    claims_sha256: str
    verdicts: list[Verdict]
    excluded: list[ExcludedRun]


@dataclass(frozen=True)
class Results:
    """What sections are made of; `runs` and `evals` are tidy tables, `figures` the records of the benchmark's."""

    folder: Path
    benchmark: Benchmark
    runs: pd.DataFrame
    evals: pd.DataFrame
    judged: Judged
    figures: Sequence[FigureRecord]

    @property
    def several_cells(self) -> bool:
        return len(self.benchmark.tasks) * len(self.benchmark.models) > 1


def all_sections(results: Results) -> Iterator[Section]:
    """What every module here yields.

    Raises:
        BadInput: a file that a section needs is missing or not in its form.
    """
    for module in pkgutil.iter_modules(__path__):
        yield from importlib.import_module(f"{__name__}.{module.name}").sections(results)


def read_verdicts(file: Path) -> Judged:
    """verdicts.json, with every key that the page needs.

    Raises:
        BadInput: the file or a key is missing, a verdict is not one of VERDICTS, or a value is not of its form.
    """
    content = read_object(file, "decide the verdicts first.")
    listed = content.get("verdicts")
    for i, verdict in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(verdict, dict):
            raise BadInput(file, f"verdicts[{i}]", verdict, _AGAIN)
        if verdict.get("verdict") not in VERDICTS:
            raise BadInput(file, f"verdicts[{i}].verdict", verdict.get("verdict"), f"one of: {', '.join(VERDICTS)}.")
        if "elsewhere" not in verdict:
            verdict["elsewhere"] = _unrecorded(verdict)
    try:
        return Judged.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise BadInput(file, key, None if first["type"] == "missing" else first["input"], _AGAIN) from error


def _unrecorded(verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """Verdicts of before the key say nothing; of those, the ones on a profile are from a place that is not known."""
    evidence = verdict.get("evidence")
    of_profile = verdict.get("quantity") in COSTS and isinstance(evidence, Mapping) and evidence.get("file")
    return asdict(UNRECORDED) if of_profile else None
