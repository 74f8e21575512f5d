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

STUDY = "studies/faults/sorting.tiny"


@pytest.fixture(scope="module")
def judged(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results whose benchmark asks for the study of faults, of which one run was lost."""
    results = Path(shutil.copytree(finished, tmp_path_factory.mktemp("studied") / "quick"))
    file = results / "benchmark.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"studies": ["faults"]}, sort_keys=False))
    benchmark = replace(synthetic_benchmark(seeds=(1, 2, 3)), studies=("faults",))
    folder = results / STUDY
    folder.mkdir(parents=True)
    find_study("faults").write_table(folder, "faults", made_faults(lost=1))
    (folder / "study.json").write_text(json.dumps({"settings": {"steps": 3, "run_seed": 1}}), encoding="utf-8")
    derive(results, benchmark, load_claims(benchmark.claims))
    return results


@pytest.fixture
def studied(judged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(judged, tmp_path / "quick"))


def test_the_verdict_is_decided_again_from_the_studys_table(judged: Path) -> None:
    verdicts = json.loads((judged / "verdicts.json").read_text())["verdicts"]
    assert [entry["verdict"] for entry in verdicts if entry["id"] == "fallback"] == ["refuted"]
    assert verify(judged).differences == []


def test_a_table_changed_afterwards_and_a_page_written_before_the_study_are_found(
    studied: Path, finished: Path
) -> None:
    shutil.copy(finished / "report.html", studied / "report.html")
    assert [difference.place for difference in verify(studied).differences] == ["report.html"]
    find_study("faults").write_table(studied / STUDY, "faults", made_faults())
    places = {difference.place for difference in verify(studied).differences if difference.check == "derived"}
    assert {"verdicts.json"} <= places <= {"verdicts.json", "figures/verdicts.csv", "report.html", "report.md"}


def test_a_study_that_is_missing_is_named(studied: Path) -> None:
    (studied / STUDY / "faults.csv").unlink()
    assert [difference.place.endswith("faults.csv: file") for difference in verify(studied).differences] == [True]
