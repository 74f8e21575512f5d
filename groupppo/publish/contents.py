"""What each file of a bundle is, and the lists that say so: manifest.json, RO-Crate metadata and SHA256SUMS.

Raw files are what runs, evaluations and measurements recorded; nothing can make them again. Derived files are made from
them by the functions that the workflow uses. Sources were copied from the repository, or written from benchmark.yaml.
Lists are made of the files that they list: manifest.json says of every other file what it is and its SHA-256;
`sha256sum --check SHA256SUMS` needs no package. A file that no rule knows belongs into no bundle.
"""

import json
import mimetypes
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.records.hashing import sha256_file
from groupppo.records.plain_json import read_bytes, read_object, value_at
from groupppo.records.plain_yaml import read_yaml
from groupppo.records.seal import STAMP

Difference = tuple[str, object, object]
"""Place, what is expected there, and what was found."""


class Kind(StrEnum):
    """Where a file's content comes from."""

    RAW = "raw"
    DERIVED = "derived"
    SOURCE = "source"
    LIST = "list"


class Scrub(StrEnum):
    """How the absolute paths of a raw file are taken out before it is published."""

    RECORD = "record"
    SAMPLES = "samples"
    TABLE = "table"
    NONE = "none"


@dataclass(frozen=True)
class Rule:
    """Files whose whole name matches `pattern`; `weights` are packed where they are asked for only."""

    pattern: str
    kind: Kind
    scrub: Scrub = Scrub.NONE
    weights: bool = False


_NAME = r"[^/]+"
RUN = rf"runs/{_NAME}/{_NAME}/{_NAME}/{_NAME}"
_START = rf"assets/starts/{_NAME}/{_NAME}"
_EVALUATION = rf"evals/{_NAME}/{_NAME}/(?:start|{_NAME}/{_NAME})"
_WEIGHTS = r"(?:safetensors|json|jinja|txt|model)"
RECORD, VERDICTS, ITEMS, CONFIG = "benchmark.yaml", "verdicts.json", "evals/items.parquet", "config"
LOCKS = ("requirements/cpu.lock", "requirements/gpu.lock", "environment.yml", "environment.post-deploy.sh")
RIGHTS = ("LICENSE", "CITATION.cff")
MANIFEST, METADATA, SUMS = "manifest.json", "ro-crate-metadata.json", "SHA256SUMS"
LISTS = {MANIFEST, METADATA, SUMS}
STEP_TABLES = ("tables/steps.parquet", "tables/stages.parquet")
"""Raw where no run has steps.jsonl: bundles of before they were packed."""

RULES = (
    Rule(rf"{RECORD}|{STAMP}", Kind.RAW, Scrub.RECORD),
    Rule(rf"{RUN}/(?:failed/)?(?:status\.json|provenance\.json|config\.yaml)", Kind.RAW, Scrub.RECORD),
    Rule(rf"{RUN}/(?:failed/)?(?:steps|stages)\.jsonl", Kind.RAW),
    Rule(rf"{RUN}/(?:checkpoint|critic)/(?:.+/)?config\.json", Kind.RAW, Scrub.RECORD, weights=True),
    Rule(rf"{RUN}/(?:checkpoint|critic)/.+\.{_WEIGHTS}", Kind.RAW, weights=True),
    Rule(rf"{_EVALUATION}/(?:result|results_{_NAME})\.json", Kind.RAW, Scrub.RECORD),
    Rule(rf"{_EVALUATION}/samples_{_NAME}\.jsonl", Kind.RAW, Scrub.SAMPLES),
    Rule(re.escape(ITEMS), Kind.RAW),
    Rule(rf"assets/tasks/{_NAME}/card\.json", Kind.RAW, Scrub.RECORD),
    Rule(rf"{_START}/warmstart\.jsonl?", Kind.RAW, Scrub.RECORD),
    Rule(rf"{_START}/config\.json", Kind.RAW, Scrub.RECORD, weights=True),
    Rule(rf"{_START}/.+\.{_WEIGHTS}", Kind.RAW, weights=True),
    Rule(rf"studies/{_NAME}/{_NAME}/(?:study\.json|{_NAME}\.csv)", Kind.RAW, Scrub.RECORD),
    Rule(rf"profile/(?:measured/{_NAME}|found)\.json", Kind.RAW, Scrub.RECORD),
    Rule(r"pilot/benchmark\.yaml", Kind.RAW, Scrub.RECORD),
    Rule(r"pilot/sweep\.parquet", Kind.RAW, Scrub.TABLE),
    Rule(rf"tables/{_NAME}\.parquet", Kind.DERIVED),
    Rule(rf"{_EVALUATION}/lm_eval/{_NAME}\.yaml", Kind.DERIVED),
    Rule(rf"{VERDICTS}|report\.html|report\.md", Kind.DERIVED),
    Rule(rf"profile/tables/{_NAME}\.(?:csv|parquet)", Kind.DERIVED),
    Rule(rf"(?:profile/|studies/{_NAME}/{_NAME}/)?figures/{_NAME}\.(?:csv|svg|png|json)", Kind.DERIVED),
    Rule(r"pilot/sweep\.(?:csv|svg|png)", Kind.DERIVED),
    Rule("|".join(map(re.escape, (*LOCKS, *RIGHTS))), Kind.SOURCE),
    Rule(rf"{CONFIG}/.+\.(?:yaml|py)", Kind.SOURCE),
    Rule("|".join(map(re.escape, sorted(LISTS))), Kind.LIST),
)
_PATTERNS = tuple((re.compile(rule.pattern), rule) for rule in RULES)


def rule_of(name: str) -> Rule | None:
    """The first rule that knows the file; None for a file that belongs into no bundle."""
    return next((rule for pattern, rule in _PATTERNS if pattern.fullmatch(name)), None)


def is_picture(name: str) -> bool:
    """Whether it is drawn: its pixels depend on the drawing library, its numbers are in a CSV file beside it."""
    return name.endswith((".svg", ".png"))


def files_in(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its name from there."""
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def kinds_in(names: Iterable[str]) -> dict[str, str]:
    """What each file is in a bundle of these files; "unknown" for one that belongs into no bundle."""
    kinds = {name: str(rule.kind) if (rule := rule_of(name)) else "unknown" for name in names}
    steps = any(name.endswith("/steps.jsonl") for name in kinds)
    return kinds if steps else kinds | {name: str(Kind.RAW) for name in STEP_TABLES if name in kinds}


FORMAT, FORMAT_VERSION = "groupppo bundle", 2
SAID = ("made_by", "source", "checkpoints", "samples", "notes")
"""What manifest.json says beside its files."""
OF_A_FILE = ("paths", "original_sha256")
"""Of a file whose paths were taken out: how many there were, and its SHA-256 before."""
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.@+=,/-]*)")


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
        benchmark: the bundle's.
        files: every file of the bundle by name; lists among them are left out.
        said: what the manifest says beside its files: SAID.
        of_files: by name, what it says of a file beside kind and hash: OF_A_FILE.
    """
    files = {name: files[name] for name in sorted(files) if name not in LISTS}
    hashes = {name: sha256_file(file) for name, file in files.items()}
    listed = {
        name: {"kind": kind, "sha256": hashes[name]}
        | {key: value for key, value in of_files.get(name, {}).items() if key in OF_A_FILE}
        for name, kind in kinds_in(files).items()
    }
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


def sums_differences(folder: Path, hashes: Mapping[str, str]) -> Iterator[Difference]:
    """Every file that is missing, changed or not listed.

    Args:
        folder: the bundle's.
        hashes: SHA-256 by name, as `read_sums` gives them.
    """
    present = {name: sha256_file(file) for name, file in files_in(folder).items() if name != SUMS}
    for name in sorted({*hashes, *present}):
        if hashes.get(name) != present.get(name):
            yield name, hashes.get(name, f"no file: {SUMS} does not list it"), present.get(name, "no file")


def listed_differences(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    """Every file that is not in the manifest, with its kind and hash, or that belongs into no bundle.

    Args:
        folder: the bundle's.
        listed: what the manifest says of each file.
    """
    files = {name: file for name, file in files_in(folder).items() if name not in LISTS}
    kinds = kinds_in(files)
    for name in sorted({*files, *listed}):
        told = {key: value for key, value in listed.get(name, {}).items() if key not in OF_A_FILE}
        found = {"kind": kinds[name], "sha256": sha256_file(files[name])} if name in files else "no file"
        if told != found or kinds[name] == "unknown":
            yield name, told or f"no file: {MANIFEST} does not list it", found


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
    files, made = manifest.get("files"), value_at(manifest, "made_by", "groupppo")
    listed = isinstance(files, dict) and all(isinstance(entry, dict) for entry in files.values())
    if not listed or not isinstance(made, str) or not isinstance(manifest.get("source"), dict):
        raise BadInput(file, "files, made_by, source", None, "fetch it again: it says not what a manifest says.")
    return manifest


_FORMATS = {".parquet": "application/vnd.apache.parquet", ".jsonl": "application/jsonl", ".yaml": "application/yaml"}
_NAMES = {
    "report.html": "The report: verdicts first, then all that they rest on",
    "verdicts.json": "Every claim with its verdict, interval and evidence",
    "benchmark.yaml": "The matrix of models, tasks, arms and seeds, resolved",
    "manifest.json": "What every file is, what was left out or scrubbed, and notes on the runs",
    "SHA256SUMS": "SHA-256 of every file",
}


def _crate(benchmark: Benchmark, files: Mapping[str, Path], hashes: Mapping[str, str], version: str) -> str:
    """The text of ro-crate-metadata.json: https://www.researchobject.org/ro-crate/specification/1.1/.

    Runs and evaluations are described by folder, all other files one by one; SHA256SUMS, which holds this file's hash,
    without size and hash. Nothing in it depends on the clock, on chance or on where the results lie.

    Raises:
        BadInput: no run says when it ended.
    """
    crate, date = ROCrate(version="1.1"), _last_date(files)

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
    root["datePublished"] = date
    citation = read_yaml(files["CITATION.cff"]) if "CITATION.cff" in files else None
    words = citation.get("keywords") if isinstance(citation, dict) else None
    root["keywords"] = ", ".join(map(str, words)) if isinstance(words, list) else ""
    root["license"] = entity("https://spdx.org/licenses/Apache-2.0", "CreativeWork", name="Apache License 2.0")
    root["author"] = entity("#authors", "Organization", name="The GROUP-PPO bench authors")
    software = entity("#groupppo", "SoftwareApplication", name="groupppo", softwareVersion=version)
    by_folder = {name for name in files if name.split("/")[0] in ("runs", "evals")}
    for name in sorted({*files, SUMS} - by_folder):
        suffix = posixpath.splitext(name)[1]
        form = _FORMATS.get(suffix) or mimetypes.types_map.get(suffix, "text/plain")
        properties = {"name": _NAMES.get(name, posixpath.basename(name)), "encodingFormat": form}
        if name in files:
            properties |= {"contentSize": str(files[name].stat().st_size), "sha256": hashes[name]}
        crate.add_file(dest_path=name, properties=properties)
    for folder in sorted({posixpath.dirname(name) for name in by_folder}):
        crate.add_dataset(dest_path=folder, properties={"name": folder})
    action = entity("#benchmark", "CreateAction", name=f"The benchmark {benchmark.name}", endTime=date)
    action["instrument"], action["object"] = software, crate.get("benchmark.yaml")
    action["result"] = crate.get("verdicts.json")
    root["mentions"] = action
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _last_date(files: Mapping[str, Path]) -> str:
    """When the last run ended, as YYYY-MM-DD: a date of the results themselves, not of their packing."""
    dates = []
    for file in (file for name, file in files.items() if re.fullmatch(rf"{RUN}/status\.json", name)):
        try:
            end = read_object(file, "run it again.").get("finished_at")
        except BadInput:  # a broken run left it: the tables name that run and its fault
            continue
        if isinstance(end, str) and re.match(r"\d{4}-\d{2}-\d{2}", end):
            dates.append(end[:10])
    if not dates:
        raise BadInput("runs", "finished_at", None, "run the benchmark first: no status.json says when it ended.")
    return max(dates)
