"""Is a bundle what it says: whatever is derived is derived again and compared, whatever is raw is hashed in a chain.

    outcome = verify(Path("bundle.zip"))
    print(outcome.ok, *outcome.differences, sep="\\n")

A hostile archive raises `BadInput`; whatever else is wrong is named in the outcome, all of it. Nothing is needed but
the bundle and this package. Who makes raw records up consistently is not found: compare `Verification.sums_sha256`
with the one that the publisher gives.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.draw.figures import FORMATS, INDEX, read_figures
from groupppo.draw.wording import plural
from groupppo.errors import BadInput
from groupppo.publish.alike import difference, same_number
from groupppo.publish.archive import LIMITS, Limits
from groupppo.publish.contents import raw_files, say_where_found
from groupppo.publish.derive import derive
from groupppo.publish.evaluations import evaluation_differences
from groupppo.publish.files import ITEMS, STEP_TABLES, SUMS, VERDICTS, Kind, is_picture
from groupppo.publish.reading import read_json, refuse_bomb
from groupppo.publish.records import notes, record_differences
from groupppo.publish.source import RESULTS, Source, loaded_config, opened
from groupppo.publish.sources import Sources
from groupppo.publish.sums import (
    LISTS,
    SAID,
    kinds_in,
    listed_differences,
    read_manifest,
    read_sums,
    sums_differences,
    write_lists,
)
from groupppo.publish.version import made_by
from groupppo.records.hashing import sha256_file
from groupppo.report.figures.sweep import FOLDER as SWEEP

_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    RecursionError,
    NotImplementedError,
)
"""What functions that read a machine's own records may raise on a stranger's."""
_WORDS = ("reason", "items_reason")
"""Of a verdict: how a version tells it."""


@dataclass(frozen=True)
class Difference:
    """Something that is not as the bundle says; texts for a reader.

    Args:
        check: "checksums", "files", "records", "evaluations", "sources", "schemas" or "derived".
        place: file, and what in it.
    """

    check: str
    place: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.check}: {self.place}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Args:
        path: what was verified. kind: "bundle", "unpacked bundle" or "results folder".
        benchmark: its name, empty where it cannot be read.
        checks: what each check covered, by name of the check.
        differences: everything that is wrong; empty when nothing is.
        notes: what the bundle itself says is missing, and which checks could not be made and why.
        not_compared: derived files that differ from this version's, in a bundle that another version made.
        sums_sha256: SHA-256 of the list of checksums, which stands for all contents; empty for a results folder.
    """

    path: Path
    kind: str
    benchmark: str
    checks: dict[str, str]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    not_compared: tuple[str, ...]
    sums_sha256: str

    @property
    def ok(self) -> bool:
        return not self.differences

    @property
    def exit_code(self) -> int:
        """0 when nothing differs, else 1."""
        return 0 if self.ok else 1


class _Findings:
    """Differences, covered checks and notes as they come up."""

    def __init__(self, source: Source):
        self.source = source
        self.differences: list[Difference] = []
        self.checks: dict[str, str] = {}
        self.notes: list[str] = []
        self.not_compared: list[str] = []
        self.manifest: dict[str, Any] = {}

    def compared(self, check: str, covered: str, differences: Iterable[tuple[str, object, object]]) -> None:
        """A check made, with every (place, expected, found) that it yields."""
        before = len(self.differences)
        try:
            for place, expected, found in differences:
                self.differences.append(Difference(check, place, str(expected), str(found)))
        except BadInput as error:
            self.bad(check, error)
        except _ERRORS as error:
            self.differences.append(Difference(check, "records", "records of a run", repr(error)[:300]))
        self.checks[check] = f"{covered}, {plural(len(self.differences) - before, 'difference')}"

    def bad(self, check: str, error: BadInput) -> None:
        told = self.source.told(error)
        found = "nothing" if told.value is None else repr(told.value)[:300]
        self.differences.append(Difference(check, f"{told.file}: {told.key}", told.hint.rstrip("."), found))


def verify(path: Path, limits: Limits = LIMITS, *, pictures: bool = False) -> Verification:
    """Check a bundle, an unpacked bundle or a results folder.

    A results folder has no lists and no sources of its own: it is derived again with the repository's claims, if these
    still are the ones of its verdicts.

    Args:
        pictures: also draw every picture again and compare its pixels, which takes most of the time.

    Raises:
        BadInput: nothing is there, the archive is hostile or damaged, or a folder holds links.
    """
    with opened(path, limits) as source:
        findings, name, digest = _Findings(source), "", ""
        if source.kind == RESULTS:
            findings.notes.append("A results folder has no checksums; they were not checked.")
        else:
            digest = _check_sums(findings)
        if findings.manifest:
            sources = Sources(source.folder, findings.manifest["source"])
            findings.compared("sources", "config, locks and study scripts", sources.check())
            findings.checks["sources"] += f", {sources.checked} as they were copied"
            findings.notes += [sources.unchecked] if sources.unchecked else []
        try:
            for table in (*STEP_TABLES, ITEMS, "pilot/sweep.parquet"):
                if (source.folder / table).is_file():
                    refuse_bomb(source.folder / table)
            with loaded_config(source.folder) as (benchmark, _):
                name = benchmark.name
                files = findings.manifest.get("files", {})
                findings.compared("records", "raw records", record_differences(source.folder, benchmark, files))
                findings.compared("evaluations", "scores", evaluation_differences(source.folder, benchmark))
            findings.compared("derived", "all that is made of raw records", _derived(findings, pictures))
        except BadInput as error:
            findings.bad("schemas", error)
            findings.notes.append("Derived files could not be derived again.")
        found = tuple(findings.differences), tuple(findings.notes), tuple(findings.not_compared)
        return Verification(path, source.kind, name, findings.checks, *found, digest)


def _check_sums(findings: _Findings) -> str:
    folder = findings.source.folder
    try:
        hashes = read_sums(folder)
        findings.compared("checksums", f"SHA-256 of {len(hashes):,} files", sums_differences(folder, hashes))
    except BadInput as error:
        findings.bad("checksums", error)
    try:
        findings.manifest = read_manifest(folder)
        listed = findings.manifest["files"]
        findings.compared("files", f"{len(listed):,} files by kind", listed_differences(folder, listed))
    except BadInput as error:
        findings.bad("schemas", error)
    return sha256_file(folder / SUMS) if (folder / SUMS).is_file() else ""


def _derived(findings: _Findings, pictures: bool) -> Iterator[tuple[str, object, object]]:
    """Make every derived file again in a folder beside the bundle, and compare."""
    folder, other = findings.source.folder, _other_version(findings.manifest)
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        again = Path(place)
        for name in raw_files(folder):
            if not (pictures and is_picture(name)):
                (again / name).parent.mkdir(parents=True, exist_ok=True)
                os.symlink((folder / name).resolve(), again / name)
        say_where_found(folder, again)
        with loaded_config(folder) as (benchmark, claims):
            derive(again, benchmark, claims)
            made = _made(again)
            if findings.manifest:
                told = notes(again)
                findings.notes += told
                said = {key: findings.manifest.get(key) for key in SAID} | {"notes": told}
                write_lists(again, benchmark, _present(folder), said, findings.manifest["files"])
                made |= LISTS
        for name in sorted(made | _derived_in(findings.source)):
            differs = _difference(again / name if name in made else None, folder / name)
            if differs and other and not _is_data(name, again, folder):
                findings.not_compared.append(name)
            elif differs:
                yield name, *differs
    if findings.not_compared:
        findings.notes.append(f"{other}: not compared were {', '.join(findings.not_compared)}.")


def _difference(made: Path | None, found: Path) -> tuple[str, str] | None:
    if made is None:
        return "no such file", "a file"
    return difference(made, found) if found.is_file() else ("a file", "no file")


def _present(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def _made(again: Path) -> set[str]:
    """What was made, and the pictures that it names."""
    made = {name for name, file in _present(again).items() if not file.is_symlink()}
    named = {f"{SWEEP}/sweep.{suffix}" for suffix in FORMATS if f"{SWEEP}/sweep.csv" in made}
    for index in sorted(again.rglob(INDEX)):
        home = index.parent.relative_to(again).as_posix()
        named |= {f"{home}/{file}" for record in read_figures(index.parent) for file in record.files.values()}
    return made | named


def _derived_in(source: Source) -> set[str]:
    kinds = kinds_in(_present(source.folder))
    wanted = (Kind.DERIVED,) if source.kind == RESULTS else (Kind.DERIVED, Kind.LIST)
    return {name for name, kind in kinds.items() if kind in wanted}


def _other_version(manifest: Mapping[str, Any]) -> str:
    """What tells that another version made a bundle; empty for this one, and for a results folder."""
    if not manifest or manifest["made_by"] == made_by():
        return ""
    return f"made by groupppo {manifest['made_by']['groupppo']}, whose code or libraries are not this version's"


def _is_data(name: str, made: Path, found: Path) -> bool:
    """Whether every version derives it alike; the words of pages and verdicts are a version's own."""
    if name == VERDICTS:
        return not _same_values(read_json(made / name), read_json(found / name))
    return name.startswith("tables/") or "/lm_eval/" in name


def _same_values(ours: Any, theirs: Any) -> bool:
    """Whether two records say the same, words and keys that one side does not know apart."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(_same_values(ours[key], theirs[key]) for key in set(ours) & set(theirs) - set(_WORDS))
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same_values, ours, theirs))
    return bool(ours == theirs) or same_number(ours, theirs)
