"""A verdict that rests on a study is decided again from the study's table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from groupppo.publish.derive import derive
from groupppo.publish.verify import verify
from groupppo.studies.shared.study import find_study
from groupppo.verdicts.claims import load_claims
from tests.studies.made import made_faults
from tests.synthetic import synthetic_benchmark


@pytest.fixture
def studied(copy: Path) -> Path:
    """Results whose benchmark asks for the study of faults, of which one run was lost."""
    file = copy / "benchmark.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"studies": ["faults"]}, sort_keys=False))
    benchmark = replace(synthetic_benchmark(seeds=(1, 2, 3)), studies=("faults",))
    folder = copy / "studies" / "faults" / "sorting.tiny"
    folder.mkdir(parents=True)
    find_study("faults").write_table(folder, "faults", made_faults(lost=1))
    claims = load_claims(benchmark.claims)
    (folder / "study.json").write_text(json.dumps({"settings": {"steps": 3, "run_seed": 1}}), encoding="utf-8")
    derive(copy, benchmark, claims)
    judged = json.loads((copy / "verdicts.json").read_text())
    assert [entry["verdict"] for entry in judged["verdicts"] if entry["id"] == "fallback"] == ["refuted"]
    return copy


def test_the_verdict_is_decided_again_from_the_studys_table(studied: Path) -> None:
    assert verify(studied).differences == ()


def test_a_table_that_was_mended_afterwards_is_found(studied: Path) -> None:
    find_study("faults").write_table(studied / "studies" / "faults" / "sorting.tiny", "faults", made_faults())
    places = {difference.place for difference in verify(studied).differences if difference.check == "derived"}
    assert places == {"verdicts.json", "figures/verdicts.csv", "report.html", "report.md"} & places
    assert "verdicts.json" in places


def test_a_page_written_before_the_study_is_found(studied: Path, finished: Path) -> None:
    shutil.copy(finished / "report.html", studied / "report.html")
    assert [difference.place for difference in verify(studied).differences] == ["report.html"]


def test_a_study_that_is_missing_is_named(studied: Path) -> None:
    (studied / "studies" / "faults" / "sorting.tiny" / "faults.csv").unlink()
    assert [difference.place.endswith("faults.csv: file") for difference in verify(studied).differences] == [True]
