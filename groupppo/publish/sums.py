"""SHA256SUMS and manifest.json of a bundle: what belongs to it. `sha256sum --check SHA256SUMS` reads the list too."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish.reading import LARGEST_JSON, read_json

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
FORMAT, FORMAT_VERSION = "groupppo bundle", 1
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
    notes, scrubbed = manifest.get("notes"), manifest.get("scrubbed")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BadInput(file, "notes", notes, "write a list of texts.")
    if not isinstance(scrubbed, dict) or not all(isinstance(entry, dict) for entry in scrubbed.values()):
        raise BadInput(file, "scrubbed", scrubbed, "write an object for each scrubbed file.")
    return manifest
