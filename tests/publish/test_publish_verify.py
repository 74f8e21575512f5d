"""What is not as a bundle says is found and named: one byte, one verdict, one file."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish import reading
from groupppo.publish.reading import safe_tables
from groupppo.publish.sums import read_sums, sums_text
from groupppo.publish.verify import verify
from tests.publish.conftest import change_column


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
    assert set(outcomes[0].checks) == {"checksums", "metadata", "schemas", "verdicts", "evaluations", "provenance"}
    assert "checksums" not in outcomes[2].checks


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


def test_missing_and_added_files_are_named(unpacked):
    (unpacked / "figures" / "reward.csv").unlink()
    (unpacked / "figures" / "new.csv").write_text("x")
    places = {found.place for found in verify(unpacked).differences if found.check == "checksums"}
    assert places == {"figures/reward.csv", "figures/new.csv"}


@pytest.mark.parametrize("name", ["verdicts.json", "manifest.json", "ro-crate-metadata.json", "benchmark.yaml"])
@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "a: &a [x]\nb: [*a, *a]"])
def test_a_file_out_of_its_schema_is_a_difference_and_no_crash(unpacked, name, text):
    (unpacked / name).write_text(text)
    sign_again(unpacked)
    assert not verify(unpacked).ok


def test_a_link_in_an_unpacked_bundle_is_refused(unpacked):
    (unpacked / "report.html").unlink()
    (unpacked / "report.html").symlink_to("/etc/hostname")
    with pytest.raises(BadInput, match="link"):
        verify(unpacked)


def test_a_list_of_checksums_that_leaves_the_folder_is_refused(unpacked):
    with (unpacked / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  a/../../../etc/hostname\n")
    assert "checksums" in checks(unpacked)


@pytest.mark.parametrize(("limit", "refused"), [("ROWS_PER_BYTE", "rows"), ("EXPANSION", "size")])
def test_a_table_that_says_it_unpacks_to_far_more_than_its_size_is_refused(unpacked, monkeypatch, limit, refused):
    assert len(safe_tables(unpacked / "tables").runs) == 9
    for name in ("FREE_ROWS", "FREE_BYTES", limit):
        monkeypatch.setattr(reading, name, 0)
    with pytest.raises(BadInput, match="refused") as caught:
        safe_tables(unpacked / "tables")
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
