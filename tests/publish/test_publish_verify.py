"""A sound bundle verifies wherever it lies; what is damaged, hostile or of another version is named."""

import json
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.errors import BadInput
from groupppo.publish.bundle import make_bundle
from groupppo.publish.compare import NEEDED
from groupppo.publish.contents import read_sums, sums_text
from groupppo.publish.reading import safe_tables
from groupppo.publish.verify import verify
from groupppo.records import plain_parquet
from groupppo.records.hashing import KEY, sha256_file
from groupppo.records.plain_json import read_bytes
from tests.publish.conftest import change_column, unzipped

RUN = "runs/sorting/tiny/grpo/seed2"


def sign_again(folder) -> None:
    """New checksums for changed files."""
    names = read_sums(folder)
    (folder / "SHA256SUMS").write_bytes(sums_text({name: sha256_file(folder / name) for name in names}))


def checks(folder) -> set[str]:
    return {difference.check for difference in verify(folder).differences}


@pytest.fixture
def nothing_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is found before anything is derived, which takes a second."""
    monkeypatch.setattr("groupppo.publish.verify._Check.derived", lambda *_: ())


def test_a_bundle_an_unpacked_bundle_and_a_results_folder_verify(bundle, unpacked, finished):
    outcomes = [verify(path) for path in (bundle, unpacked, finished)]
    assert [outcome.differences for outcome in outcomes] == [[], [], []]
    assert [outcome.kind for outcome in outcomes] == ["bundle", "unpacked bundle", "results folder"]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 0]
    assert outcomes[0].benchmark == "quick"
    assert outcomes[0].sums_sha256 == outcomes[1].sums_sha256 != outcomes[2].sums_sha256 == ""
    told = {"records", "evaluations", "derived"}
    assert set(outcomes[0].checks) == told | {"checksums", "files", "sources"}
    assert set(outcomes[2].checks) == told


def test_one_flipped_byte_of_a_table_is_found(unpacked, nothing_derived):
    file = unpacked / "tables" / "stages.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    outcome = verify(unpacked)
    assert outcome.exit_code == 1
    assert ("checksums", "tables/stages.parquet") in {(found.check, found.place) for found in outcome.differences}


def test_a_failed_run_that_was_set_aside_is_packed_and_verifies(copy, tmp_path):
    (copy / RUN / "failed").mkdir()
    for name in RAW:
        (copy / RUN / name).rename(copy / RUN / "failed" / name)
    outcome = verify(make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False))
    assert outcome.differences == []
    assert not any("grpo/seed2" in note for note in outcome.notes)


def test_a_table_of_other_columns_is_named_with_both(unpacked):
    file = unpacked / "tables" / "steps.parquet"
    pq.write_table(pq.read_table(file).rename_columns(["task", "model", "arm", "seed", "step", "name", "value"]), file)
    differences = verify(unpacked).differences
    told = [item for item in differences if item.check == "derived" and item.place == "tables/steps.parquet"]
    assert [("metric" in item.expected, "name" in item.found) for item in told] == [(True, True)]


RAW = ["status.json", "provenance.json", "config.yaml", "steps.jsonl", "stages.jsonl"]
READ = [["manifest.json", "ro-crate-metadata.json", "verdicts.json", "report.html", "figures/figures.json"]]
READ += [[f"{RUN}/{name}" for name in RAW], [RUN.replace("runs", "evals") + "/*.json*"]]
READ += [["assets/tasks/*/card.json", "assets/starts/*/*/*"], ["benchmark.yaml"], ["config/quick.yaml"]]
READ += [["config/claims/group_ppo.yaml"], ["preregistration.json"], ["CITATION.cff"]]


@pytest.mark.parametrize("names", READ)
def test_files_out_of_their_schema_are_differences_and_no_crash(unpacked, names, nothing_derived):
    for text in ("[" * 100_000, "{}", "\xff\xfe"):
        for file in (file for name in names for file in unpacked.glob(name)):
            file.write_bytes(text.encode("latin-1"))
        sign_again(unpacked)
        assert not verify(unpacked).ok


def test_records_that_nobody_can_read_are_named_where_they_are_read_for_pages(unpacked):
    for file in unpacked.glob(f"{RUN}/*"):
        file.write_text("[" * 100_000)
    sign_again(unpacked)
    assert not verify(unpacked).ok


def test_a_link_in_an_unpacked_bundle_is_refused(unpacked):
    (unpacked / "report.html").unlink()
    (unpacked / "report.html").symlink_to("/etc/hostname")
    with pytest.raises(BadInput, match="link"):
        verify(unpacked)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../outside"},
        {"studies": ["../../outside"]},
        {"arms": {"../../outside": {}}},
        {"profile": 5},
        {"studies": 3},
    ],
)
def test_a_record_whose_names_leave_their_folder_is_refused_and_nothing_is_written(copy, tmp_path, monkeypatch, change):
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    file = copy / "benchmark.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change, sort_keys=False))
    before = sorted(tmp_path.rglob("*"))
    found = [item for item in verify(copy).differences if item.check == "schemas"]
    assert ["benchmark.yaml" in item.place for item in found] == [True]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_of_checksums_that_leaves_the_folder_or_is_too_long_to_be_one_is_refused(
    unpacked, monkeypatch, nothing_derived
):
    assert "checksums" not in checks(unpacked)
    with (unpacked / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  a/../../../etc/hostname\n")
    assert "checksums" in checks(unpacked)
    monkeypatch.setattr("groupppo.publish.contents.read_bytes", partial(read_bytes, most=100))
    assert "refused" in str(verify(unpacked).differences[0])


@pytest.mark.parametrize(("limit", "refused"), [("ROWS_PER_BYTE", "rows"), ("EXPANSION", "size")])
def test_a_table_that_says_it_unpacks_to_far_more_than_its_size_is_refused(unpacked, monkeypatch, limit, refused):
    assert len(safe_tables(unpacked / "tables", NEEDED).runs) == 9
    for name in ("FREE_ROWS", "FREE_BYTES", limit):
        monkeypatch.setattr(plain_parquet, name, 0)
    with pytest.raises(BadInput, match="refused") as caught:
        safe_tables(unpacked / "tables", NEEDED)
    assert caught.value.key == refused


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(BadInput, match=r"name a bundle\.zip"):
        verify(tmp_path / "none.zip")


def without_steps(results: Path, *, sealed: bool) -> Path:
    """Results as bundles held them before single steps were packed."""
    for run in results.glob("runs/*/*/*/*"):
        for name in ("steps.jsonl", "stages.jsonl"):
            (run / name).unlink()
        status = json.loads((run / "status.json").read_text())
        kept = {key: value for key, value in status.items() if sealed or key != KEY}
        (run / "status.json").write_text(json.dumps(kept))
    return results


def test_tables_of_steps_are_raw_where_an_earlier_version_left_no_others_and_that_is_said(copy, tmp_path):
    made = make_bundle(without_steps(copy, sealed=False), tmp_path / "bundle.zip", checkpoints=False)
    outcome = verify(made)
    assert outcome.differences == []
    assert any(note.startswith("tables/steps.parquet and tables/stages.parquet are raw") for note in outcome.notes)
    folder = unzipped(made, tmp_path / "unzipped")
    kinds = {name: told["kind"] for name, told in json.loads((folder / "manifest.json").read_text())["files"].items()}
    assert [kinds[f"tables/{name}.parquet"] for name in ("steps", "stages", "runs")] == ["raw", "raw", "derived"]
    # What is made of them is still compared, and a name in them leads nowhere.
    change_column(folder, "groups", "endpoints", lambda row: row["endpoints"] + 1)
    change_column(folder, "stages", "arm", lambda row: "../../../ppo" if row["arm"] == "ppo" else row["arm"])
    sign_again(folder)
    places = {item.place for item in verify(folder).differences if item.check == "derived"}
    assert {"tables/groups.parquet", "tables/runs.parquet"} <= places


def test_runs_of_this_version_cannot_go_without_their_steps(copy, tmp_path, nothing_derived):
    made = make_bundle(without_steps(copy, sealed=True), tmp_path / "bundle.zip", checkpoints=False)
    places = {item.place for item in verify(made).differences if item.check == "records"}
    assert {f"{RUN}/steps.jsonl", f"{RUN}/stages.jsonl"} <= places


def test_a_key_of_an_arm_that_the_record_lacks_is_found(unpacked):
    file = unpacked / "config" / "arms" / "grpo.yaml"
    arm = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(arm | {"verl": arm["verl"] | {"actor_rollout_ref.actor.clip_ratio": 0.5}}))
    found = [item for item in verify(unpacked).differences if item.check == "schemas"]
    assert ["not the same matrix" in item.expected for item in found] == [True]
