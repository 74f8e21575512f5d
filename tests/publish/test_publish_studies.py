"""A verdict that rests on a study is decided again from the study's table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from groupppo.publish.verify import verify
from groupppo.report.page import write_report
from groupppo.study.tables import write_table
from groupppo.tables import load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from groupppo.verdicts.studied import read_studied
from tests.study.made_faults import made_faults
from tests.synthetic import synthetic_benchmark


@pytest.fixture
def studied(copy: Path) -> Path:
    """Results whose benchmark asks for the study of faults, of which one run was lost."""
    file = copy / "benchmark.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"studies": ["faults"]}, sort_keys=False))
    benchmark = replace(synthetic_benchmark(seeds=(1, 2, 3)), studies=("faults",))
    folder = copy / "studies" / "faults" / "sorting.tiny"
    folder.mkdir(parents=True)
    write_table(folder, "faults", made_faults(lost=1))
    claims = load_claims(benchmark.claims)
    judged = decide(claims, load_tables(copy / "tables"), benchmark, studied=read_studied(copy, benchmark, claims))
    (copy / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    # The page's section on the study is other tests' business; its verdicts are those of the study.
    write_report(copy, replace(benchmark, studies=()), memory_definition="Resident memory.")
    assert [entry["verdict"] for entry in judged["verdicts"] if entry["id"] == "fallback"] == ["refuted"]
    return copy


def test_the_verdict_is_decided_again_from_the_studys_table(studied: Path) -> None:
    assert verify(studied).differences == ()


def test_a_table_that_was_mended_afterwards_is_found(studied: Path) -> None:
    write_table(studied / "studies" / "faults" / "sorting.tiny", "faults", made_faults())
    places = [difference.place for difference in verify(studied).differences if difference.check == "verdicts"]
    assert places
    assert all("fallback" in place for place in places)


def test_a_page_written_before_the_study_is_found(studied: Path, finished: Path) -> None:
    shutil.copy(finished / "report.html", studied / "report.html")
    assert [difference.check for difference in verify(studied).differences] == ["report"]


def test_a_study_that_is_missing_is_named(studied: Path) -> None:
    (studied / "studies" / "faults" / "sorting.tiny" / "faults.csv").unlink()
    assert [difference.check for difference in verify(studied).differences][:1] == ["schemas"]
