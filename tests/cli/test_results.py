"""groupppo report, verify and compare: results that are there, through the functions that make and judge them."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from groupppo.measure.stages import DEFINITION
from groupppo.publish.bundle import make_bundle
from groupppo.publish.derive import derive
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.synthetic import write_results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder as a benchmark leaves it; copy before changing."""
    results = tmp_path_factory.mktemp("finished") / "quick"
    benchmark = write_results(results, seeds=(1, 2, 3), steps=8)
    derive(results, benchmark, load_claims(benchmark.claims))
    return results


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results" / "quick"))


def test_report_makes_page_and_figures_again_from_tables_and_verdicts(groupppo, results: Path) -> None:
    kept = {name: (results / name).read_bytes() for name in ("verdicts.json", "tables/runs.parquet")}
    before = {file.name for file in (results / "figures").iterdir()}
    shutil.rmtree(results / "figures")
    (results / "report.html").unlink()
    done = groupppo("report", results)
    assert done.code == 0, done.err
    assert done.out.strip() == str(results / "report.html")
    page = (results / "report.html").read_text()
    assert DEFINITION.partition("'")[0] in page
    assert {file.name for file in (results / "figures").iterdir()} == before
    assert {name: (results / name).read_bytes() for name in kept} == kept


def test_report_without_verdicts_says_what_makes_them(groupppo, results: Path) -> None:
    (results / "verdicts.json").unlink()
    done = groupppo("report", results)
    assert done.code == 1
    assert "verdicts.json: file = missing" in done.err
    assert "hint: decide the verdicts first" in done.err


def test_report_of_a_folder_that_is_no_results_folder_is_refused(groupppo, tmp_path: Path) -> None:
    assert groupppo("report", tmp_path / "absent").code == 1
    done = groupppo("report", tmp_path)
    assert done.code == 1
    assert "benchmark.yaml" in done.err


def test_results_are_found_by_name_from_inside_the_repository(groupppo, results: Path, project: Path) -> None:
    done = groupppo("verify", "quick")
    assert done.code == 0, done.out
    assert "results folder results/quick" in done.out


def test_verify_ends_with_0_for_a_sound_bundle_and_with_1_for_a_changed_verdict(
    groupppo, results: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(results, tmp_path / "bundle.zip", checkpoints=False)
    done = groupppo("verify", bundle)
    assert done.code == 0, done.out
    assert done.out.rstrip().endswith("ok")
    judged = json.loads((results / "verdicts.json").read_text())
    judged["verdicts"][0]["verdict"] = "supported" if judged["verdicts"][0]["verdict"] != "supported" else "refuted"
    (results / "verdicts.json").write_text(json.dumps(judged))
    done = groupppo("verify", results)
    assert done.code == 1
    assert "differs: derived: verdicts.json" in done.out


def test_verify_of_a_folder_of_bundles_checks_each_and_says_what_it_did_not_look_at(
    groupppo, results: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    zipped, unpacked = shelf / "zipped.zip", shelf / "unpacked"
    make_bundle(results, zipped, checkpoints=False)
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(unpacked)
    (shelf / "README.md").write_text("What these are.")
    done = groupppo("verify", shelf)
    assert done.code == 0, done.out
    assert [line for line in done.out.splitlines() if not line.startswith("  ")] == [
        f"{shelf / 'README.md'}: no bundle, not looked at",
        f"unpacked bundle {unpacked}, benchmark quick",
        "ok",
        f"bundle {zipped}, benchmark quick",
        "ok",
    ]
    (unpacked / "tables" / "runs.parquet").unlink()
    done = groupppo("verify", shelf)
    assert done.code == 1
    assert done.out.splitlines().count("ok") == 1


def test_verify_of_what_is_no_bundle_is_an_error_without_traceback(groupppo, tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").write_bytes(b"not a zip")
    for path in (tmp_path / "bundle.zip", tmp_path / "absent.zip"):
        done = groupppo("verify", path)
        assert done.code == 1
        assert "hint:" in done.err


def test_compare_ends_with_the_exit_code_of_the_comparison(groupppo, results: Path, tmp_path: Path) -> None:
    from groupppo.publish.compare import compare

    same = Path(shutil.copytree(results, tmp_path / "same" / "quick"))
    assert groupppo("compare", results, same).code == compare(results, same).exit_code == 0
    fewer = tmp_path / "fewer" / "quick"
    benchmark = write_results(fewer, seeds=(1, 2), steps=8)

    def judge() -> None:
        collect(fewer, benchmark)
        judged = decide(load_claims(benchmark.claims), load_tables(fewer / "tables"), benchmark)
        (fewer / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")

    judge()
    said = groupppo("compare", results, fewer)
    assert said.code == compare(results, fewer).exit_code == 0  # nobody planned a third seed there
    assert "seed3" in said.out
    shutil.rmtree(fewer / "runs" / "sorting" / "tiny" / "grpo" / "seed2")
    judge()
    expected = compare(results, fewer)
    assert expected.exit_code in (1, 2)
    assert groupppo("compare", results, fewer).code == expected.exit_code


def test_compare_prints_its_tables_and_writes_pages_only_when_asked(groupppo, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages"
    done = groupppo("compare", results, results)
    assert "Settings that differ" in done.out
    assert not out.exists()
    assert groupppo("compare", results, results, "--out", out).code == 0
    assert {file.name for file in out.iterdir()} == {"compare.html", "compare.md"}
