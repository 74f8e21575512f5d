"""Hashes: the same for the same content anywhere, different for any change of it."""

import hashlib

import pytest

from groupppo.records.hashing import sha256_file, sha256_folder

FILES = {"a.txt": "one", "b/c.txt": "two", "b/d.txt": ""}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_files_hash_is_sha256_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_folders_hash_depends_on_neither_place_nor_order_of_writing(tmp_path):
    first = write(tmp_path / "first", FILES)
    second = write(tmp_path / "second", dict(reversed(FILES.items())))
    (second / "empty").mkdir()
    assert sha256_folder(first) == sha256_folder(second)


@pytest.mark.parametrize(
    "changed",
    [
        FILES | {"a.txt": "One"},
        FILES | {"e.txt": ""},
        {"a.txt": "one", "b/c.txt": "two"},
        {"a.txt": "two", "b/c.txt": "one", "b/d.txt": ""},
        {"a.txt": "one", "c.txt": "two", "b/d.txt": ""},
    ],
)
def test_any_change_of_content_or_name_changes_a_folders_hash(tmp_path, changed):
    assert sha256_folder(write(tmp_path / "first", FILES)) != sha256_folder(write(tmp_path / "second", changed))


def test_excluded_files_do_not_count(tmp_path):
    first = write(tmp_path / "first", FILES)
    second = write(tmp_path / "second", FILES | {"log.jsonl": "12 s"})
    assert sha256_folder(second, exclude=["log.jsonl"]) == sha256_folder(first)
    assert sha256_folder(second) != sha256_folder(first)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(NotADirectoryError):
        sha256_folder(tmp_path / "none")


def test_a_rules_folder_has_the_hash_that_it_had_before_snakemake_marked_it(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    made = sha256_folder(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    assert sha256_folder(tmp_path) == made
    (tmp_path / "snakemake_timestamp").touch()
    assert sha256_folder(tmp_path) != made
