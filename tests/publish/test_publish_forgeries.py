"""Forgeries of a bundle, whose lists the forger makes again each time: each is found, and at its own place.

What can be verified at once is: a forgery counts as found only where a difference names its own file. What is not
found is at the end, and in docs/publish.md.
"""

import json
import mimetypes
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.config import REPOSITORY, Benchmark
from groupppo.errors import BadInput
from groupppo.publish.bundle import make_bundle
from groupppo.publish.contents import (
    LISTS,
    MANIFEST,
    METADATA,
    SAID,
    SUMS,
    Kind,
    files_in,
    is_picture,
    kinds_in,
    listed_differences,
    sums_text,
    write_lists,
)
from groupppo.publish.derive import made_by
from groupppo.publish.reading import difference
from groupppo.publish.records import evaluation_differences, notes, record_differences
from groupppo.publish.source import loaded_config, source_differences
from groupppo.publish.verify import Verification, same_verdicts, verify
from groupppo.records.hashing import KEY, seal, seal_run, sha256_file
from tests.publish.conftest import unzipped
from tests.publish.made import write_whole_results
from tests.synthetic import rewrite_json

RUN, SEALED = "runs/sorting/tiny/grpo/seed2", "runs/sorting/tiny/group_ppo/seed1"
EVALUATION = "evals/sorting/tiny/grpo/seed2"
STUDY = "studies/grouping/sorting.tiny"
START = "assets/starts/sorting/tiny/warmstart.json"
STATUS, PROVENANCE, CONFIG = (f"{RUN}/{name}" for name in ("status.json", "provenance.json", "config.yaml"))
RESULT, REPORT = (f"{EVALUATION}/{name}" for name in ("result.json", "results_2026-11-22.json"))
GREEDY, SAMPLED = (f"{EVALUATION}/samples_sorting_{kind}_2026-11-22.jsonl" for kind in ("greedy", "sampled"))
OF_A_RUN = {CONFIG, PROVENANCE, f"{RUN}/steps.jsonl", f"{RUN}/stages.jsonl"}
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def laden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a study, a profile and a pilot, unpacked; copy before changing."""
    place = tmp_path_factory.mktemp("laden")
    write_whole_results(place / "quick", seeds=(1, 2), laden=True)
    return unzipped(make_bundle(place / "quick", place / "bundle.zip", checkpoints=False), place / "bundle")


@pytest.fixture(scope="module")
def benchmark(light: Path) -> Benchmark:
    with loaded_config(light) as (benchmark, _):
        return benchmark


def list_again(folder: Path, listed: Path) -> None:
    """New manifest, metadata and checksums, as whoever forges on purpose makes them. `listed`: as it was before."""
    manifest = json.loads((listed / MANIFEST).read_text())
    with loaded_config(listed) as (benchmark, _):
        write_lists(folder, benchmark, files_in(folder), {key: manifest[key] for key in SAID})


def change(file: Path) -> None:
    """Something else than before, still in its form."""
    text = "" if file.suffix == ".parquet" else file.read_text()
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        place = next(i for i, field in enumerate(table.schema) if str(field.type) in ("double", "int64"))
        values = [value if value is None else value + 1 for value in table.column(place).to_pylist()]
        field = table.schema.field(place)
        pq.write_table(table.set_column(place, field, pa.array(values, field.type)), file)
    elif file.suffix == ".json" and text.startswith("{"):
        rewrite_json(file, forged=1)
    elif file.suffix == ".html":
        file.write_text(text.replace("</style>", "td { display: none }</style>", 1))
    elif file.suffix == ".jsonl":
        file.write_text(text.replace("1", "2", 1))
    else:
        file.write_text(text + "# forged\n")


def found_at(outcome: Verification, check: str) -> set[str]:
    """Files that differences of a check name."""
    return {difference.place.partition(":")[0] for difference in outcome.differences if difference.check == check}


def places(differences: Iterable[tuple[str, object, object]]) -> set[str]:
    """Files that differences name."""
    return {place.partition(":")[0] for place, _, _ in differences}


def test_a_bundle_that_nobody_forged_is_sound(laden: Path, light: Path, benchmark: Benchmark) -> None:
    outcome = verify(laden)
    assert (outcome.differences, outcome.not_compared) == ([], [])
    assert not any("unchecked" in note for note in outcome.notes)
    assert places(record_differences(light, benchmark)) == set()
    assert places(evaluation_differences(light, benchmark)) == set()


def files_of(folder: Path, kind: Kind) -> list[str]:
    """Files of a kind, but for pictures."""
    return [name for name, each in kinds_in(sorted(files_in(folder))).items() if each == kind and not is_picture(name)]


@pytest.fixture
def forged(laden: Path, tmp_path: Path) -> Path:
    """The laden bundle, to be forged."""
    return Path(shutil.copytree(laden, tmp_path / "forged"))


def test_every_derived_file_is_compared_with_what_its_records_give(laden: Path, forged: Path) -> None:
    """Every one is changed or gone, and some are there that nothing makes."""
    names = files_of(laden, Kind.DERIVED)
    for name in names[::2]:
        (forged / name).unlink()
    for name in names[1::2]:
        change(forged / name)
    more = {f"figures/more.{suffix}": f"figures/reward.{suffix}" for suffix in ("csv", "png")}
    more |= {f"{STUDY}/figures/more.svg": "figures/reward.svg", "tables/more.parquet": "tables/runs.parquet"}
    for name, like in more.items():
        shutil.copy(laden / like, forged / name)
    list_again(forged, laden)
    assert len(names) >= 50
    assert found_at(verify(forged), "derived") == {*names, *more}


def test_every_source_is_that_of_its_commit_or_of_the_matrix(laden: Path, forged: Path) -> None:
    commit = json.loads((laden / MANIFEST).read_text())["source"]["commit"]
    names = files_of(laden, Kind.SOURCE)
    gone = ["requirements/gpu.lock", "config/studies/grouping.py", "LICENSE"]
    for name in names:
        (forged / name).unlink() if name in gone else change(forged / name)
    # Whoever changes the list of claims has taken it from the commit all the same.
    claims = Path("config", "claims", "group_ppo.yaml")
    (forged / claims).write_text((laden / claims).read_text() + "# forged\n")
    (forged / "config" / "arms" / "more.yaml").write_text("name: more\n")
    assert len(names) >= 20
    assert places(source_differences(laden, commit)) == places(source_differences(laden, "")) == set()
    assert places(source_differences(forged, commit)) == {*names, "config/arms/more.yaml"}
    # Where nobody knows the commit, files that are copied can be missed, and those that are written compared.
    assert {*gone, "config/quick.yaml", "config/arms/more.yaml"} <= places(source_differences(forged, ""))


@pytest.mark.parametrize("gone", [False, True])
def test_every_raw_file_that_a_record_seals_is_found(laden: Path, forged: Path, gone: bool) -> None:
    names = {*OF_A_RUN, REPORT, "preregistration.json"}
    # A bundle may leave samples out, and a table of a study is missed where the study is read.
    names |= set() if gone else {GREEDY, SAMPLED, *(f"{STUDY}/{file.name}" for file in (laden / STUDY).glob("*.csv"))}
    for name in names:
        (forged / name).unlink() if gone else change(forged / name)
    assert len(names) == (6 if gone else 12)
    with loaded_config(laden) as (benchmark, _):
        assert places(record_differences(laden, benchmark)) == set()
        found = places(record_differences(forged, benchmark))
    assert found == names if gone else found >= names


def test_a_table_of_a_study_that_was_changed_and_sealed_again_is_told_by_what_is_made_of_it(
    laden: Path, forged: Path
) -> None:
    place = forged / STUDY
    table = pd.read_csv(place / "agreement.csv")
    table.assign(**{key: table[key] / 2 for key in ("f1", "f1_low", "f1_high")}).to_csv(
        place / "agreement.csv", index=False
    )
    rewrite_json(place / "study.json", **{KEY: seal(place.glob("*.csv"))})
    list_again(forged, laden)
    assert {f"{STUDY}/figures/agreement.csv", "report.html"} <= found_at(verify(forged), "derived")


def test_a_seal_without_a_hash_seals_nothing(unpacked: Path, benchmark: Benchmark) -> None:
    for record in (STATUS, RESULT):
        rewrite_json(unpacked / record, **{KEY: dict.fromkeys(json.loads((unpacked / record).read_text())[KEY])})
    assert places(record_differences(unpacked, benchmark)) >= {*OF_A_RUN, REPORT, GREEDY, SAMPLED}


def test_a_file_that_is_gone_is_missed_whatever_its_record_says_of_it(unpacked: Path, benchmark: Benchmark) -> None:
    (unpacked / RUN / "steps.jsonl").unlink()
    sealed = json.loads((unpacked / STATUS).read_text())[KEY]
    for said in (sealed["steps.jsonl"], "no file", None):
        rewrite_json(unpacked / STATUS, **{KEY: sealed | {"steps.jsonl": said}})
        assert places(record_differences(unpacked, benchmark)) == {f"{RUN}/steps.jsonl"}


def again(folder: Path, run: str) -> None:
    """The seals of a run and its evaluation, made again."""
    rewrite_json(folder / run / "status.json", **{KEY: seal_run(folder / run)})
    place = folder / run.replace("runs/", "evals/")
    files = [*place.glob("results_*.json"), *place.glob("samples_*.jsonl")]
    rewrite_json(place / "result.json", **{KEY: seal(files)})


def in_json(name: str, key: str = "", **values: object) -> Change:
    """Values of a JSON object, or of the one at its `key`."""

    def changed(folder: Path) -> None:
        part = json.loads((folder / name).read_text())[key] | values if key else {}
        rewrite_json(folder / name, **({key: part} if key else values))

    return changed


def in_yaml(name: str, **values: object) -> Change:
    def changed(folder: Path) -> None:
        file = folder / name
        new = {key.replace("__", "."): value for key, value in values.items()}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | new, sort_keys=False))

    return changed


def in_line(name: str, **values: object) -> Change:
    """Values of the first line of a file of JSON lines."""

    def changed(folder: Path) -> None:
        first, *rest = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([json.dumps(json.loads(first) | values), *rest]) + "\n")

    return changed


def higher(folder: Path) -> None:
    """Accuracies in result.json and lm-eval's results alike."""
    for name in ("result.json", "results_2026-11-22.json"):
        file = folder / EVALUATION / name
        value = json.loads((folder / EVALUATION / "result.json").read_text())["metrics"]["accuracy"]["value"]
        file.write_text(file.read_text().replace(str(value), "0.99"))


def drop_seed(folder: Path) -> None:
    shutil.rmtree(folder / RUN)
    shutil.rmtree(folder / EVALUATION)


def without_data(folder: Path) -> None:
    record = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps({key: value for key, value in record.items() if key != "data_sha256"}))


WRONG = [["#wrong"]]
# What is changed, with the seals made again; the check and the file that name it.
FORGED: dict[str, tuple[Change, str, str]] = {
    "the reward of a step": (in_line(f"{RUN}/steps.jsonl", **{"reward/mean": 0.9}), "derived", "tables/steps.parquet"),
    "the seconds of a stage": (in_line(f"{RUN}/stages.jsonl", seconds=9.9), "derived", "tables/stages.parquet"),
    "the endpoints of a step": (
        in_line(f"{SEALED}/steps.jsonl", **{"group/total_endpoints": 9}),
        "derived",
        "tables/runs.parquet",
    ),
    "the seconds of a run": (in_json(STATUS, wall_seconds=1.0), "derived", "tables/runs.parquet"),
    "a run that failed": (in_json(STATUS, status="failed", cause="no memory"), "derived", "tables/runs.parquet"),
    "the checkpoint of a run": (in_json(STATUS, checkpoint_sha256="0" * 64), "derived", "tables/runs.parquet"),
    "the checkpoint of an evaluation": (in_json(RESULT, checkpoint_sha256="0" * 64), "derived", "tables/runs.parquet"),
    "the device of a run": (in_json(PROVENANCE, device="cuda"), "derived", "tables/runs.parquet"),
    "a seed that is left out": (drop_seed, "derived", "tables/runs.parquet"),
    "the hardware of a run": (in_json(PROVENANCE, "machine", cpu="another"), "derived", "report.html"),
    "the commit of a run": (in_json(PROVENANCE, "source", commit="d" * 40), "derived", "report.html"),
    "the lock of a run": (in_json(PROVENANCE, "software", lock_sha256="0" * 64), "derived", MANIFEST),
    "the seeds of the matrix": (in_yaml("benchmark.yaml", seeds=[1, 2]), "schemas", ""),
    "the training data": (in_json(PROVENANCE, "inputs", train_data_sha256="0" * 64), "records", PROVENANCE),
    "the start of a run": (in_json(PROVENANCE, "inputs", start_model_sha256="0" * 64), "records", PROVENANCE),
    "the held-out data": (in_json(RESULT, data_sha256="0" * 64), "records", RESULT),
    "held-out data that are not named": (without_data, "records", RESULT),
    "the accuracy of a start": (in_json(START, sampled_accuracy=0.01), "records", START),
    "a key of the arm": (in_yaml(CONFIG, algorithm__adv_estimator="gae"), "records", CONFIG),
    "the seed": (in_yaml(CONFIG, data__seed=7), "records", CONFIG),
    "a score": (in_line(GREEDY, accuracy=0.0), "evaluations", GREEDY),
    "a response": (in_line(GREEDY, resps=WRONG, filtered_resps=WRONG), "evaluations", GREEDY),
    "a response as it was filtered": (in_line(SAMPLED, filtered_resps=WRONG), "evaluations", SAMPLED),
    "a response and its score": (
        in_line(GREEDY, resps=WRONG, filtered_resps=WRONG, accuracy=0.0),
        "evaluations",
        RESULT,
    ),
    "a question": (in_line(GREEDY, doc={"prompt": "sort 1", "answer": "0"}), "evaluations", GREEDY),
    "an accuracy and lm-eval's": (higher, "evaluations", RESULT),
    "lm-eval's results": (in_json(REPORT, results={}), "evaluations", RESULT),
    "the number of items": (in_json(RESULT, "metrics", accuracy={"value": 0.8, "n": 9}), "evaluations", RESULT),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_record_that_was_changed_and_sealed_again_contradicts_another(
    unpacked: Path, light: Path, benchmark: Benchmark, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, check, place = FORGED[name]
    changed(unpacked)
    for run in (RUN, SEALED):
        if (unpacked / run).is_dir():
            again(unpacked, run)
    if check == "schemas":
        with pytest.raises(BadInput, match="not the same matrix"), loaded_config(unpacked):
            pass
    elif check == "records":
        assert place in places(record_differences(unpacked, benchmark))
    elif check == "evaluations":
        assert place in places(evaluation_differences(unpacked, benchmark))
    else:
        list_again(unpacked, light)
        if place.startswith("tables/"):
            monkeypatch.setattr("groupppo.publish.derive.draw_report", lambda *_, **__: None)
        assert place in found_at(verify(unpacked), check)


@pytest.mark.parametrize("old", ["</style>", ">0.", ">refuted</span>", "default-src &#39;none&#39;", "</body>"])
def test_a_page_of_another_byte_differs(light: Path, tmp_path: Path, old: str) -> None:
    page = (light / "report.html").read_text()
    (tmp_path / "report.html").write_text(page.replace(old, f"<!-- forged -->{old}" if "<" in old else "1", 1))
    assert difference(light / "report.html", tmp_path / "report.html") is not None


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ("0.123456789012345,x", True),
        ("0.123456789012346,x", True),
        ("0.1234567,x", False),
        ("0.123456789012345,y", False),
        ("1.123456789012345,x", False),
        ("0.123456789012345,x\n", False),
    ],
)
def test_the_last_digit_of_a_number_may_be_that_of_another_processor(tmp_path: Path, found: str, same: bool) -> None:
    (tmp_path / "a.csv").write_text("0.123456789012345,x")
    (tmp_path / "b.csv").write_text(found)
    assert (difference(tmp_path / "a.csv", tmp_path / "b.csv") is None) is same


def test_of_tables_the_first_other_value_is_told_and_what_pandas_noted_in_them_is_not_asked(tmp_path: Path) -> None:
    table = pa.table({"seed": range(200), "value": [0.5] * 200})
    noted = table.replace_schema_metadata(
        {b"pandas": b'{"index_columns": ["seed"], "column_indexes": [], "columns": []}'}
    )
    other = table.set_column(1, "value", pa.array([0.5] * 150 + [0.75] * 50))
    for name, each in {"made": table, "noted": noted, "other": other}.items():
        pq.write_table(each, tmp_path / f"{name}.parquet")
    assert difference(tmp_path / "made.parquet", tmp_path / "noted.parquet") is None
    told = difference(tmp_path / "made.parquet", tmp_path / "other.parquet")
    assert told is not None
    assert 'column name="value"' in told[1]
    assert told[1].endswith("index 150, first diff: 0.75 != 0.5")


def test_lists_that_nobody_made_again_are_found(unpacked: Path) -> None:
    manifest = json.loads((unpacked / MANIFEST).read_text())
    del manifest["files"]["LICENSE"]
    (unpacked / MANIFEST).write_text(json.dumps(manifest))
    crate = (unpacked / METADATA).read_text()
    (unpacked / METADATA).write_text(crate.replace("report.html", "report.htm"))
    (unpacked / "notes.txt").write_text("A file that belongs into no bundle.")
    outcome = verify(unpacked)
    assert found_at(outcome, "files") == {"notes.txt", MANIFEST}
    assert LISTS - {SUMS} <= found_at(outcome, "derived")
    assert LISTS - {SUMS} <= found_at(outcome, "checksums")


def test_the_manifest_names_every_file_with_its_hash_whichever_version_made_it(unpacked: Path) -> None:
    listed = json.loads((unpacked / MANIFEST).read_text())["files"]
    assert list(listed_differences(unpacked, listed)) == []
    change(unpacked / PROVENANCE)
    (unpacked / "LICENSE").unlink()
    (unpacked / "notes.txt").write_text("A file that belongs into no bundle.")
    hashes = {name: sha256_file(file) for name, file in files_in(unpacked).items() if name != SUMS}
    (unpacked / SUMS).write_bytes(sums_text(hashes))
    found = {place for place, _, _ in listed_differences(unpacked, listed)}
    assert found == {"notes.txt", *(f"{MANIFEST}: {name}" for name in ("notes.txt", PROVENANCE, "LICENSE"))}


def test_what_the_machine_knows_of_kinds_of_files_changes_no_byte(
    unpacked: Path, light: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suffix in (".yaml", ".csv"):
        monkeypatch.setitem(mimetypes.types_map, suffix, "text/x-other")
    list_again(unpacked, light)
    assert (unpacked / METADATA).read_bytes() == (light / METADATA).read_bytes()


def test_what_cannot_be_compared_is_told(laden: Path, forged: Path) -> None:
    told = notes(laden)
    (forged / REPORT).unlink()
    script = forged / "config" / "studies" / "grouping.py"
    change(script)
    rewrite_json(
        forged / STUDY / "study.json", inputs={"script_sha256": sha256_file(laden / script.relative_to(forged))}
    )
    more = set(notes(forged)) - set(told)
    assert {note.partition(":")[0] for note in more} == {RESULT, f"{STUDY}/study.json"}


def test_a_note_that_was_taken_out_is_told_all_the_same(unpacked: Path, light: Path) -> None:
    for file in unpacked.glob("evals/*/*/**/samples_*"):
        file.unlink()
    list_again(unpacked, light)
    outcome = verify(unpacked)
    assert found_at(outcome, "derived") >= {MANIFEST, METADATA, SUMS}
    assert any("neither samples nor scores by item" in note for note in outcome.notes)


def test_pictures_are_drawn_again_where_that_is_asked_for(unpacked: Path, light: Path) -> None:
    (unpacked / "figures" / "reward.png").write_bytes((unpacked / "figures" / "accuracy.png").read_bytes())
    svg = unpacked / "figures" / "density.svg"
    svg.write_text(svg.read_text().replace("density", "destiny"))
    list_again(unpacked, light)
    # The page shows the SVG, and is rendered from it.
    assert found_at(verify(unpacked), "derived") == {"report.html"}
    outcome = verify(unpacked, pictures=True)
    assert found_at(outcome, "derived") == {"figures/reward.png", "figures/density.svg"}


def another_version(folder: Path) -> None:
    """The manifest says that another renderer made the bundle, and its pages and pictures are that one's."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["made_by"]["code_sha256"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for name in PAGES_OF_ANOTHER:
        (folder / name).write_text((folder / name).read_text() + "drawn by another version\n")


PAGES_OF_ANOTHER = ["figures/figures.json", "figures/reward.csv", "report.html", "report.md"]


def test_another_version_decides_the_same_verdicts_of_the_same_data_and_its_pages_are_not_compared(
    unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_version(unpacked)
    judged = json.loads((unpacked / "verdicts.json").read_text())
    judged["verdicts"][0] |= {"reason": "in other words", "a later key": 1}
    (unpacked / "verdicts.json").write_text(json.dumps(judged))
    list_again(unpacked, unpacked)
    outcome = verify(unpacked)
    assert (outcome.differences, outcome.not_compared) == ([], [*PAGES_OF_ANOTHER, "verdicts.json"])
    assert any(note.endswith(f"not compared were {', '.join(outcome.not_compared)}.") for note in outcome.notes)
    judged["verdicts"][0]["verdict"] = "supported"
    (unpacked / "verdicts.json").write_text(json.dumps(judged))
    change(unpacked / "tables" / "runs.parquet")
    list_again(unpacked, unpacked)
    assert found_at(verify(unpacked), "derived") == {"verdicts.json", "tables/runs.parquet"}
    # Negative control: whoever says that this version made them is held to its bytes.
    manifest = json.loads((unpacked / MANIFEST).read_text())
    (unpacked / MANIFEST).write_text(json.dumps(manifest | {"made_by": made_by()}))
    list_again(unpacked, unpacked)
    monkeypatch.setattr("groupppo.publish.verify.derive", lambda *_: None)
    assert found_at(verify(unpacked), "derived") >= set(PAGES_OF_ANOTHER)


@pytest.mark.parametrize("gone", ["verdict", "id"])
def test_a_verdict_that_another_version_left_out_is_found(light: Path, gone: str) -> None:
    judged = json.loads((light / "verdicts.json").read_text())
    less = {"verdicts": [{key: value for key, value in each.items() if key != gone} for each in judged["verdicts"]]}
    assert same_verdicts(judged, judged | {"later": 1})
    assert not same_verdicts(judged, judged | less)
    assert not same_verdicts(judged, {key: value for key, value in judged.items() if key != "verdicts"})


def test_what_was_made_up_consistently_is_not_found_as_the_documentation_says(finished: Path, tmp_path: Path) -> None:
    """A machine, with its seal, and all that is derived made again by the package itself."""
    results = Path(shutil.copytree(finished, tmp_path / "quick"))
    for run in results.glob("runs/*/*/*/*"):
        in_json("provenance.json", "machine", cpu="another")(run)
        rewrite_json(run / "status.json", **{KEY: seal_run(run)})
    assert verify(make_bundle(results, tmp_path / "bundle.zip", checkpoints=False)).ok
    told = (REPOSITORY / "docs" / "publish.md").read_text()
    assert "Who makes raw records up consistently is not found" in told


def test_a_seed_that_was_dropped_from_the_matrix_too_is_told_by_the_page(finished: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(finished, tmp_path / "quick"))
    for seed in ("runs/*/*/*/seed3", "evals/*/*/*/seed3"):
        for folder in results.glob(seed):
            shutil.rmtree(folder)
    in_yaml("benchmark.yaml", seeds=[1, 2])(results)
    made = make_bundle(results, tmp_path / "bundle.zip", checkpoints=False)
    assert verify(made).ok
    with zipfile.ZipFile(made) as archive:
        page = archive.read("report.html").decode()
    assert "changed after the first run started" in page
    assert "[1, 2, 3]" in page
