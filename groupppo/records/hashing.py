"""SHA-256 of files and folders: what a result rests on, independent of place and time."""

import hashlib
from collections.abc import Collection
from pathlib import Path

LOGS = ("warmstart.jsonl", "warmstart.json")
"""What a warm start writes beside the model, with its seconds: no part of the model."""
SNAKEMAKES_OWN = ".snakemake_timestamp"
"""What Snakemake puts into a folder that a rule made, after whoever made it has hashed it."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path, *, exclude: Collection[str] = ()) -> str:
    """SHA-256, in hexadecimal, over the relative paths and contents of all files below `folder` but Snakemake's mark.

    Args:
        folder: an existing folder.
        exclude: relative paths, with forward slashes, of files that are left out.

    Raises:
        NotADirectoryError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != SNAKEMAKES_OWN)
    files = {path.relative_to(folder).as_posix(): path for path in found}
    total = hashlib.sha256()
    for name in sorted(set(files) - set(exclude)):
        total.update(f"{name}\0{sha256_file(files[name])}\n".encode())
    return total.hexdigest()


def sha256_model(folder: Path) -> str:
    """SHA-256 of a model's folder without the logs of its warm start, so that equal models have equal hashes.

    Raises:
        NotADirectoryError: `folder` is not a folder.
    """
    return sha256_folder(folder, exclude=LOGS)
