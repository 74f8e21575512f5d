"""What each file of a bundle is, and the lists that say so: manifest.json, RO-Crate metadata and SHA256SUMS."""

import json
import mimetypes
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.records.hashing import STAMP, sha256_file
from groupppo.records.plain_json import read_bytes, read_object, value_at

Difference = tuple[str, object, object]
"""Place, what is expected there, and what was found."""


class Kind(StrEnum):
    """Where a file's content comes from; weights are packed where they are asked for only."""

    RAW = "raw"  # recorded by runs, evaluations and measurements; nothing can make it again
    WEIGHTS = "weights"
    DERIVED = "derived"  # made of the raw files by the functions that the workflow uses
    SOURCE = "source"  # copied from the repository, or written from benchmark.yaml
    LIST = "list"  # of the other files


_NAME = r"[^/]+"
RUN = rf"runs/{_NAME}/{_NAME}/{_NAME}/{_NAME}"
_START = rf"assets/starts/{_NAME}/{_NAME}"
_EVALUATION = rf"evals/{_NAME}/{_NAME}/(?:start|{_NAME}/{_NAME})"
RECORD, VERDICTS, ITEMS, CONFIG = "benchmark.yaml", "verdicts.json", "evals/items.parquet", "config"
LOCKS = ("requirements/cpu.lock", "requirements/gpu.lock", "environment.yml", "environment.post-deploy.sh")
RIGHTS = ("LICENSE", "CITATION.cff")
MANIFEST, METADATA, SUMS = "manifest.json", "ro-crate-metadata.json", "SHA256SUMS"
LISTS = {MANIFEST, METADATA, SUMS}
STEP_TABLES = ("tables/steps.parquet", "tables/stages.parquet")
"""Raw where no run has steps.jsonl: bundles of before they were packed."""

_PATTERNS = {
    Kind.RAW: (
        rf"{RECORD}|{STAMP}",
        rf"{RUN}/(?:failed/)?(?:status\.json|provenance\.json|config\.yaml|steps\.jsonl|stages\.jsonl)",
        rf"{_EVALUATION}/(?:result|results_{_NAME})\.json|{_EVALUATION}/samples_{_NAME}\.jsonl|{ITEMS}",
        rf"assets/tasks/{_NAME}/card\.json|{_START}/warmstart\.jsonl?",
        rf"studies/{_NAME}/{_NAME}/(?:study\.json|{_NAME}\.csv)",
        rf"profile/(?:measured/{_NAME}|found)\.json",
        r"pilot/(?:benchmark\.yaml|sweep\.parquet)",
    ),
    Kind.WEIGHTS: (
        rf"(?:{RUN}/(?:checkpoint|critic)|{_START})/(?:.+\.(?:safetensors|json|jinja|txt|model|md)|LICENSE[^/]*)",
    ),
    Kind.DERIVED: (
        rf"tables/{_NAME}\.parquet|{_EVALUATION}/lm_eval/{_NAME}\.yaml",
        rf"{VERDICTS}|report\.html|report\.md",
        rf"profile/tables/{_NAME}\.(?:csv|parquet)|pilot/sweep\.(?:csv|svg|png)",
        rf"(?:profile/|studies/{_NAME}/{_NAME}/)?figures/{_NAME}\.(?:csv|svg|png|json)",
    ),
    Kind.SOURCE: (*map(re.escape, (*LOCKS, *RIGHTS)), rf"{CONFIG}/.+\.(?:yaml|py)"),
    Kind.LIST: tuple(map(re.escape, sorted(LISTS))),
}
_KINDS = {kind: re.compile("|".join(patterns)) for kind, patterns in _PATTERNS.items()}


def kind_of(name: str) -> Kind | None:
    """What a file of this name is; None for one that belongs into no bundle."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(name)), None)


def kinds_in(names: Iterable[str]) -> dict[str, Kind | None]:
    """`kind_of` each file of a bundle with these files."""
    kinds = {name: kind_of(name) for name in names}
    steps = any(name.endswith("/steps.jsonl") for name in kinds)
    return kinds if steps else kinds | {name: Kind.RAW for name in STEP_TABLES if name in kinds}


def is_picture(name: str) -> bool:
    """Whether it is drawn: its pixels depend on the drawing library, its numbers are in a CSV file beside it."""
    return name.endswith((".svg", ".png"))


def files_in(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its name from there."""
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


FORMAT, FORMAT_VERSION = "groupppo bundle", 2
SAID = ("made_by", "source", "checkpoints", "samples", "notes")
"""What manifest.json says beside its files."""
_FORMATS = mimetypes.MimeTypes().types_map[True]
"""Python's own list: what the machine has in /etc/mime.types is not in it."""
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.@+=,/-]*)")


def write_lists(out: Path, benchmark: Benchmark, files: Mapping[str, Path], said: Mapping[str, Any]) -> None:
    """Write the three lists of a bundle.

    Args:
        out: the folder that they are written to.
        benchmark: the bundle's.
        files: every file of the bundle by name; lists among them are left out.
        said: what the manifest says beside its files: SAID.
    """
    files = {name: files[name] for name in sorted(files) if name not in LISTS}
    hashes = {name: sha256_file(file) for name, file in files.items()}
    listed = {name: {"kind": kind, "sha256": hashes[name]} for name, kind in kinds_in(files).items()}
    manifest = {"format": FORMAT, "version": FORMAT_VERSION, "benchmark": benchmark.name, **said, "files": listed}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    (out / MANIFEST).write_text(text, encoding="utf-8")
    hashes[MANIFEST] = sha256_file(out / MANIFEST)
    crate = _crate(benchmark, {**files, MANIFEST: out / MANIFEST}, hashes, str(said["made_by"]["groupppo"]))
    (out / METADATA).write_text(crate, encoding="utf-8")
    hashes[METADATA] = sha256_file(out / METADATA)
    (out / SUMS).write_bytes(sums_text(hashes))


def sums_text(hashes: Mapping[str, str]) -> bytes:
    """The list of SHA-256 by name, sorted by name."""
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by name.

    Raises:
        BadInput: the list is missing or larger than any bundle's, a line is not "<SHA-256>  <name>", or a name leaves
            the folder or is there twice.
    """
    hashes = dict[str, str]()
    text = read_bytes(folder / SUMS, "fetch the bundle again: it has no list of checksums.")
    for number, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        parts = _LINE.fullmatch(line)
        if parts is None or ".." in parts[2].split("/") or parts[2] in hashes:
            hint = "fetch the bundle again: not a line of checksums."
            raise BadInput(folder / SUMS, f"line {number}", line[:120], hint)
        hashes[parts[2]] = parts[1]
    return hashes


def sums_differences(folder: Path) -> Iterator[Difference]:
    """Every file of a bundle's folder that is missing, changed or not listed.

    Raises:
        BadInput: as `read_sums`.
    """
    hashes = read_sums(folder)
    present = {name: sha256_file(file) for name, file in files_in(folder).items() if name != SUMS}
    for name in sorted({*hashes, *present}):
        if hashes.get(name) != present.get(name):
            yield name, hashes.get(name, f"no file: {SUMS} does not list it"), present.get(name, "no file")


def listed_differences(folder: Path, listed: Mapping[str, Any] | None) -> Iterator[Difference]:
    """Every file that belongs into no bundle, or of which manifest.json says something else than SHA256SUMS.

    Args:
        folder: the bundle's.
        listed: what the manifest says of each file; None where nobody can read it.

    Raises:
        BadInput: as `read_sums`.
    """
    for name in files_in(folder):
        if kind_of(name) is None:
            yield name, "no file: no bundle has one", "a file"
    if listed is None:
        return
    hashes = {name: digest for name, digest in read_sums(folder).items() if name not in LISTS}
    for name in sorted({*hashes, *listed}):
        found = value_at(listed, name, "sha256")
        if found != hashes.get(name):
            yield f"{MANIFEST}: {name}", hashes.get(name, f"no file: {SUMS} does not list it"), found or "nothing"


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json.

    Raises:
        BadInput: missing, not JSON, of another format, or of a version that this package does not know.
    """
    file = folder / MANIFEST
    manifest = read_object(file, "fetch the bundle again, or make it again from its results.")
    for key, known in (("format", FORMAT), ("version", FORMAT_VERSION)):
        if manifest.get(key) != known:
            hint = f"read it with the version that wrote it; this one knows {known!r}."
            raise BadInput(file, key, manifest.get(key), hint)
    made, parts = value_at(manifest, "made_by", "groupppo"), (manifest.get("files"), manifest.get("source"))
    if not isinstance(made, str) or not all(isinstance(part, dict) for part in parts):
        raise BadInput(file, "files, made_by, source", None, "fetch it again: it says not what a manifest says.")
    return manifest


def _crate(benchmark: Benchmark, files: Mapping[str, Path], hashes: Mapping[str, str], version: str) -> str:
    """The text of ro-crate-metadata.json: https://www.researchobject.org/ro-crate/specification/1.1/.

    Runs and evaluations are described by folder, all other files one by one. Nothing in it depends on the clock, on
    chance or on where the results lie.

    Raises:
        BadInput: no run says when it ended.
    """
    crate = ROCrate(version="1.1")

    def entity(identifier: str, kind: str, **properties: str) -> Any:
        return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))

    root = crate.root_dataset
    root["name"] = f"{benchmark.title}: results of the GROUP-PPO bench"
    fewer = "; not every task and model is run with all arms and seeds" if benchmark.cells else ""
    root["description"] = (
        f"Runs, evaluations, tables, figures and verdicts of the benchmark {benchmark.name}: "
        f"{len(benchmark.arms)} arms, {len(benchmark.tasks)} tasks, {len(benchmark.models)} models, "
        f"{len(benchmark.seeds)} seeds{fewer}. Start with report.html."
    )
    root["datePublished"] = _last_date(files)
    root["license"] = entity("https://spdx.org/licenses/Apache-2.0", "CreativeWork", name="Apache License 2.0")
    root["author"] = entity("#authors", "Organization", name="The GROUP-PPO bench authors")
    root["mentions"] = entity("#groupppo", "SoftwareApplication", name="groupppo", softwareVersion=version)
    by_folder = {name for name in files if name.split("/")[0] in ("runs", "evals")}
    for name in sorted(set(files) - by_folder):
        suffix, size = posixpath.splitext(name)[1], str(files[name].stat().st_size)
        form = _FORMATS.get(suffix, "application/octet-stream")
        properties = {"name": posixpath.basename(name), "encodingFormat": form, "contentSize": size}
        crate.add_file(dest_path=name, properties=properties | {"sha256": hashes[name]})
    for folder in sorted({posixpath.dirname(name) for name in by_folder}):
        crate.add_dataset(dest_path=folder, properties={"name": folder})
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _last_date(files: Mapping[str, Path]) -> str:
    """When the last run ended, as YYYY-MM-DD: a date of the results themselves, not of their packing."""
    statuses = [file for name, file in files.items() if re.fullmatch(rf"{RUN}/status\.json", name)]
    found = [re.search(rb'"finished_at":\s*"(\d{4}-\d{2}-\d{2})', file.read_bytes()) for file in statuses]
    dates = [match[1].decode() for match in found if match]
    if not dates:
        raise BadInput("runs", "finished_at", None, "run the benchmark first: no status.json says when it ended.")
    return max(dates)
