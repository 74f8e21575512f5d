"""Is a bundle what it says: whatever is derived is derived again and compared, whatever is raw is hashed in a chain.

    outcome = verify(Path("bundle.zip"))
    print(outcome.ok, *outcome.differences, sep="\\n")

Who makes raw records up consistently is not found: compare `Verification.sums_sha256` with the publisher's.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from groupppo.config import Benchmark
from groupppo.config.allowed import VARIABLE
from groupppo.config.things import REWARDS
from groupppo.draw.wording import plural
from groupppo.errors import BadInput
from groupppo.profile import gpu_check
from groupppo.publish import contents
from groupppo.publish.bundle import underived
from groupppo.publish.contents import CONFIG, LISTS, RECORD, SUMS, VERDICTS, Kind, files_in, is_picture
from groupppo.publish.derive import derive, derived_files, made_by
from groupppo.publish.reading import difference, read_json, same_number
from groupppo.publish.records import REWARD_FILE, evaluation_differences, may_judge, notes, record_differences
from groupppo.publish.source import RESULTS, Source, loaded_config, opened, source_differences, why_unchecked
from groupppo.records.hashing import sha256_file
from groupppo.records.plain_json import read_bytes, read_object
from groupppo.records.plain_parquet import refuse_bomb
from groupppo.report.gpu import gpu_page
from groupppo.verdicts.claims import Claims

_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, OSError, RuntimeError)
_MOST_CELLS = 20_000
"""Of the page of a check of a GPU, which has some 5,000."""
"""What functions that read a machine's own records may raise on a stranger's."""
_WORDS = {"reason", "items_reason"}
"""Of a verdict: how a version tells it."""
_DECIDES = {"verdicts", "id", "verdict"}
"""What no version leaves out."""


class Difference(NamedTuple):
    """Something that is not as the bundle says; texts for a reader."""

    check: str  # "checksums", "files", "records", "evaluations", "sources", "schemas" or "derived"
    place: str  # file, and what in it
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.check}: {self.place}: expected {self.expected}, found {self.found}"


@dataclass
class Verification:
    """What `verify` found."""

    path: Path
    kind: str  # "bundle", "unpacked bundle", "results folder" or "GPU check"
    benchmark: str = ""  # its name, empty where it cannot be read
    checks: dict[str, str] = field(default_factory=dict)  # what each covered
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is missing, and which checks could not be made and why
    not_compared: list[str] = field(default_factory=list)  # files of another version's that differ from this one's
    sums_sha256: str = ""  # of the list of checksums, which stands for all contents; empty for a results folder

    @property
    def ok(self) -> bool:
        return not self.differences

    @property
    def exit_code(self) -> int:
        """0 when nothing differs, else 1."""
        return 0 if self.ok else 1


def verify(path: Path, *, pictures: bool = False) -> Verification:
    """Check a bundle, an unpacked bundle, a results folder, or the record of a check of a GPU or its folder.

    A results folder has no lists and no sources of its own: it is derived again with the repository's claims, if these
    still are the ones of its verdicts.

    Args:
        path: what is to be verified.
        pictures: also draw every picture again and compare its pixels, which takes most of the time.

    Raises:
        BadInput: nothing is there, the archive is hostile or damaged, or a folder holds links.
    """
    if path.suffix == ".json" and not path.is_dir():
        return _gpu_check(path)
    record = path / gpu_check.FILE
    # In a bundle or results it is one file too many, which must not stand in for what is there.
    if record.exists() and not any((path / name).exists() for name in (SUMS, RECORD, VERDICTS)):
        return _gpu_check(record)
    with opened(path) as source:
        return _Check(source).all(pictures)


def _gpu_check(file: Path) -> Verification:
    """A record of `groupppo gpu-check`: its seal, what its numbers decide, and the page beside it, made again.

    Raises:
        BadInput: it is no such record, larger than one can be, or it or the page is a link.
    """
    hint, page = "run `groupppo gpu-check` again: this is no record that it wrote.", file.with_name("report.html")
    for each in (file, page):
        if each.is_symlink():
            raise BadInput(each, "file", "a link", hint)
    content = read_object(file, hint)
    try:
        record = msgspec.convert(content, gpu_check.Record, strict=True)
    except msgspec.ValidationError as error:
        raise BadInput(file, "file", str(error), hint) from error
    if (record.format, record.version) != (gpu_check.FORMAT, gpu_check.VERSION):
        raise BadInput(file, "version", record.version, f"this command reads version {gpu_check.VERSION}.")
    # A page has a cell for each row and column: of megabytes of short ones it would be gigabytes.
    cells = len(record.took) + len(record.rows) * (1 + len({key for row in record.rows for key in row.numbers}))
    if cells > _MOST_CELLS:
        raise BadInput(file, "rows", len(record.rows), f"refused: their page has more than {_MOST_CELLS:,} cells.")
    compared: dict[str, list[tuple[str, object, object]]] = {
        "checksums": [("sha256", gpu_check.digest(content), record.sha256)],
        "schemas": [("keys", json.loads(json.dumps(asdict(record))), content)],
        "derived": [("answer", gpu_check.answer(record.rows), record.answer)],
    }
    compared["derived"] += [(f"{row.check}: {row.name}", gpu_check.decided(row), row) for row in record.rows]
    if page.exists():
        same = read_bytes(page, hint) == gpu_page(record).encode()
        compared["derived"].append((page.name, "this record's page", "this record's page" if same else "another"))
    outcome = Verification(file, "GPU check", sums_sha256=record.sha256)
    for check, pairs in compared.items():
        differ = [(place, str(made)[:300], str(found)[:300]) for place, made, found in pairs if made != found]
        outcome.differences += [Difference(check, *each) for each in differ]
        outcome.checks[check] = f"{plural(len(pairs), 'comparison')}, {plural(len(differ), 'difference')}"
    return outcome


class _Check:
    """One verification, step by step; what each step finds goes into `outcome`."""

    def __init__(self, source: Source):
        self.source, self.folder = source, source.folder
        self.outcome = Verification(source.path, source.kind)
        self.manifest: dict[str, Any] = {}

    def all(self, pictures: bool) -> Verification:
        """Lists against files, sources against the repository, raw records against one another, and all that is derived
        against what is made of them now."""
        if self.source.kind == RESULTS:
            self.outcome.notes.append("A results folder has no checksums; they were not checked.")
        else:
            self.lists()
        if self.manifest:
            self.sources()
        try:
            for table in (*contents.STEP_TABLES, contents.ITEMS, "pilot/sweep.parquet"):
                if (self.folder / table).is_file():
                    refuse_bomb(self.folder / table)
            with loaded_config(self.folder) as (benchmark, claims):
                self.outcome.benchmark = benchmark.name
                self.compare("records", "raw records", record_differences(self.folder, benchmark))
                self.not_judged(benchmark)
                self.compare("evaluations", "scores", evaluation_differences(self.folder, benchmark))
                again = self.derived(benchmark, claims, pictures)
                self.compare("derived", "all that is made of raw records", again)
        except BadInput as error:
            self.unusable("schemas", error)
            self.outcome.notes.append("Derived files could not be derived again.")
        return self.outcome

    def lists(self) -> None:
        """Every file is the one that SHA256SUMS and manifest.json list, and of a kind that bundles have."""
        names = sorted(files_in(self.folder))
        if SUMS in names:
            self.outcome.sums_sha256 = sha256_file(self.folder / SUMS)
        self.compare("checksums", f"SHA-256 of {len(names):,} files", contents.sums_differences(self.folder))
        try:
            self.manifest = contents.read_manifest(self.folder)
        except BadInput as error:
            self.unusable("schemas", error)
        listed = contents.listed_differences(self.folder, self.manifest.get("files"))
        self.compare("files", f"{len(names):,} files by kind", listed)

    def sources(self) -> None:
        """Config, locks and study scripts are what the matrix says, and what lies in the commit that is named."""
        unchecked = why_unchecked(self.manifest["source"])
        commit = "" if unchecked else str(self.manifest["source"]["commit"])
        covered = "config, locks and study scripts" + (f", by commit {commit[:12]}" if commit else "")
        self.compare("sources", covered, source_differences(self.folder, commit))
        if unchecked:
            self.outcome.notes.append(f"Sources that were copied are unchecked: {unchecked}")

    def not_judged(self, benchmark: Benchmark) -> None:
        """Say of which tasks no response is judged again, because their reward is somebody's code."""
        for task in benchmark.tasks.values():
            if not may_judge(task):
                self.outcome.notes.append(
                    f"Responses of task {task.name} are not judged again: its reward is the author's Python, "
                    f"{CONFIG}/{REWARDS}/{task.reward_file}, which nobody allows: {VARIABLE}={REWARD_FILE}."
                )

    def derived(self, benchmark: Benchmark, claims: Claims, pictures: bool) -> Iterator[contents.Difference]:
        """Every derived file, made again in a folder beside the bundle.

        Another version decides verdicts and data alike. Its pages and pictures are not this one's: those that differ
        are named as not compared.
        """
        other = bool(self.manifest) and self.manifest["made_by"] != made_by()
        with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
            again = Path(place)
            for name in underived(self.folder):
                if not (pictures and is_picture(name)):
                    (again / name).parent.mkdir(parents=True, exist_ok=True)
                    os.symlink((self.folder / name).resolve(), again / name)
            derive(again, benchmark, claims)
            made = derived_files(again)
            if self.manifest:
                told = notes(again)
                self.outcome.notes += told
                said = {key: self.manifest.get(key) for key in contents.SAID} | {"notes": told}
                contents.write_lists(again, benchmark, files_in(self.folder), said)
                made |= LISTS
            asked = {Kind.DERIVED} if self.source.kind == RESULTS else {Kind.DERIVED, Kind.LIST}
            there = {name for name, kind in contents.kinds_in(files_in(self.folder)).items() if kind in asked}
            for name in sorted(made | there):
                if name in made and (self.folder / name).is_file():
                    differs = difference(again / name, self.folder / name)
                else:
                    differs = ("a file", "no file") if name in made else ("no such file", "a file")
                if differs and other and not _is_data(name, again, self.folder):
                    self.outcome.not_compared.append(name)
                elif differs:
                    yield name, *differs
        if self.outcome.not_compared:
            version = f"made by groupppo {self.manifest['made_by']['groupppo']}, whose code or libraries are not this"
            names = ", ".join(self.outcome.not_compared)
            self.outcome.notes.append(f"{version} version's: not compared were {names}.")

    def compare(self, check: str, covered: str, differences: Iterable[contents.Difference]) -> None:
        """Note a check, and every difference that it yields."""
        before = len(self.outcome.differences)
        try:
            for place, expected, found in differences:
                self.outcome.differences.append(Difference(check, place, str(expected), str(found)))
        except BadInput as error:
            self.unusable(check, error)
        except _ERRORS as error:
            self.outcome.differences.append(Difference(check, "records", "records of a run", repr(error)[:300]))
        self.outcome.checks[check] = f"{covered}, {plural(len(self.outcome.differences) - before, 'difference')}"

    def unusable(self, check: str, error: BadInput) -> None:
        """Note a file that nobody can use."""
        error = self.source.placed(error)
        found = "nothing" if error.value is None else repr(error.value)[:300]
        self.outcome.differences.append(Difference(check, f"{error.file}: {error.key}", error.hint.rstrip("."), found))


def _is_data(name: str, made: Path, found: Path) -> bool:
    """Whether every version derives a file alike; of verdicts, whether they decide otherwise."""
    if name == VERDICTS and (found / name).is_file():
        return not same_verdicts(read_json(made / name), read_json(found / name))
    return name == VERDICTS or name.startswith(("tables/", "profile/tables/")) or "/lm_eval/" in name


def same_verdicts(ours: Any, theirs: Any) -> bool:
    """Whether two records say the same, words and keys that one side does not know apart."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        same = (same_verdicts(ours[key], theirs[key]) for key in set(ours) & set(theirs) - _WORDS)
        return not _DECIDES & (set(ours) ^ set(theirs)) and all(same)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_verdicts, ours, theirs))
    return bool(ours == theirs) or same_number(ours, theirs)
