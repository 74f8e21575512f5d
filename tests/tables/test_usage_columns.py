"""Energy, utilisation and MFU in `runs`: what a run recorded arrives, and what it did not record has a reason."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import Benchmark
from groupppo.measure.usage import Usage
from groupppo.tables.schema import USAGE_FIGURES
from tests.synthetic import rewrite_json
from tests.tables.conftest import RUN, run_row, tables_of

FULL = Usage(
    energy_joules=7.2e6,
    energy_source="counter and power",
    cpu_energy_joules=1.5e5,
    gpu_utilisation=0.75,
    gpu_peak_bytes=70 * 10**9,
    gpu_hours=2.5,
    tokens_per_second=1234.5,
    mfu=0.41,
    mfu_by_stage={"update_actor": 0.45, "old_log_prob": 0.3},
)


@pytest.fixture
def collected(results: tuple[Path, Benchmark]) -> Callable[[dict | None], pd.Series]:
    """The row of a run that recorded this; None: nothing of it."""

    def row(usage: dict | None) -> pd.Series:
        if usage is not None:
            rewrite_json(results[0] / RUN / "status.json", usage=usage)
        return run_row(tables_of(*results))

    return row


def test_every_number_a_run_recorded_is_in_its_row(collected):
    row = collected(asdict(FULL))
    assert {name: row[name] for name in USAGE_FIGURES} == {name: asdict(FULL)[name] for name in USAGE_FIGURES}
    assert pd.isna(row["usage_reason"])
    assert row["admissible"]


def test_what_was_not_measured_is_missing_with_its_reason_and_no_zero(collected):
    gpu = ("energy_joules", "energy_source", "gpu_utilisation", "gpu_peak_bytes")
    missing = dict.fromkeys(gpu, "NVML: Driver Not Loaded") | {"mfu": "no peak of this GPU"}
    row = collected(asdict(Usage(gpu_hours=1.0, tokens_per_second=5.0, missing=missing)))
    assert row[[*gpu, "mfu", "cpu_energy_joules"]].isna().all()
    assert (row["gpu_hours"], row["tokens_per_second"]) == (1.0, 5.0)
    assert row["usage_reason"] == (
        "energy_joules, energy_source, gpu_utilisation, gpu_peak_bytes: NVML: Driver Not Loaded; "
        "cpu_energy_joules: no reason was recorded; mfu: no peak of this GPU"
    )
    assert row["admissible"]


def test_a_run_of_an_earlier_version_says_that_it_recorded_nothing(collected):
    row = collected(None)
    assert row[list(USAGE_FIGURES)].isna().all()
    assert row["usage_reason"] == "the run recorded none of it"
    assert row["admissible"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("energy_joules", -1.0), ("gpu_hours", "2"), ("gpu_peak_bytes", 0.5), ("energy_source", "guess"), ("missing", 3)],
)
def test_a_value_of_another_kind_makes_the_run_unreadable(collected, key, value):
    row = collected(asdict(FULL) | {key: value})
    assert row["status"] == "unreadable"
    assert f"usage {key} = " in row["reason"]


@pytest.mark.parametrize(("stage", "value"), [(None, 1.0), (None, 0.0), ("update_actor", 1.2), ("old_log_prob", 0.0)])
def test_an_mfu_that_cannot_be_is_no_evidence(collected, stage, value):
    usage = asdict(FULL)
    if stage is None:
        usage["mfu"] = value
    else:
        usage["mfu_by_stage"][stage] = value
    row = collected(usage)
    key = "usage.mfu" if stage is None else f"usage.mfu_by_stage.{stage}"
    assert row["reason"] == f"status.json: {key} is {value:g}, not between 0 and 1"
    assert not row["admissible"]


def test_columns_are_those_that_a_run_records():
    recorded = set(asdict(Usage())) - {"mfu_by_stage", "missing", "notes"}
    assert set(USAGE_FIGURES) == recorded
