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


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (dict(reversed(FILES.items())), True),
        (FILES | {"log.jsonl": "excluded"}, True),
        (FILES | {"b/.snakemake_timestamp": "of whoever made the folder"}, True),
        (FILES | {"snakemake_timestamp": ""}, False),
        (FILES | {"a.txt": "One"}, False),
        (FILES | {"e.txt": ""}, False),
        ({"a.txt": "one", "b/c.txt": "two"}, False),
        ({"a.txt": "two", "b/c.txt": "one", "b/d.txt": ""}, False),
        ({"a.txt": "one", "c.txt": "two", "b/d.txt": ""}, False),
    ],
)
def test_a_folders_hash_is_of_names_and_contents_alone(tmp_path, changed, same):
    first, second = write(tmp_path / "first", FILES), write(tmp_path / "second", changed)
    (second / "empty").mkdir()
    assert (sha256_folder(first) == sha256_folder(second, exclude=["log.jsonl"])) is same
    with pytest.raises(NotADirectoryError):
        sha256_folder(tmp_path / "none")
