"""The lists of a bundle: manifest.json, RO-Crate metadata and SHA256SUMS, made of the files that they list.

manifest.json says of every other file what it is and its SHA-256; `sha256sum --check SHA256SUMS` needs no package.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.publish.crate import crate_metadata
from groupppo.publish.files import MANIFEST, METADATA, STEP_TABLES, SUMS, Kind, rule_of
from groupppo.publish.reading import LARGEST_JSON, read_json
from groupppo.records.hashing import sha256_file

FORMAT, FORMAT_VERSION = "groupppo bundle", 2
SHA256 = "sha256"
SAID = ("made_by", "source", "checkpoints", "samples", "notes")
OF_A_FILE = ("paths", "original_sha256")
"""Of a file whose paths were taken out: how many there were, and its SHA-256 before."""
LISTS = {MANIFEST, METADATA, SUMS}
UNKNOWN = "unknown"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.@+=,/-]*)")


def sums_text(hashes: Mapping[str, str]) -> bytes:
    """The list of SHA-256 by name, sorted by name."""
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by name.

    Raises:
        BadInput: the list is missing or larger than any bundle's, a line is not "<SHA-256>  <name>", or a name leaves
            the folder or is there twice.
    """
    file, hashes = folder / SUMS, dict[str, str]()
    if not file.is_file():
        raise BadInput(file, "file", None, "fetch the bundle again: it has no list of checksums.")
    if file.stat().st_size > LARGEST_JSON:
        raise BadInput(file, "size", file.stat().st_size, f"refused: more than {LARGEST_JSON:,} bytes.")
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        parts = _LINE.fullmatch(line)
        if parts is None or ".." in parts[2].split("/") or parts[2] in hashes:
            raise BadInput(file, f"line {number}", line[:120], "fetch the bundle again: not a line of checksums.")
        hashes[parts[2]] = parts[1]
    return hashes


def sums_differences(folder: Path, hashes: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, expected, found) of every file that is missing, changed or not listed."""
    present = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for name in sorted(set(hashes) | set(present) - {SUMS}):
        if name not in present:
            yield name, f"SHA-256 {hashes[name]}", "no file"
        elif name not in hashes:
            yield name, "no file", f"a file that is not in {SUMS}"
        elif (found := sha256_file(present[name])) != hashes[name]:
            yield name, f"SHA-256 {hashes[name]}", f"SHA-256 {found}"


def write_lists(
    out: Path,
    benchmark: Benchmark,
    files: Mapping[str, Path],
    said: Mapping[str, Any],
    of_files: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the three lists of a bundle.

    Args:
        out: the folder that they are written to.
        files: every file of the bundle by name; lists among them are left out.
        said: what the manifest says beside its files: SAID.
        of_files: by name, what it says of a file beside kind and hash: OF_A_FILE.
    """
    files = {name: files[name] for name in sorted(files) if name not in LISTS}
    hashes = {name: sha256_file(file) for name, file in files.items()}
    kinds = kinds_in(files)
    listed = {
        name: {"kind": kinds[name], SHA256: hashes[name]}
        | {key: value for key, value in of_files.get(name, {}).items() if key in OF_A_FILE}
        for name in files
    }
    manifest = {"format": FORMAT, "version": FORMAT_VERSION, "benchmark": benchmark.name, **said, "files": listed}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    (out / MANIFEST).write_text(text, encoding="utf-8")
    hashes[MANIFEST] = sha256_file(out / MANIFEST)
    everything = {**files, MANIFEST: out / MANIFEST}
    crate = crate_metadata(benchmark, everything, hashes, [SUMS], str(said["made_by"]["groupppo"]))
    (out / METADATA).write_bytes(crate)
    hashes[METADATA] = sha256_file(out / METADATA)
    (out / SUMS).write_bytes(sums_text(hashes))


def listed_differences(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, object, object]]:
    """(name, expected, found) of every file that is not in the manifest once, with its kind and hash."""
    present = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    files = {name: file for name, file in present.items() if name not in LISTS}
    kinds = kinds_in(files)
    for name in sorted(set(files) | set(listed)):
        if name not in files:
            yield name, "a file, by the manifest", "no file"
        elif kinds[name] == UNKNOWN:
            yield name, "a file of a bundle", "one that belongs into none"
        else:
            found = {"kind": kinds[name], SHA256: sha256_file(files[name])}
            told = listed.get(name, {})
            if found != {key: told.get(key) for key in found} or set(told) - set(found) - set(OF_A_FILE):
                yield name, f"{found} in the manifest", told


def kinds_in(names: Collection[str]) -> dict[str, str]:
    """What each file is in a bundle of these files; UNKNOWN for one that belongs into no bundle."""
    steps = any(name.endswith("/steps.jsonl") for name in names)
    rules = {name: rule_of(name) for name in names}
    kinds = {name: str(rule.kind) if rule else UNKNOWN for name, rule in rules.items()}
    return kinds if steps else kinds | {name: str(Kind.RAW) for name in STEP_TABLES if name in kinds}


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json.

    Raises:
        BadInput: missing, not JSON, of another format, or of a version that this package does not know.
    """
    file = folder / MANIFEST
    manifest = read_json(file)
    for key, known in (("format", FORMAT), ("version", FORMAT_VERSION)):
        if manifest.get(key) != known:
            raise BadInput(
                file, key, manifest.get(key), f"read it with the version that wrote it; this one knows {known!r}."
            )
    notes, files, made, source = (manifest.get(key) for key in ("notes", "files", "made_by", "source"))
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BadInput(file, "notes", notes, "write a list of texts.")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise BadInput(file, "files", None, "write an object for each file.")
    if not isinstance(made, dict) or not isinstance(made.get("groupppo"), str) or not isinstance(source, dict):
        raise BadInput(file, "made_by, source", [made, source], "write what made it, and the commit of its sources.")
    return manifest
