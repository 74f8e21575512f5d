"""What is not as a bundle says is found and named: one byte, one verdict, one file."""

import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish import reading, sums
from groupppo.publish.bundle import make_bundle
from groupppo.publish.measured import NEEDED
from groupppo.publish.reading import safe_tables
from groupppo.publish.sums import read_sums, sums_text
from groupppo.publish.verify import verify
from tests.publish.conftest import change_column


def describe_again(folder) -> None:
    """New hashes in the metadata, too."""
    file = folder / "ro-crate-metadata.json"
    crate = json.loads(file.read_text())
    for entity in crate["@graph"]:
        if "sha256" in entity:
            entity["sha256"] = sha256_file(folder / entity["@id"])
    file.write_text(json.dumps(crate))
    sign_again(folder)


def places(folder, check: str) -> list[str]:
    return [found.place for found in verify(folder).differences if found.check == check]


def drop_rows(folder, table: str, arm: str, seed: int) -> None:
    file = folder / "tables" / f"{table}.parquet"
    found = pq.read_table(file)
    pq.write_table(found.filter([(row["arm"], row["seed"]) != (arm, seed) for row in found.to_pylist()]), file)


def sign_again(folder) -> None:
    """New checksums for changed files, as someone would write who changes results on purpose."""
    names = read_sums(folder)
    (folder / "SHA256SUMS").write_bytes(sums_text({name: sha256_file(folder / name) for name in names}))


def checks(folder) -> set[str]:
    return {difference.check for difference in verify(folder).differences}


def test_a_bundle_an_unpacked_bundle_and_a_results_folder_verify(bundle, unpacked, finished):
    outcomes = [verify(path) for path in (bundle, unpacked, finished)]
    assert [outcome.differences for outcome in outcomes] == [(), (), ()]
    assert [outcome.kind for outcome in outcomes] == ["bundle", "unpacked bundle", "results folder"]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 0]
    assert outcomes[0].benchmark == "quick"
    assert outcomes[0].sums_sha256 == outcomes[1].sums_sha256 != outcomes[2].sums_sha256 == ""
    told = {"schemas", "verdicts", "report", "runs", "evaluations", "provenance"}
    assert set(outcomes[0].checks) == told | {"checksums", "metadata"}
    assert set(outcomes[2].checks) == told


def test_a_bundle_verifies_in_a_fresh_process_at_another_place(bundle, tmp_path):
    moved = tmp_path / "moved" / "renamed.zip"
    moved.parent.mkdir()
    shutil.copy(bundle, moved)
    program = "import sys; from pathlib import Path; from groupppo.publish.verify import verify; "
    program += "outcome = verify(Path(sys.argv[1])); print(outcome.differences); sys.exit(outcome.exit_code)"
    command = [sys.executable, "-c", program, moved.name]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=moved.parent, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "()"), done.stderr


def test_one_flipped_byte_of_a_table_is_found(unpacked):
    file = unpacked / "tables" / "stages.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    outcome = verify(unpacked)
    assert outcome.exit_code == 1
    assert ("checksums", "tables/stages.parquet") in {(found.check, found.place) for found in outcome.differences}


def test_one_changed_verdict_is_found_even_with_new_checksums(unpacked):
    file = unpacked / "verdicts.json"
    judged = json.loads(file.read_text())
    entry = judged["verdicts"][0]
    old, entry["verdict"] = entry["verdict"], "supported"
    assert old != "supported"
    file.write_text(json.dumps(judged))
    sign_again(unpacked)
    found = [found for found in verify(unpacked).differences if found.check == "verdicts"]
    assert [(item.expected, item.found) for item in found] == [(old, "supported")]
    assert entry["id"] in found[0].place


def test_a_changed_number_is_found_and_a_last_digit_is_not(unpacked):
    file = unpacked / "verdicts.json"
    judged = json.loads(file.read_text())
    entry = next(item for item in judged["verdicts"] if item["estimate"] is not None)
    estimate = entry["estimate"]
    for factor, expected in ((1 + 1e-13, set()), (1 + 1e-6, {"verdicts"})):
        entry["estimate"] = estimate * factor
        file.write_text(json.dumps(judged))
        sign_again(unpacked)
        assert checks(unpacked) - {"metadata"} == expected


def test_a_new_key_in_the_verdicts_is_no_difference(unpacked):
    file = unpacked / "verdicts.json"
    judged = json.loads(file.read_text())
    judged["verdicts"][0]["later_key"] = judged["later_key"] = 1
    file.write_text(json.dumps(judged))
    sign_again(unpacked)
    assert "verdicts" not in checks(unpacked)


def test_changed_accuracies_in_a_table_are_found_though_every_checksum_holds(unpacked):
    change_column(unpacked, "evals", "value", lambda row: row["value"] + 0.05 * (row["arm"] == "group_ppo"))
    sign_again(unpacked)
    assert {"verdicts", "evaluations"} <= checks(unpacked)


def test_verdicts_that_another_number_of_a_table_gives_are_named_though_every_hash_was_made_again(unpacked):
    def slower(row: dict) -> float:
        return row["seconds"] * (4 if (row["arm"], row["stage"]) == ("group_ppo", "adv") else 1)

    change_column(unpacked, "stages", "seconds", slower)
    describe_again(unpacked)
    found = verify(unpacked).differences
    assert {item.check for item in found} == {"verdicts", "report"}
    assert {item.place.split()[1] for item in found if item.check == "verdicts"} == {"speedup-adv"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (r">refuted</span>", ">supported</span>", "supported"),
        (r"(refuted</span></td>\s*<td>)0\.", r"\g<1>7.", "refuted 7."),
        (r'id="verdict-table"', 'id="verdicts"', "nothing"),
    ],
)
def test_a_page_that_says_otherwise_than_its_verdicts_is_found(unpacked, old, new, told):
    page = unpacked / "report.html"
    text = page.read_text()
    for now, expected in ((text + "<!-- -->", 0), (re.sub(old, new, text, count=1), 1)):
        page.write_text(now)
        describe_again(unpacked)
        outcome = verify(unpacked)
        assert [item.check for item in outcome.differences] == ["report"] * expected
    assert told in outcome.differences[0].found


@pytest.mark.parametrize(("key", "value"), [("claim", "Anything."), ("margin", 0.5), ("arm", "grpo")])
def test_a_verdict_that_repeats_its_claim_wrongly_is_found(unpacked, key, value):
    file = unpacked / "verdicts.json"
    judged = json.loads(file.read_text())
    judged["verdicts"][0][key] = value
    file.write_text(json.dumps(judged))
    describe_again(unpacked)
    assert [place.split()[-1] for place in places(unpacked, "verdicts")] == [key]


def test_a_run_that_the_tables_leave_out_is_found(unpacked):
    for table in ("runs", "evals"):
        drop_rows(unpacked, table, "grpo", 2)
    describe_again(unpacked)
    assert places(unpacked, "runs") == ["runs/sorting/tiny/grpo/seed2"]


def test_an_evaluation_that_the_table_leaves_out_is_found(unpacked):
    drop_rows(unpacked, "evals", "grpo", 2)
    describe_again(unpacked)
    assert places(unpacked, "evaluations") == ["evals/sorting/tiny/grpo/seed2/result.json"]


@pytest.mark.parametrize(("column", "value"), [("steps", 7), ("wall_seconds", 1.5), ("status", "failed")])
def test_a_row_that_says_otherwise_than_its_run_is_found(unpacked, column, value):
    this = ("grpo", 2)
    change_column(unpacked, "runs", column, lambda row: value if (row["arm"], row["seed"]) == this else row[column])
    describe_again(unpacked)
    assert places(unpacked, "runs") == [f"runs/sorting/tiny/grpo/seed2/status.json: {column}"]


def test_a_failed_run_that_was_set_aside_is_packed_and_verifies(copy, tmp_path):
    run = copy / "runs" / "sorting" / "tiny" / "grpo" / "seed2"
    (run / "failed").mkdir()
    for name in ("status.json", "provenance.json", "config.yaml"):
        (run / name).rename(run / "failed" / name)
    made = make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False)
    assert verify(made).differences == ()
    assert not any("grpo/seed2" in note for note in verify(made).notes)


def test_a_table_of_another_version_is_told_as_such(unpacked):
    file = unpacked / "tables" / "steps.parquet"
    pq.write_table(pq.read_table(file).rename_columns(["task", "model", "arm", "seed", "step", "name", "value"]), file)
    describe_again(unpacked)
    found = [item for item in verify(unpacked).differences if item.check == "schemas"]
    assert ["steps.parquet: columns" in item.place for item in found] == [True]
    assert "the version that wrote it" in found[0].expected


def test_missing_and_added_files_are_named(unpacked):
    (unpacked / "figures" / "reward.csv").unlink()
    (unpacked / "figures" / "new.csv").write_text("x")
    places = {found.place for found in verify(unpacked).differences if found.check == "checksums"}
    assert places == {"figures/reward.csv", "figures/new.csv"}


_READ = [
    "verdicts.json",
    "manifest.json",
    "ro-crate-metadata.json",
    "benchmark.yaml",
    "config/quick.yaml",
    "report.html",
]


@pytest.mark.parametrize("name", [*_READ, "config/claims.yaml"])
@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "[]", "a: &a [x]\nb: [*a, *a]"])
def test_a_file_out_of_its_schema_is_a_difference_and_no_crash(unpacked, name, text):
    (unpacked / name).write_text(text)
    sign_again(unpacked)
    assert not verify(unpacked).ok


def test_a_link_in_an_unpacked_bundle_is_refused(unpacked):
    (unpacked / "report.html").unlink()
    (unpacked / "report.html").symlink_to("/etc/hostname")
    with pytest.raises(BadInput, match="link"):
        verify(unpacked)


def test_a_folder_with_a_hash_in_the_metadata_is_no_crash(unpacked):
    file = unpacked / "ro-crate-metadata.json"
    crate = json.loads(file.read_text())
    folders = [entity for entity in crate["@graph"] if entity["@type"] == "Dataset" and entity["@id"] != "./"]
    folders[0]["sha256"] = "0" * 64
    file.write_text(json.dumps(crate))
    sign_again(unpacked)
    assert verify(unpacked).ok


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


def test_a_table_whose_names_leave_their_folder_is_refused(unpacked):
    change_column(unpacked, "evals", "arm", lambda row: "../../../ppo" if row["arm"] == "ppo" else row["arm"])
    sign_again(unpacked)
    assert [item.found for item in verify(unpacked).differences if item.check == "schemas"] == ["'../../../ppo'"]


def test_a_list_of_checksums_too_long_to_be_one_is_refused(unpacked, monkeypatch):
    assert "checksums" not in checks(unpacked)
    monkeypatch.setattr(sums, "LARGEST_JSON", 100)
    assert "checksums" in checks(unpacked)


def test_a_list_of_checksums_that_leaves_the_folder_is_refused(unpacked):
    with (unpacked / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  a/../../../etc/hostname\n")
    assert "checksums" in checks(unpacked)


@pytest.mark.parametrize(("limit", "refused"), [("ROWS_PER_BYTE", "rows"), ("EXPANSION", "size")])
def test_a_table_that_says_it_unpacks_to_far_more_than_its_size_is_refused(unpacked, monkeypatch, limit, refused):
    assert len(safe_tables(unpacked / "tables", NEEDED).runs) == 9
    for name in ("FREE_ROWS", "FREE_BYTES", limit):
        monkeypatch.setattr(reading, name, 0)
    with pytest.raises(BadInput, match="refused") as caught:
        safe_tables(unpacked / "tables", NEEDED)
    assert caught.value.key == refused


def test_a_config_that_the_run_did_not_have_is_found(unpacked):
    name = "runs/sorting/tiny/ppo/seed1"
    record = json.loads((unpacked / name / "provenance.json").read_text())
    manifest = json.loads((unpacked / "manifest.json").read_text())
    true = manifest["scrubbed"][f"{name}/config.yaml"]["original_sha256"]
    for recorded, expected in ((true, False), ("0" * 64, True)):
        text = json.dumps(record | {"inputs": {"config_sha256": recorded}})
        (unpacked / name / "provenance.json").write_text(text)
        assert ("provenance" in checks(unpacked)) is expected


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(BadInput, match=r"name a bundle\.zip"):
        verify(tmp_path / "none.zip")
