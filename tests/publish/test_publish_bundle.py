"""A bundle holds what a stranger needs, the same bytes every time, and nothing that tells whose machine it was."""

import json
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rocrate.rocrate import ROCrate

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.errors import BadInput
from groupppo.publish.bundle import make_bundle
from groupppo.publish.contents import LOCKS
from groupppo.publish.records import evaluation_differences, notes
from groupppo.publish.source import config_files, load_config
from groupppo.publish.verify import verify
from groupppo.records.hashing import sha256_file
from groupppo.records.superseded import FOLDER
from groupppo.tables import load_tables
from groupppo.tables.schema import Keys
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.item_scores import ItemScores
from tests.publish.conftest import unzipped
from tests.publish.made import ITEMS, MACHINE_PATH
from tests.synthetic import rewrite_json


def names(bundle: Path) -> list[str]:
    with zipfile.ZipFile(bundle) as archive:
        return archive.namelist()


def test_a_copy_at_another_place_gives_the_same_bytes_without_what_waits_for_its_successor(bundle, copy, tmp_path):
    place = next(path.parent for path in copy.glob("evals/*/*/*/*/result.json")) / FOLDER
    place.mkdir()
    (place / "result.json").write_text("{}")
    assert make_bundle(copy, tmp_path / "again.zip", checkpoints=False).read_bytes() == bundle.read_bytes()


def test_an_unpacked_bundle_is_packed_to_the_same_bytes_whatever_its_derived_files_say(bundle, unpacked, tmp_path):
    (unpacked / "figures" / "reward.csv").write_text("something else")
    (unpacked / "report.md").unlink()
    assert sha256_file(make_bundle(unpacked, tmp_path / "again.zip", checkpoints=False)) == sha256_file(bundle)


def test_it_holds_products_configs_locks_provenance_and_evaluations(bundle):
    found, cell = names(bundle), "sorting/tiny/group_ppo/seed2"
    wanted = {"report.html", "verdicts.json", "tables/steps.parquet", "figures/reward.svg", "figures/reward.csv"}
    wanted |= {
        "config/quick.yaml",
        "config/claims/group_ppo.yaml",
        "config/arms/group_ppo.yaml",
        "config/tasks/sorting.yaml",
    }
    wanted |= {"requirements/cpu.lock", "SHA256SUMS", "preregistration.json", f"evals/{cell}/result.json"}
    wanted |= {f"runs/{cell}/{name}" for name in ("provenance.json", "config.yaml", "status.json", "steps.jsonl")}
    assert wanted <= set(found)
    assert found == sorted(found)
    assert not [name for name in found if name.endswith((".safetensors", "log.txt", ".pt", ".pkl"))]


def test_weights_are_in_where_they_are_asked_for_and_a_pickle_among_them_is_refused(copy, tmp_path):
    with_weights = make_bundle(copy, tmp_path / "weights.zip", checkpoints=True)
    assert "runs/sorting/tiny/ppo/seed1/checkpoint/model.safetensors" in names(with_weights)
    (copy / "runs/sorting/tiny/ppo/seed1/checkpoint/optimizer.pt").write_bytes(b"x")
    with pytest.raises(BadInput, match="pickles"):
        make_bundle(copy, tmp_path / "pickle.zip", checkpoints=True)
    assert not (tmp_path / "pickle.zip").exists()


def test_no_machine_path_is_left_but_in_samples_which_stay_as_they_are(bundle, finished, unpacked):
    for file in unpacked.rglob("*.*"):
        assert b"/somewhere/project" not in file.read_bytes(), file
    files = json.loads((unpacked / "manifest.json").read_text())["files"]
    config = "runs/sorting/tiny/ppo/seed1/config.yaml"
    assert files[config] == {"kind": "raw", "sha256": sha256_file(unpacked / config)}
    assert MACHINE_PATH in (finished / config).read_text()
    sample = unpacked / "evals/sorting/tiny/ppo/seed1/samples_sorting_greedy_2026-11-22.jsonl"
    assert json.loads(sample.read_text().splitlines()[3])["doc"]["prompt"] == "sort /3/1"


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


def test_a_missing_product_is_named(copy, tmp_path):
    for name in ("report.html", "verdicts.json", "tables/steps.parquet", "benchmark.yaml"):
        (copy / name).rename(tmp_path / "aside")
        with pytest.raises(BadInput, match=Path(name).name):
            make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)
        (tmp_path / "aside").rename(copy / name)


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


def test_a_link_among_the_results_is_refused(copy, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("key")
    (copy / "figures" / "extra.png").symlink_to(secret)
    with pytest.raises(BadInput, match="link"):
        make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)


def test_claims_that_changed_since_the_verdicts_are_refused(copy, tmp_path):
    file = copy / "verdicts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"claims_sha256": "0" * 64}))
    with pytest.raises(BadInput, match="decide the verdicts again"):
        make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)


def test_what_is_missing_is_told_and_what_is_true_of_many_runs_is_one_note(copy, finished):
    for name in LOCKS:
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, copy / name)
    assert notes(copy) == []
    (copy / "runs/sorting/tiny/ppo/seed1/provenance.json").unlink()
    for run in copy.glob("runs/*/*/grpo/*"):
        (run / "provenance.json").write_text(json.dumps({"software": {"lock_sha256": "0" * 64}}))
        rewrite_json(run / "status.json", files=None)
    for sample in copy.glob("evals/sorting/tiny/start/samples_*"):
        sample.unlink()
    told = {note.partition(":")[0]: note for note in notes(copy)}
    grpo, start = "runs/sorting/tiny/grpo/seed1", "evals/sorting/tiny/start/result.json"
    assert set(told) == {
        "runs/sorting/tiny/ppo/seed1/provenance.json",
        f"{grpo}/provenance.json and 2 more",
        f"{grpo}/status.json and 2 more",
        start,
    }
    assert "another lock" in told[f"{grpo}/provenance.json and 2 more"]
    assert "neither samples nor scores by item" in told[start]


def test_without_samples_the_scores_by_item_stay_and_say_the_same(finished, tmp_path):
    unzipped(make_bundle(finished, tmp_path / "small.zip", checkpoints=False, samples=False), tmp_path / "small")
    assert not list((tmp_path / "small").rglob("samples_*"))
    outcome = verify(tmp_path / "small")
    assert outcome.differences == []
    assert any("no samples; its responses cannot be judged again" in note for note in outcome.notes)
    whole, alone = ItemScores(finished), ItemScores(tmp_path / "small")
    for row in load_tables(finished / "tables").evals.itertuples():
        keys = Keys(row.task, row.model, row.arm, None if pd.isna(row.seed) else int(row.seed))
        scores = alone.of(keys, row.metric, row.value)
        assert len(scores) == ITEMS
        assert scores.tolist() == whole.of(keys, row.metric, row.value).tolist()
    # Scores that were changed contradict the result that was made of them.
    items = tmp_path / "small" / "evals" / "items.parquet"
    rows = pd.read_parquet(items)
    rows.assign(scores=rows["scores"].map(lambda scores: [1.0] * len(scores))).to_parquet(items)
    benchmark = load_benchmark(tmp_path / "small" / "config" / "quick.yaml")
    assert len(list(evaluation_differences(tmp_path / "small", benchmark))) >= 20
    items.write_bytes(b"PAR1")
    with pytest.raises(BadInput, match="not a table of scores"):
        ItemScores(tmp_path / "small").of(keys, row.metric, row.value)


def test_arms_at_rates_of_their_own_are_read_again_as_they_were(tmp_path):
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / "pilot.yaml")
    record = tmp_path / "benchmark.yaml"
    record.write_text(yaml.safe_dump(benchmark.resolved(), sort_keys=False), encoding="utf-8")
    for file, content in config_files(tmp_path, load_claims(benchmark.claims).sha256).items():
        place = tmp_path / "config" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    again, _ = load_config(tmp_path / "config", record)
    assert again.arms["ppo_lr100u"].verl == benchmark.arms[again.reference].verl
    for arm, as_it_was in benchmark.arms.items():
        assert (again.arms[arm].verl, again.arms[arm].swept_from) == (as_it_was.verl, as_it_was.swept_from)
