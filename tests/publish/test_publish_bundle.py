"""A bundle holds what a stranger needs, the same bytes every time, and nothing that tells whose machine it was."""

import io
import json
import re
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rocrate.rocrate import ROCrate

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish.bundle import make_bundle
from groupppo.publish.matrix import config_files, load_config
from groupppo.publish.verify import verify
from groupppo.superseded import FOLDER
from groupppo.tables import load_tables
from groupppo.tables.keys import Keys
from groupppo.verdicts.item_scores import ItemScores
from tests.publish.conftest import MACHINE_PATH


def names(bundle: Path) -> list[str]:
    with zipfile.ZipFile(bundle) as archive:
        return archive.namelist()


def test_a_copy_at_another_place_gives_the_same_bytes_and_a_changed_result_does_not(bundle, copy, tmp_path):
    again = make_bundle(copy, tmp_path / "again.zip", checkpoints=False)
    assert sha256_file(again) == sha256_file(bundle)
    with (copy / "figures" / "reward.csv").open("a") as file:
        file.write("\n")
    assert sha256_file(make_bundle(copy, tmp_path / "changed.zip", checkpoints=False)) != sha256_file(bundle)


def test_an_unpacked_bundle_is_packed_to_the_same_bytes_and_drawn_anew_it_is_sound(finished, unpacked, tmp_path):
    first = make_bundle(finished, tmp_path / "first.zip", checkpoints=False)
    assert sha256_file(make_bundle(unpacked, tmp_path / "again.zip", checkpoints=False)) == sha256_file(first)
    # A config that was changed is not taken for the one that was scrubbed.
    with (unpacked / "figures" / "reward.csv").open("a") as file:
        file.write("\n")
    drawn = make_bundle(unpacked, tmp_path / "drawn.zip", checkpoints=False)
    assert verify(drawn).ok
    config = "runs/sorting/tiny/ppo/seed1/config.yaml"
    with (unpacked / config).open("a") as file:
        file.write("more: 1\n")
    changed = make_bundle(unpacked, tmp_path / "changed.zip", checkpoints=False)
    known = [json.loads(zipfile.ZipFile(bundle).read("manifest.json"))["scrubbed"] for bundle in (drawn, changed)]
    assert [config in scrubbed for scrubbed in known] == [True, False]


def test_results_that_wait_for_their_successors_are_left_out(bundle, copy, tmp_path):
    place = next(path.parent for path in copy.glob("evals/*/*/*/*/result.json")) / FOLDER
    place.mkdir()
    (place / "result.json").write_text("{}")
    assert make_bundle(copy, tmp_path / "other.zip", checkpoints=False).read_bytes() == bundle.read_bytes()


def test_it_holds_products_configs_locks_provenance_and_evaluations(bundle):
    found = names(bundle)
    assert found == sorted(found)
    cell = "sorting/tiny/group_ppo/seed2"
    wanted = ["report.html", "verdicts.json", "tables/steps.parquet", "figures/reward.svg", "figures/reward.csv"]
    wanted += ["config/quick.yaml", "config/claims.yaml", "config/arms/group_ppo.yaml", "config/models/tiny.yaml"]
    wanted += ["config/tasks/sorting.yaml", "requirements/cpu.lock", "requirements/gpu.lock", "SHA256SUMS"]
    wanted += [f"runs/{cell}/{name}" for name in ("provenance.json", "config.yaml", "status.json")]
    wanted += [f"evals/{cell}/{name}" for name in ("result.json", "results_2026-11-22.json")]
    wanted += [f"evals/{cell}/samples_sorting_2026-11-22.jsonl", "ro-crate-metadata.json", "manifest.json"]
    wanted += ["preregistration.json"]
    assert set(wanted) <= set(found)
    assert not [name for name in found if name.endswith((".safetensors", "log.txt", ".pt", ".pkl"))]


def test_weights_are_in_where_they_are_asked_for_and_a_pickle_among_them_is_refused(copy, tmp_path):
    with_weights = make_bundle(copy, tmp_path / "weights.zip", checkpoints=True)
    assert "runs/sorting/tiny/ppo/seed1/checkpoint/model.safetensors" in names(with_weights)
    (copy / "runs/sorting/tiny/ppo/seed1/checkpoint/optimizer.pt").write_bytes(b"x")
    with pytest.raises(BadInput, match="pickles"):
        make_bundle(copy, tmp_path / "pickle.zip", checkpoints=True)
    assert not (tmp_path / "pickle.zip").exists()


def test_no_machine_path_is_left_and_scrubbed_files_are_named_with_the_hash_they_had(bundle, finished, unpacked):
    for file in unpacked.rglob("*.*"):
        assert b"/somewhere/project" not in file.read_bytes(), file
    scrubbed = json.loads((unpacked / "manifest.json").read_text())["scrubbed"]
    config = "runs/sorting/tiny/ppo/seed1/config.yaml"
    assert scrubbed[config] == {"paths": 1, "original_sha256": sha256_file(finished / config)}
    assert MACHINE_PATH in (finished / config).read_text()
    sample = unpacked / "evals/sorting/tiny/ppo/seed1/samples_sorting_2026-11-22.jsonl"
    assert json.loads(sample.read_text())["prompt"] == "sort /3/1/2"
    assert "report.html" not in scrubbed


def test_its_config_is_a_benchmark_that_can_be_run_again(unpacked):
    again = load_benchmark(unpacked / "config" / "quick.yaml")
    record = yaml.safe_load((unpacked / "benchmark.yaml").read_text())
    assert list(again.seeds) == record["seeds"] == [1, 2, 3]
    assert list(again.arms) == list(record["arms"])
    assert again.train.steps == record["train"]["steps"] == 8


def test_its_metadata_is_an_ro_crate_that_the_library_reads(unpacked):
    crate = ROCrate(unpacked)
    assert crate.metadata["conformsTo"] == "https://w3id.org/ro/crate/1.1"
    assert crate.root_dataset["datePublished"] == "2026-11-22"
    report = crate.get("report.html")
    assert report["sha256"] == sha256_file(unpacked / "report.html")
    assert report["contentSize"] == str((unpacked / "report.html").stat().st_size)
    assert crate.get("runs/sorting/tiny/ppo/seed1/").type == "Dataset"
    assert crate.get("no/such/file") is None


@pytest.mark.parametrize("name", ["report.html", "verdicts.json", "tables/steps.parquet", "benchmark.yaml"])
def test_a_missing_product_is_named(copy, tmp_path, name):
    (copy / name).unlink()
    with pytest.raises(BadInput, match=Path(name).name):
        make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"studies": ["grouping"]}, "studies/grouping/sorting.tiny"),
        ({"profile": "benchmarks/profile.yaml"}, "profile/tables"),
    ],
)
def test_a_study_or_profile_that_the_benchmark_asks_for_and_that_is_missing_is_named(copy, tmp_path, asked, place):
    file = copy / "benchmark.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | asked, sort_keys=False))
    with pytest.raises(BadInput, match="run the benchmark to its end") as caught:
        make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)
    assert caught.value.file.startswith(str(copy / place))
    (copy / place).mkdir(parents=True)
    for kind in ("csv", "parquet"):
        pq.write_table(pa.table({"a": [1]}), copy / place / f"a.{kind}")
    assert make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False).is_file()


def test_a_path_in_a_table_that_pandas_wrote_is_taken_out(copy, tmp_path):
    (copy / "profile" / "tables").mkdir(parents=True)
    clean = {"setting": ["a", "b"], "reason": ["", "out of memory"]}
    for name, reason in (("clean", clean["reason"]), ("dirty", ["", f"no file {MACHINE_PATH}/x.py"])):
        pd.DataFrame(clean | {"reason": reason}).to_parquet(copy / "profile" / "tables" / f"{name}.parquet")
    made = make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)
    with zipfile.ZipFile(made) as archive:
        found = {name: archive.read(f"profile/tables/{name}.parquet") for name in ("clean", "dirty")}
    assert found["clean"] == (copy / "profile" / "tables" / "clean.parquet").read_bytes()
    assert pd.read_parquet(io.BytesIO(found["dirty"]))["reason"][1] == "no file results/quick/runs/x.py"


def test_a_link_among_the_results_is_refused(copy, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("key")
    (copy / "figures" / "extra.csv").symlink_to(secret)
    with pytest.raises(BadInput, match="link"):
        make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)


def test_claims_that_changed_since_the_verdicts_are_refused(copy, tmp_path):
    file = copy / "verdicts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"claims_sha256": "0" * 64}))
    with pytest.raises(BadInput, match="decide the verdicts again"):
        make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)


def test_a_run_without_provenance_is_told_in_the_notes(copy, tmp_path):
    (copy / "runs/sorting/tiny/ppo/seed1/provenance.json").unlink()
    made = make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)
    with zipfile.ZipFile(made) as archive:
        notes = json.loads(archive.read("manifest.json"))["notes"]
    assert [note.partition(":")[0] for note in notes] == ["runs/sorting/tiny/ppo/seed1/provenance.json"]


def test_what_is_true_of_many_runs_is_one_note(copy, tmp_path):
    for run in copy.glob("runs/*/*/*/*"):
        (run / "provenance.json").write_text(json.dumps({"software": {"lock_sha256": "0" * 64}}))
    made = make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)
    with zipfile.ZipFile(made) as archive:
        notes = json.loads(archive.read("manifest.json"))["notes"]
    assert [note.partition(":")[0] for note in notes] == [
        "runs/sorting/tiny/group_ppo/seed1/provenance.json and 8 more"
    ]
    assert "another lock" in notes[0]


def test_without_samples_the_scores_by_item_stay_and_say_the_same(copy, tmp_path):
    evals = load_tables(copy / "tables").evals
    for row in evals.itertuples():
        keys = Keys(row.task, row.model, row.arm, None if pd.isna(row.seed) else int(row.seed))
        place = keys.below(copy / "evals")
        for old in place.glob("samples_sorting_2026*"):
            old.unlink()
        lines = (json.dumps({"doc_id": item, row.metric: row.value}) + "\n" for item in range(4))
        (place / f"samples_{row.metric}.jsonl").write_text("".join(lines), encoding="utf-8")
    small = make_bundle(copy, tmp_path / "small.zip", checkpoints=False, samples=False)
    with zipfile.ZipFile(small) as archive:
        archive.extractall(tmp_path / "small")
    again = make_bundle(tmp_path / "small", tmp_path / "again.zip", checkpoints=False, samples=False)
    assert sha256_file(again) == sha256_file(small)
    with zipfile.ZipFile(small) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "small")
    assert not [name for name in names if "samples_" in name]
    whole, alone = ItemScores(copy), ItemScores(tmp_path / "small")
    for row in evals.itertuples():
        keys = Keys(row.task, row.model, row.arm, None if pd.isna(row.seed) else int(row.seed))
        scores = alone.of(keys, row.metric, row.value)
        assert len(scores) == 4
        assert scores.tolist() == whole.of(keys, row.metric, row.value).tolist()
    (tmp_path / "small" / "evals" / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match="not a table of scores"):
        ItemScores(tmp_path / "small").of(keys, row.metric, row.value)


def test_without_pictures_the_numbers_of_the_figures_stay_and_the_bundle_verifies(copy, tmp_path):
    with zipfile.ZipFile(make_bundle(copy, tmp_path / "whole.zip", checkpoints=False)) as archive:
        whole = set(archive.namelist())
    made = make_bundle(copy, tmp_path / "small.zip", checkpoints=False, pictures=False)
    with zipfile.ZipFile(made) as archive:
        left_out = whole - set(archive.namelist())
        assert json.loads(archive.read("manifest.json"))["pictures"] is False
    assert "report.md" in left_out  # it shows the files
    assert {Path(name).suffix for name in left_out - {"report.md"}} == {".png", ".svg"}
    assert {Path(name).parts[0] for name in left_out - {"report.md"}} == {"figures"}
    assert verify(made).ok


@pytest.mark.parametrize("pictures", [True, False])
def test_every_link_of_the_page_leads_to_a_file_of_the_bundle(copy, tmp_path, pictures):
    made = make_bundle(copy, tmp_path / "linked.zip", checkpoints=False, pictures=pictures)
    with zipfile.ZipFile(made) as archive:
        page = archive.read("report.html").decode()
    links = set(re.findall(r'href="([^"#:]+)"', page))
    assert {"runs/sorting/tiny/ppo/seed1/status.json", "figures/reward.csv"} <= links <= set(names(made))
    assert ("figures/reward.svg" in links) == pictures
    if not pictures:
        assert re.findall(r"Files:\s+<a[^>]*>CSV</a>\.\s+</figcaption>", page)


@pytest.mark.parametrize("name", ["pilot", "study"])
def test_arms_at_rates_of_their_own_are_read_again_as_they_were(tmp_path, name):
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / f"{name}.yaml")
    record = tmp_path / "benchmark.yaml"
    record.write_text(yaml.safe_dump(benchmark.resolved(), sort_keys=False), encoding="utf-8")
    for file, content in config_files(tmp_path, sha256_file(benchmark.claims)).items():
        place = tmp_path / "config" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    again, _ = load_config(tmp_path / "config", record)
    assert again.arms["ppo" if name == "study" else "ppo_lr100u"].verl == benchmark.arms[again.reference].verl
    for arm, as_it_was in benchmark.arms.items():
        assert (again.arms[arm].verl, again.arms[arm].swept_from) == (as_it_was.verl, as_it_was.swept_from)
