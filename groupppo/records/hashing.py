"""SHA-256 of files and folders: what a result rests on, independent of place and time."""

import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from groupppo.records.folders import ResultsFolder, RunFolder

LOGS = ("warmstart.jsonl", "warmstart.json", "lengths.json")
"""What the job of a start writes beside the model, with its seconds or its task: no part of the model."""
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


KEY = "files"
"""In a record: SHA-256 by name of the files that it seals."""
OF_A_RUN = (RunFolder.CONFIG, RunFolder.PROVENANCE, RunFolder.STEPS, RunFolder.STAGES)
STAMP = ResultsFolder.STAMP
RECORDS = (".json", ".yaml", ".csv")
"""Files that lose their absolute paths before they are published; all others are hashed as they are."""
REMOVED = "path-removed"
_ABOVE_A_RUN = 4
_PART = r"[\w.@+~%=-]+"
# Not inside a word, a URL, a relative path or a closing tag; JSON writes a new line as a letter.
_START = r"(?:(?<=file://)|(?<=\\[nrt])|(?<![\w./<\\]))"
ABSOLUTE = re.compile(rf"{_START}/(?:{_PART}/)+(?:{_PART})?")
_KEPT = re.compile(r"/(results/.*|site-packages/.*)$")


def seal_run(run: Path) -> dict[str, str]:
    """SHA-256 of the files that a run has left in its folder, and of the stamp above it."""
    files = {name: run / name for name in OF_A_RUN}
    if len(run.parents) > _ABOVE_A_RUN:
        files[STAMP] = run.parents[_ABOVE_A_RUN] / STAMP
    return {name: published_sha256(file) for name, file in files.items() if file.is_file()}


def seal(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files by their names."""
    return {file.name: published_sha256(file) for file in sorted(files)}


def published_sha256(file: Path) -> str:
    """SHA-256, in hexadecimal, of a file as a bundle holds it; the same before and after its paths are taken out."""
    return hashlib.sha256(published(file)).hexdigest() if file.suffix in RECORDS else sha256_file(file)


def published(record: Path) -> bytes:
    """The content of a record without absolute paths. Bytes that are no text, of a broken run, stay as they are."""
    text = record.read_bytes().decode("utf-8", "surrogateescape")
    return scrub_record(text).encode("utf-8", "surrogateescape")


def scrub_record(text: str) -> str:
    """The text of a record without absolute paths.

    What follows results/ or site-packages/ stays; of other paths the last name does.
    """
    return ABSOLUTE.sub(_without_place, text)


def _without_place(match: re.Match[str]) -> str:
    path = match.group()
    kept = _KEPT.search(path)
    return kept.group(1) if kept else f"{REMOVED}/{path.rstrip('/').rpartition('/')[2]}"
