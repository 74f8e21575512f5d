"""groupppo report, verify and compare: results that are there, through the functions that make and judge them."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
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


def test_what_a_report_needs_is_named(groupppo, results: Path, tmp_path: Path) -> None:
    (results / "verdicts.json").unlink()
    done = groupppo("report", results)
    assert done.code == 1
    assert "verdicts.json: file = missing" in done.err
    assert "hint: decide the verdicts first" in done.err
    for folder in (tmp_path / "absent", tmp_path):
        done = groupppo("report", folder)
        assert (done.code, "benchmark.yaml" in done.err) == (1, True)


def test_verify_ends_with_0_for_a_sound_bundle_and_with_1_for_a_changed_verdict_of_results_by_name(
    groupppo, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(results, tmp_path / "bundle.zip", checkpoints=False)
    done = groupppo("verify", bundle)
    assert done.code == 0, done.out
    assert done.out.rstrip().endswith("ok")
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path)
    judged = json.loads((results / "verdicts.json").read_text())
    judged["verdicts"][0]["verdict"] = "supported" if judged["verdicts"][0]["verdict"] != "supported" else "refuted"
    (results / "verdicts.json").write_text(json.dumps(judged))
    done = groupppo("verify", "quick")
    assert done.code == 1
    assert "results folder results/quick" in done.out
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


def test_compare_prints_its_tables_writes_pages_when_asked_and_ends_with_the_code_of_the_comparison(
    groupppo, results: Path, tmp_path: Path
) -> None:
    from groupppo.publish.compare import compare

    out, fewer = tmp_path / "pages", tmp_path / "fewer" / "quick"
    same = groupppo("compare", results, results, "--out", out)
    assert same.code == compare(results, results).exit_code == 0
    assert "Settings that differ" in same.out
    assert {file.name for file in out.iterdir()} == {"compare.html", "compare.md"}
    benchmark = write_results(fewer, seeds=(1, 2, 3), steps=8)
    shutil.rmtree(fewer / "runs" / "sorting" / "tiny" / "grpo" / "seed2")
    collect(fewer, benchmark)
    judged = decide(load_claims(benchmark.claims), load_tables(fewer / "tables"), benchmark)
    (fewer / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    done = groupppo("compare", results, fewer)
    assert done.code == compare(results, fewer).exit_code != 0
    assert "seed2" in done.out
