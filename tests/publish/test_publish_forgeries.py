"""Forgeries of a bundle, whose lists the forger makes again each time: each is found, and at its own place.

What can be verified at once is: a forgery counts as found only where a difference names its own file. What is not
found is at the end, and in docs/publish.md.
"""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.publish.bundle import make_bundle
from groupppo.publish.contents import LISTS, MANIFEST, METADATA, SAID, SUMS, Kind, is_picture, rule_of, write_lists
from groupppo.publish.reading import difference
from groupppo.publish.source import loaded_config
from groupppo.publish.verify import Verification, verify
from groupppo.records.seal import KEY, seal, seal_run
from tests.publish.made import write_whole_results
from tests.synthetic import rewrite_json

RUN, SEALED = "runs/sorting/tiny/grpo/seed2", "runs/sorting/tiny/group_ppo/seed1"
EVALUATION = "evals/sorting/tiny/grpo/seed2"
STUDY = "studies/grouping/sorting.tiny"
Change = Callable[[Path], None]


@pytest.fixture(scope="module", autouse=True)
def committed() -> Iterator[None]:
    """Sources as they are in the commit that is checked out, whatever else somebody has changed meanwhile."""
    head = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    with pytest.MonkeyPatch.context() as patch:
        told = {"commit": head.stdout.strip(), "uncommitted_sha256": None}
        patch.setattr("groupppo.publish.bundle.source", lambda: told)
        yield


def _unpacked(results: Path, place: Path) -> Path:
    with zipfile.ZipFile(make_bundle(results, place / "bundle.zip", checkpoints=False)) as archive:
        archive.extractall(place / "bundle")
    return place / "bundle"


@pytest.fixture(scope="module")
def laden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a study, a profile and a pilot, unpacked; copy before changing."""
    results = tmp_path_factory.mktemp("laden") / "quick"
    write_whole_results(results, seeds=(1, 2), laden=True)
    return _unpacked(results, tmp_path_factory.mktemp("unpacked"))


@pytest.fixture(scope="module")
def light(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without them."""
    return _unpacked(finished, tmp_path_factory.mktemp("unpacked"))


@pytest.fixture
def copy(light: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(light, tmp_path / "bundle"))


def list_again(folder: Path, listed: Path) -> None:
    """New manifest, metadata and checksums, as whoever forges on purpose makes them. `listed`: as it was before."""
    manifest = json.loads((listed / MANIFEST).read_text())
    with loaded_config(listed) as (benchmark, _):
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        write_lists(folder, benchmark, files, {key: manifest[key] for key in SAID}, manifest["files"])


def change(file: Path) -> None:
    """Something else than before, still in its form."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        place = next(i for i, field in enumerate(table.schema) if str(field.type) in ("double", "int64"))
        values = [value if value is None else value + 1 for value in table.column(place).to_pylist()]
        field = table.schema.field(place)
        pq.write_table(table.set_column(place, field, pa.array(values, field.type)), file)
    elif file.suffix == ".json" and isinstance(value := json.loads(file.read_text()), dict):
        file.write_text(json.dumps(value | {"forged": 1}))
    elif file.suffix == ".html":
        file.write_text(file.read_text().replace("</style>", "td { display: none }</style>", 1))
    elif file.suffix == ".jsonl":
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0].replace("1", "2"), *lines[1:]]) + "\n")
    else:
        file.write_text(
            file.read_text() + ("# forged\n" if file.suffix in (".yaml", ".py", ".yml", ".cff") else "forged\n")
        )


def found_at(outcome: Verification, check: str) -> set[str]:
    """Files that differences of a check name."""
    return {difference.place.partition(":")[0] for difference in outcome.differences if difference.check == check}


def test_a_bundle_that_nobody_forged_is_sound(laden: Path, light: Path) -> None:
    for folder in (laden, light):
        outcome = verify(folder)
        assert (outcome.differences, outcome.not_compared) == ([], [])
        assert not any("unchecked" in note for note in outcome.notes)


def kind_of(name: str) -> Kind | None:
    rule = rule_of(name)
    return rule.kind if rule else None


def files_of(folder: Path, kind: Kind) -> list[str]:
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in names if kind_of(name) is kind)


def test_every_derived_file_is_compared_with_what_its_records_give(laden: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(laden, tmp_path / "forged"))
    names = [name for name in files_of(laden, Kind.DERIVED) if not is_picture(name)]
    for name in names:
        change(forged / name)
    list_again(forged, laden)
    assert len(names) >= 50
    assert found_at(verify(forged), "derived") == set(names)


def test_every_derived_file_that_is_gone_is_named_and_so_is_one_that_nothing_makes(laden: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(laden, tmp_path / "forged"))
    names = [name for name in files_of(laden, Kind.DERIVED) if not is_picture(name)]
    for name in names:
        (forged / name).unlink()
    more = {f"figures/more.{suffix}": f"figures/reward.{suffix}" for suffix in ("csv", "png")}
    more |= {f"{STUDY}/figures/more.svg": "figures/reward.svg", "tables/more.parquet": "tables/runs.parquet"}
    for name, like in more.items():
        shutil.copy(laden / like, forged / name)
    list_again(forged, laden)
    assert found_at(verify(forged), "derived") == {*names, *more}


def test_every_source_is_that_of_its_commit_or_of_the_matrix(laden: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(laden, tmp_path / "forged"))
    names = files_of(laden, Kind.SOURCE)
    for name in names:
        change(forged / name)
    (forged / "config" / "arms" / "more.yaml").write_text("name: more\n")
    list_again(forged, laden)
    assert len(names) >= 20
    assert found_at(verify(forged), "sources") == {*names, "config/arms/more.yaml"}


def test_a_source_that_is_gone_is_named(laden: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(laden, tmp_path / "forged"))
    gone = ["requirements/gpu.lock", "config/studies/grouping.py", "LICENSE"]
    for name in gone:
        (forged / name).unlink()
    list_again(forged, laden)
    assert found_at(verify(forged), "sources") == set(gone)


def test_every_raw_file_that_a_record_seals_is_found(laden: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(laden, tmp_path / "forged"))
    names = [f"{RUN}/{name}" for name in ("config.yaml", "provenance.json", "steps.jsonl", "stages.jsonl")]
    names += [file.relative_to(laden).as_posix() for file in (laden / EVALUATION).glob("*s_*.json*")]
    names += [file.relative_to(laden).as_posix() for file in (laden / STUDY).glob("*.csv")]
    names += ["preregistration.json"]
    for name in names:
        change(forged / name)
    list_again(forged, laden)
    assert len(names) == 15
    assert found_at(verify(forged), "records") >= set(names)


def test_every_raw_file_that_a_record_seals_and_that_is_gone_is_named(light: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(light, tmp_path / "forged"))
    names = [f"{RUN}/{name}" for name in ("config.yaml", "provenance.json", "steps.jsonl", "stages.jsonl")]
    names += [f"{EVALUATION}/results_2026-11-22.json", "preregistration.json"]
    for name in names:
        (forged / name).unlink()
    list_again(forged, light)
    assert found_at(verify(forged), "records") == set(names)


def again(folder: Path, run: str) -> None:
    """The seals of a run and its evaluation, made again."""
    rewrite_json(folder / run / "status.json", **{KEY: seal_run(folder / run)})
    place = folder / run.replace("runs/", "evals/")
    files = [*place.glob("results_*.json"), *place.glob("samples_*.jsonl")]
    rewrite_json(place / "result.json", **{KEY: seal(files)})


def in_json(name: str, **values: object) -> Change:
    return lambda folder: rewrite_json(folder / name, **values)


def in_part(name: str, key: str, **values: object) -> Change:
    def changed(folder: Path) -> None:
        part = json.loads((folder / name).read_text())[key]
        rewrite_json(folder / name, **{key: part | values})

    return changed


def in_yaml(name: str, **values: object) -> Change:
    def changed(folder: Path) -> None:
        file = folder / name
        new = {key.replace("__", "."): value for key, value in values.items()}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | new, sort_keys=False))

    return changed


def in_line(pattern: str, **values: object) -> Change:
    def changed(folder: Path) -> None:
        [file] = folder.glob(pattern)
        first, *rest = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps(json.loads(first) | values), *rest]) + "\n")

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
    "the seconds of a run": (in_json(f"{RUN}/status.json", wall_seconds=1.0), "derived", "tables/runs.parquet"),
    "a run that failed": (
        in_json(f"{RUN}/status.json", status="failed", cause="no memory"),
        "derived",
        "tables/runs.parquet",
    ),
    "the checkpoint of a run": (
        in_json(f"{RUN}/status.json", checkpoint_sha256="0" * 64),
        "derived",
        "tables/runs.parquet",
    ),
    "the checkpoint of an evaluation": (
        in_json(f"{EVALUATION}/result.json", checkpoint_sha256="0" * 64),
        "derived",
        "tables/runs.parquet",
    ),
    "the hardware of a run": (
        in_part(f"{RUN}/provenance.json", "machine", cpu="another"),
        "derived",
        "report.html",
    ),
    "the commit of a run": (in_part(f"{RUN}/provenance.json", "source", commit="d" * 40), "derived", "report.html"),
    "the lock of a run": (
        in_part(f"{RUN}/provenance.json", "software", lock_sha256="0" * 64),
        "derived",
        "manifest.json",
    ),
    "the device of a run": (in_json(f"{RUN}/provenance.json", device="cuda"), "derived", "tables/runs.parquet"),
    "the training data of a run": (
        in_part(f"{RUN}/provenance.json", "inputs", train_data_sha256="0" * 64),
        "records",
        f"{RUN}/provenance.json",
    ),
    "the start of a run": (
        in_part(f"{RUN}/provenance.json", "inputs", start_model_sha256="0" * 64),
        "records",
        f"{RUN}/provenance.json",
    ),
    "the held-out data": (
        in_json(f"{EVALUATION}/result.json", data_sha256="0" * 64),
        "records",
        f"{EVALUATION}/result.json",
    ),
    "a key of the arm": (
        in_yaml(f"{RUN}/config.yaml", algorithm__adv_estimator="gae"),
        "records",
        f"{RUN}/config.yaml",
    ),
    "the seed": (in_yaml(f"{RUN}/config.yaml", data__seed=7), "records", f"{RUN}/config.yaml"),
    "a score": (
        in_line(f"{EVALUATION}/samples_sorting_greedy_*", accuracy=0.0),
        "evaluations",
        f"{EVALUATION}/samples_sorting_greedy_2026-11-22.jsonl",
    ),
    "a response": (
        in_line(f"{EVALUATION}/samples_sorting_greedy_*", resps=WRONG, filtered_resps=WRONG),
        "evaluations",
        f"{EVALUATION}/samples_sorting_greedy_2026-11-22.jsonl",
    ),
    "a response as it was filtered": (
        in_line(f"{EVALUATION}/samples_sorting_sampled_*", filtered_resps=WRONG),
        "evaluations",
        f"{EVALUATION}/samples_sorting_sampled_2026-11-22.jsonl",
    ),
    "a response and its score": (
        in_line(f"{EVALUATION}/samples_sorting_greedy_*", resps=WRONG, filtered_resps=WRONG, accuracy=0.0),
        "evaluations",
        f"{EVALUATION}/result.json",
    ),
    "a question": (
        in_line(f"{EVALUATION}/samples_sorting_greedy_*", doc={"prompt": "sort 1", "answer": "0"}),
        "evaluations",
        f"{EVALUATION}/samples_sorting_greedy_2026-11-22.jsonl",
    ),
    "an accuracy and lm-eval's": (higher, "evaluations", f"{EVALUATION}/result.json"),
    "lm-eval's results": (
        in_json(f"{EVALUATION}/results_2026-11-22.json", results={}),
        "evaluations",
        f"{EVALUATION}/result.json",
    ),
    "the number of items": (
        lambda folder: in_part(f"{EVALUATION}/result.json", "metrics", accuracy={"value": 0.8, "n": 9})(folder),
        "evaluations",
        f"{EVALUATION}/result.json",
    ),
    "a seed that is left out": (drop_seed, "derived", "tables/runs.parquet"),
    "the seeds of the matrix": (in_yaml("benchmark.yaml", seeds=[1, 2]), "schemas", ""),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_record_that_was_changed_and_sealed_again_contradicts_another(
    copy: Path, light: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, check, place = FORGED[name]
    changed(copy)
    for run in (RUN, SEALED):
        if (copy / run).is_dir():
            again(copy, run)
    list_again(copy, light)
    if check != "derived":
        # It is found before anything is derived, which takes a second.
        monkeypatch.setattr("groupppo.publish.verify._Check.derived", lambda *_: ())
    elif place.startswith("tables/"):
        monkeypatch.setattr("groupppo.publish.derive.draw_report", lambda *_, **__: None)
    outcome = verify(copy)
    assert not outcome.ok
    assert place in (found_at(outcome, check) if check != "schemas" else {""})


PAGES: dict[str, tuple[str, str]] = {
    "a style": ("</style>", ".refuted { display: none }</style>"),
    "an attribute": ("<table ", "<table hidden "),
    "a script": ("</script>", "document.title = 1</script>"),
    "a template": ("<main ", "<template><p></p></template><main "),
    "a noscript": ("<main ", "<noscript>supported</noscript><main "),
    "a redirect": ("<title>", '<meta http-equiv="refresh" content="0; url=https://example.org"><title>'),
    "a policy": ("default-src &#39;none&#39;", "default-src *"),
    "a comment": ("</body>", "<!-- supported --></body>"),
    "an estimate": (">0.", ">1."),
    "a verdict": (">refuted</span>", ">supported</span>"),
    "a picture": ("data:image/svg+xml;base64,", "data:image/svg+xml;base64,AAAA"),
    "a link": ('href="verdicts.json"', 'href="https://example.org"'),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_another_byte_differs(light: Path, tmp_path: Path, name: str) -> None:
    old, new = PAGES[name]
    page = (light / "report.html").read_text()
    assert old in page
    (tmp_path / "report.html").write_text(page.replace(old, new, 1))
    assert difference(light / "report.html", light / "report.html") is None
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


def test_lists_that_nobody_made_again_are_found(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][f"{RUN}/status.json"]["kind"] = "derived"
    del manifest["files"]["LICENSE"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    crate = (copy / METADATA).read_text()
    (copy / METADATA).write_text(crate.replace("The report", "No report"))
    (copy / "notes.txt").write_text("A file that belongs into no bundle.")
    outcome = verify(copy)
    assert found_at(outcome, "files") == {f"{RUN}/status.json", "LICENSE", "notes.txt"}
    assert LISTS - {SUMS} <= found_at(outcome, "derived")
    assert LISTS - {SUMS} <= found_at(outcome, "checksums")


def test_a_note_that_was_taken_out_is_told_all_the_same(copy: Path, light: Path) -> None:
    for file in copy.glob("evals/*/*/**/samples_*"):
        file.unlink()
    list_again(copy, light)
    outcome = verify(copy)
    assert found_at(outcome, "derived") >= {MANIFEST, METADATA, SUMS}
    assert any("neither samples nor scores by item" in note for note in outcome.notes)


def test_pictures_are_drawn_again_where_that_is_asked_for(copy: Path, light: Path) -> None:
    (copy / "figures" / "reward.png").write_bytes((copy / "figures" / "accuracy.png").read_bytes())
    svg = copy / "figures" / "density.svg"
    svg.write_text(svg.read_text().replace("density", "destiny"))
    list_again(copy, light)
    # The page shows the SVG, and is rendered from it.
    assert found_at(verify(copy), "derived") == {"report.html"}
    outcome = verify(copy, pictures=True)
    assert found_at(outcome, "derived") == {"figures/reward.png", "figures/density.svg"}


def test_another_version_decides_again_and_says_what_it_did_not_compare(copy: Path, light: Path) -> None:
    other = json.loads((light / MANIFEST).read_text())
    (copy / "figures" / "reward.csv").write_text("drawn by another version\n")
    (copy / MANIFEST).write_text(json.dumps(other | {"made_by": other["made_by"] | {"code_sha256": "0" * 64}}))
    list_again(copy, copy)
    outcome = verify(copy)
    assert (outcome.differences, outcome.not_compared) == ([], ["figures/reward.csv"])
    assert any("whose code or libraries are not this version's: not compared" in note for note in outcome.notes)
    judged = json.loads((copy / "verdicts.json").read_text())
    judged["verdicts"][0] |= {"reason": "in other words", "a later key": 1}
    (copy / "verdicts.json").write_text(json.dumps(judged))
    list_again(copy, copy)
    assert verify(copy).not_compared == ["figures/reward.csv", "verdicts.json"]
    judged["verdicts"][0]["verdict"] = "supported"
    (copy / "verdicts.json").write_text(json.dumps(judged))
    change(copy / "tables" / "runs.parquet")
    list_again(copy, copy)
    assert found_at(verify(copy), "derived") == {"verdicts.json", "tables/runs.parquet"}


def test_what_was_made_up_consistently_is_not_found_as_the_documentation_says(finished: Path, tmp_path: Path) -> None:
    """A machine, with its seal, and all that is derived made again by the package itself."""
    results = Path(shutil.copytree(finished, tmp_path / "quick"))
    for run in results.glob("runs/*/*/*/*"):
        in_part("provenance.json", "machine", cpu="another")(run)
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
