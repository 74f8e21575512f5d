"""One file, one part of the report's page, found by being there: it defines `sections(results)`, which yields values of
`groupppo.draw.blocks`."""

import importlib
import json
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from groupppo.config import Benchmark
from groupppo.draw.blocks import FigureRecord, Section
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.records.where import Where
from groupppo.verdicts.item_share import ItemShare
from groupppo.verdicts.rules import VERDICTS

PROFILE = "profile"
"""Folder of the profile in a results folder."""


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
    unit: str
    verdict: str = Field(pattern=f"^({'|'.join(VERDICTS)})$")
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


class Judged(BaseModel):
    """The content of verdicts.json."""

    level: float
    claims_sha256: str
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Results:
    """What sections are made of; `runs` and `evals` are tidy tables, `figures` the records of the benchmark's."""

    folder: Path
    benchmark: Benchmark
    runs: pd.DataFrame
    evals: pd.DataFrame
    judged: Judged
    figures: Sequence[FigureRecord]


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
        BadInput: the file or a key is missing, or a value is not of its form.
    """
    content = read_object(file, "decide the verdicts first.")
    try:
        return Judged.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        value = None if first["type"] == "missing" else first["input"]
        raise BadInput(file, key, value, "decide the verdicts again.") from error
