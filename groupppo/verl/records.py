"""Rows of `steps.jsonl`: everything verl logs in a step, under verl's names, and what the tables read, under ours."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Columns that measure the machine (time, memory, throughput): they differ between two runs with the same seed.
MEASURED = ("timing_", "perf/", "throughput/", "elapsed_seconds")


def step_row(step: int, metrics: Mapping[str, Any], *, step_seconds: float, elapsed: float) -> dict[str, Any]:
    """One row: numbers only, null where a number is not finite.

    Args:
        step: training step from 1. metrics: all metrics of the step. step_seconds: the whole step.
        elapsed: seconds since training began, start-up excluded.
    """
    row: dict[str, Any] = {"step": step}
    for name, value in metrics.items():
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, bool | int | float):
            row[name] = number if math.isfinite(number) else None
    row["reward/mean"] = row["critic/score/mean"]
    row["tokens/response"] = row["group/total_tokens"]
    row["tokens/total"] = row["perf/total_num_tokens"]
    row["throughput/tokens_per_second"] = row["tokens/total"] / step_seconds
    row["elapsed_seconds"] = elapsed
    return row


def repeatable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that must repeat to the bit when a run is repeated."""
    return {key: value for key, value in row.items() if not any(part in key for part in MEASURED)}


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
