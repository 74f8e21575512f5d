"""Is a bundle what it says: checksums, schemas, and verdicts decided again from its own tables with its own claims.

    outcome = verify(Path("bundle.zip"))
    print(outcome.ok, *outcome.differences, sep="\\n")

A hostile archive raises `BadInput`; whatever else is wrong is named in the outcome, all of it. Nothing is needed but
the bundle and this package. The checksums show damage and careless changes; someone who changes files and checksums
together is found where files contradict each other: verdicts and tables, page and verdicts, rows and the records of
runs. Against one who changes all of them, compare `Verification.sums_sha256` with the one that the publisher gives.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish.archive import LIMITS, Limits
from groupppo.publish.crate import METADATA, PROFILE
from groupppo.publish.reading import read_json, refuse_bomb, safe_tables, safe_variants
from groupppo.publish.rows import evaluation_differences, run_differences, same_number
from groupppo.publish.shown import shown_differences
from groupppo.publish.source import RESULTS, Source, loaded_config, opened
from groupppo.publish.sums import SUMS, read_manifest, read_sums, sums_differences
from groupppo.report.wording import plural
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.engine import decide
from groupppo.verdicts.item_scores import ITEMS
from groupppo.verdicts.needed import needed
from groupppo.verdicts.studied import read_studied

PROFILE_FOLDER = "profile"
"""Where a results folder keeps the costs of an update that its benchmark names."""
_DECIDED = ("verdict", "seeds", "seeds_needed")
_CLAIMED = ("claim", "source", "reading", "arm", "quantity", "margin")
"""What a verdict repeats of its claim."""
_ELSEWHERE = "elsewhere"
_NUMBERS = ("estimate", "low", "high")


@dataclass(frozen=True)
class Difference:
    """Something that is not as the bundle says; texts for a reader.

    Args:
        check: "checksums", "metadata", "schemas", "verdicts", "report", "runs", "evaluations" or "provenance".
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
        sums_sha256: SHA-256 of the list of checksums, which stands for all contents; empty for a results folder.
    """

    path: Path
    kind: str
    benchmark: str
    checks: dict[str, str]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
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
        self.manifest: dict[str, Any] = {}

    def bad(self, check: str, error: BadInput) -> None:
        told = self.source.told(error)
        found = "nothing" if told.value is None else repr(told.value)[:300]
        self.differences.append(Difference(check, f"{told.file}: {told.key}", told.mend.rstrip("."), found))

    def compared(self, check: str, covered: str, differences: Iterable[tuple[str, object, object]]) -> None:
        """A check made, with every (place, expected, found) that it yields."""
        before = len(self.differences)
        try:
            for place, expected, found in differences:
                self.differ(check, place, expected, found)
        except BadInput as error:
            self.bad(check, error)
            return
        self.checks[check] = f"{covered}, {plural(len(self.differences) - before, 'difference')}"

    def differ(self, check: str, place: str, expected: object, found: object) -> None:
        self.differences.append(Difference(check, place, str(expected), str(found)))


def verify(path: Path, limits: Limits = LIMITS) -> Verification:
    """Check a bundle, an unpacked bundle or a results folder.

    A results folder has no checksums and no config of its own: its verdicts are decided again with the repository's
    claims, if these still are the ones of its verdicts.

    Raises:
        BadInput: nothing is there, the archive is hostile or damaged, or a folder holds links.
    """
    with opened(path, limits) as source:
        findings, name, digest = _Findings(source), "", ""
        if source.kind == RESULTS:
            findings.notes.append("A results folder has no checksums; they were not checked.")
        else:
            digest = _check_sums(findings)
            _check_metadata(findings)
        try:
            with loaded_config(source.folder) as (benchmark, claims):
                name = benchmark.name
                _check_contents(findings, benchmark, claims)
        except BadInput as error:
            findings.bad("schemas", error)
        _check_provenance(findings)
        differences, notes = tuple(findings.differences), tuple(findings.notes)
        return Verification(path, source.kind, name, findings.checks, differences, notes, digest)


def _check_sums(findings: _Findings) -> str:
    folder = findings.source.folder
    try:
        hashes = read_sums(folder)
        for name, expected, found in sums_differences(folder, hashes):
            findings.differ("checksums", name, expected, found)
        findings.checks["checksums"] = f"SHA-256 of {len(hashes):,} files"
    except BadInput as error:
        findings.bad("checksums", error)
    try:
        findings.manifest = read_manifest(folder)
        findings.notes += findings.manifest["notes"]
    except BadInput as error:
        findings.bad("schemas", error)
    return sha256_file(folder / SUMS) if (folder / SUMS).is_file() else ""


def _check_metadata(findings: _Findings) -> None:
    """RO-Crate 1.1: a descriptor, a root data set, and every file and folder of it at its place."""
    folder = findings.source.folder
    try:
        graph = read_json(folder / METADATA).get("@graph")
    except BadInput as error:
        findings.bad("metadata", error)
        return
    entities = [entity for entity in graph if isinstance(entity, dict)] if isinstance(graph, list) else []
    by_id = {entity["@id"]: entity for entity in entities if isinstance(entity.get("@id"), str)}
    conforms = by_id.get(METADATA, {}).get("conformsTo")
    if conforms != {"@id": PROFILE}:
        findings.differ("metadata", f"{METADATA}: conformsTo", PROFILE, conforms)
    if by_id.get("./", {}).get("@type") != "Dataset":
        findings.differ("metadata", f"{METADATA}: ./", "a root data set", by_id.get("./", {}).get("@type"))
    parts = [entity for key, entity in by_id.items() if entity.get("@type") in ("File", "Dataset") and key != "./"]
    present = {file.relative_to(folder).as_posix() + "/" * file.is_dir(): file for file in folder.rglob("*")}
    for entity in parts:
        place = present.get(entity["@id"])
        if place is None:
            findings.differ("metadata", f"{METADATA}: {entity['@id']}", "in the bundle", "nothing")
        elif "sha256" in entity and place.is_file() and entity["sha256"] != (found := sha256_file(place)):
            findings.differ("metadata", f"{METADATA}: {entity['@id']}", f"SHA-256 {entity['sha256']}", found)
    findings.checks["metadata"] = f"RO-Crate entities of {len(parts):,} files and folders"


def _check_contents(findings: _Findings, benchmark: Benchmark, claims: Claims) -> None:
    folder = findings.source.folder
    try:
        tables = safe_tables(folder / "tables", needed(claims, benchmark))
        variants = safe_variants(folder / PROFILE_FOLDER) if benchmark.profile else None
        if (folder / ITEMS).is_file():
            refuse_bomb(folder / ITEMS)
        studied = read_studied(folder, benchmark, claims)
        judged = read_json(folder / "verdicts.json")
    except BadInput as error:
        findings.bad("schemas", error)
        findings.notes.append("Verdicts could not be decided again.")
        return
    findings.checks["schemas"] = "matrix, models, tasks, arms, claims and the columns of every table"
    try:
        decided = decide(claims, tables, benchmark, variants, studied)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Tables of the right columns may still hold what no run writes.
        findings.differ("verdicts", "tables", "tables that verdicts can be decided from", repr(error)[:300])
        return
    verdicts = [(f"verdicts.json: {place}", a, b) for place, a, b in verdict_differences(decided, judged)]
    count = len(decided["verdicts"])
    findings.compared("verdicts", f"{count} verdicts decided again", verdicts)
    findings.compared(
        "report", f"{count} verdicts as the page shows them", shown_differences(folder, decided["verdicts"])
    )
    findings.compared("runs", f"{len(tables.runs):,} rows against the runs", run_differences(folder, tables.runs))
    evaluated = evaluation_differences(folder, tables, benchmark)
    findings.compared("evaluations", f"{len(tables.evals):,} rows against the results they come from", evaluated)


def verdict_differences(decided: dict[str, Any], judged: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
    """(place, decided again, as published) of all that differs between two contents of verdicts.json.

    Compared by claim, task and model: what the claim says, verdict, seeds, seeds needed, estimate, interval and where
    the evidence is from; and level, claims and the excluded runs. Reasons are not compared, nor are keys that one side
    does not know.
    """
    for key in ("benchmark", "claims_sha256", "level"):
        if judged.get(key) != decided[key]:
            yield key, decided[key], judged.get(key)
    ours, theirs = _by_claim(decided.get("verdicts")), _by_claim(judged.get("verdicts"))
    listed = judged.get("verdicts")
    if isinstance(listed, list) and len(listed) != len(theirs):
        yield "verdicts", f"{len(theirs)} different ones", f"{len(listed)} entries"
    for claim in sorted(set(ours) | set(theirs)):
        place = " ".join(claim)
        if claim not in theirs or claim not in ours:
            yield place, *(("a verdict", "none") if claim in ours else ("no such verdict", "a verdict"))
            continue
        for key in (*_CLAIMED, *_DECIDED):
            if theirs[claim].get(key) != ours[claim][key]:
                yield f"{place} {key}", ours[claim][key], theirs[claim].get(key)
        # Verdicts of before it was recorded do not know the key.
        if theirs[claim].get(_ELSEWHERE, ours[claim][_ELSEWHERE]) != ours[claim][_ELSEWHERE]:
            yield f"{place} {_ELSEWHERE}", ours[claim][_ELSEWHERE], theirs[claim][_ELSEWHERE]
        for key in _NUMBERS:
            if not same_number(ours[claim][key], theirs[claim].get(key)):
                yield f"{place} {key}", ours[claim][key], theirs[claim].get(key)
    sides = [_excluded(side.get("excluded")) for side in (decided, judged)]
    for run in sorted(sides[0] ^ sides[1]):
        yield f"excluded {' '.join(run)}", *(("excluded", "not") if run in sides[0] else ("not excluded", "excluded"))


def _by_claim(verdicts: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    entries = [entry for entry in verdicts if isinstance(entry, dict)] if isinstance(verdicts, list) else []
    return {(str(e.get("id")), str(e.get("task")), str(e.get("model"))): e for e in entries}


def _excluded(runs: Any) -> set[tuple[str, ...]]:
    entries = [entry for entry in runs if isinstance(entry, dict)] if isinstance(runs, list) else []
    return {tuple(str(entry.get(key)) for key in ("task", "model", "arm", "seed")) for entry in entries}


def _check_provenance(findings: _Findings) -> None:
    """Every run's config is the one that its provenance names by hash, scrubbed or not."""
    folder, scrubbed, compared = findings.source.folder, findings.manifest.get("scrubbed", {}), 0
    for file in sorted(folder.glob("runs/*/*/*/*/provenance.json")):
        try:
            inputs = read_json(file).get("inputs")
        except BadInput as error:
            findings.bad("provenance", error)
            continue
        config = file.with_name("config.yaml")
        recorded = inputs.get("config_sha256") if isinstance(inputs, dict) else None
        if recorded is None or not config.is_file():
            continue
        name = config.relative_to(folder).as_posix()
        found = scrubbed[name].get("original_sha256") if name in scrubbed else sha256_file(config)
        if found != recorded:
            findings.differ("provenance", name, f"SHA-256 {recorded} before scrubbing", found)
        compared += 1
    findings.checks["provenance"] = f"configs of {compared:,} runs against the hashes that the runs recorded"
