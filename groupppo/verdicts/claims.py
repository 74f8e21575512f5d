"""Claims under test: data of benchmarks/claims/, never code. Files that a benchmark names together are one set."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from groupppo.config.files import read_form
from groupppo.config.forms import ClaimEntry, ClaimsFile, Region
from groupppo.errors import BadInput, suggest
from groupppo.records.hashing import sha256_file
from groupppo.update.variants import find
from groupppo.verdicts.quantities import COSTS, QUANTITIES, SHARES, Cost, Quantity, Sample, Share

FOLDER, REFERENCE = "claims", "reference"
SHARED = ("level", "power", "learning_metric")
"""What all claims that a benchmark names have in common."""
EQUIVALENCE = "equivalence"
_KNOWN: dict[str, Quantity | Cost | Share] = {**QUANTITIES, **COSTS, **SHARES}


@dataclass(frozen=True)
class Claim(ClaimEntry):
    """One claim; `ClaimEntry` describes the attributes."""

    @property
    def region(self) -> Region:
        """What the interval is held against: the claimed region widened by the margin."""
        margin = self.margin or 0.0
        return Region(self.claimed.low - margin, self.claimed.high + margin)

    @property
    def about(self) -> Quantity | Cost | Share:
        """What it measures: of training runs, of a profile, or counted in a study's table."""
        return _KNOWN[self.quantity]

    @property
    def measured(self) -> Quantity:
        """What it measures of training runs, for a claim about these."""
        return QUANTITIES[self.quantity]

    @property
    def variant_rows(self) -> str:
        """Its row of the table `variants` as a `DataFrame.query` expression: the evidence that a verdict names."""
        return f"setting == {self.setting!r} and variant == {self.variant!r}"

    def compared(self, reference: str) -> str | None:
        """The arm it is paired with, `reference` resolved."""
        return reference if self.against == REFERENCE else self.against

    def sample(self, task: str, model: str, reference: str) -> Sample:
        stage, metrics = self.measured.stage or self.stage, self.measured.metrics
        against = self.compared(reference)
        return Sample(task, model, self.arm, against, stage, self.metric, self.warmup_steps, metrics)


@dataclass(frozen=True)
class Claims:
    """All claims of a benchmark's files, with the confidence, power and learning metric they share."""

    level: float
    power: float
    learning_metric: str
    claims: tuple[Claim, ...]
    sources: tuple[Path, ...]
    sha256: str


def load_claims(files: str | Path | Sequence[Path]) -> Claims:
    """Read one claims file or several as one set; check each against its form, the quantities and the others.

    Raises:
        BadInput: a key, quantity or rule is unknown, an id is written twice, an arm has no file, a region is empty, a
            claim lacks (or has too many of) the keys its quantity and rule need, or files differ in what claims share.
    """
    paths = (Path(files),) if isinstance(files, str | Path) else tuple(files)
    # Every figure and verdict asks for them, and reading them takes half a second.
    return _read(paths, claims_sha256(paths) or "", tuple(map(_arms, paths)))


@lru_cache(maxsize=8)
def _read(paths: tuple[Path, ...], sha256: str, arms: tuple[tuple[str, ...], ...]) -> Claims:
    first, *others = files = [read_form(path, ClaimsFile) for path in paths]
    for path, file, known in zip(paths, files, arms, strict=True):
        for fault in _faults(path, file, known):
            raise fault
    seen = {entry.id: paths[0] for entry in first.claims}
    for path, file in zip(paths[1:], others, strict=True):
        for key in SHARED:
            if (found := getattr(file, key)) != (theirs := getattr(first, key)):
                hint = f"write {theirs}, as {paths[0]} has it: claims that a benchmark names together share it."
                raise BadInput(path, key, found, hint)
        for index, entry in enumerate(file.claims):
            if entry.id in seen:
                hint = f"write another id: {seen[entry.id]} has it, and a benchmark names both files."
                raise BadInput(path, f"claims.{index}.id", entry.id, hint)
            seen[entry.id] = path
    claims = tuple(Claim(**vars(entry)) for file in files for entry in file.claims)
    return Claims(first.level, first.power, first.learning_metric, claims, paths, sha256)


def claims_sha256(paths: Sequence[Path]) -> str | None:
    """SHA-256 of a claims file; of several that of their hashes, in their order. None where one is missing."""
    if not all(path.is_file() for path in paths):
        return None
    hashes = [sha256_file(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def claims_faults(path: Path) -> Iterator[BadInput]:
    """What is wrong with each claim of a file whose keys are sound."""
    return _faults(path, read_form(path, ClaimsFile), _arms(path))


def arms_folder(path: Path) -> Path:
    """Where the arms are that a claims file names: arms/ beside it, or beside the folder claims/ that it is in."""
    return (path.parent.parent if path.parent.name == FOLDER else path.parent) / "arms"


def _arms(path: Path) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in arms_folder(path).glob("*.yaml")))


def _faults(path: Path, file: ClaimsFile, arms: tuple[str, ...]) -> Iterator[BadInput]:
    seen = set[str]()
    for index, entry in enumerate(file.claims):
        # What else is right depends on the first.
        for key, value, hint in islice(_complaints(entry, arms_folder(path), arms), 1):
            yield BadInput(path, f"claims.{index}.{key}", value, hint)
        if entry.id in seen:
            yield BadInput(path, f"claims.{index}.id", entry.id, "give each claim an id of its own.")
        seen.add(entry.id)


def _complaints(entry: ClaimEntry, folder: Path, arms: tuple[str, ...]) -> Iterator[tuple[str, object, str]]:
    """(key, value, hint) of what does not fit the quantity or the rule of a claim."""
    name, about = entry.quantity, _KNOWN.get(entry.quantity)
    if about is None:
        yield "quantity", name, f"{suggest(name, _KNOWN)}Known: {', '.join(_KNOWN)}."
        return
    needs = (
        about.needs
        if isinstance(about, Quantity)
        else {"setting", "variant"}
        if isinstance(about, Cost)
        else frozenset()
    )
    for key in ("against", "stage", "metric", "setting", "variant"):
        value = getattr(entry, key)
        if key in needs and value is None:
            yield key, None, f"state the {key}: {name} is measured by it."
        if key not in needs and value is not None:
            yield key, value, f"remove it: {name} has no {key}."
    for key, arm in (("arm", entry.arm), ("against", entry.against or REFERENCE)):
        if arm not in arms and not (key == "against" and arm == REFERENCE):
            yield key, arm, f"{suggest(arm, arms)}Name a file in {folder}: {', '.join(arms)}."
    if isinstance(about, Quantity):
        yield from _of_runs(entry, about)
        ratio, identity = about.ratio, about.identity is not None
    else:
        yield from _unseeded(entry, about)
        ratio, identity = isinstance(about, Cost), False
    if not identity:
        yield from _of_region(entry.claimed, entry.margin, ratio)


def _unseeded(entry: ClaimEntry, about: Cost | Share) -> Iterator[tuple[str, object, str]]:
    """Of a claim that is judged from the profile or from a study, not from training runs of the matrix."""
    if isinstance(about, Cost):
        try:
            find(entry.variant or "")
        except ValueError as error:
            yield "variant", entry.variant, f"{error}."
    source = "measured of one update" if isinstance(about, Cost) else "counted in a study"
    for key, value in (("rule", "interval"), ("warmup_steps", 0), ("needs_learning", False)):
        if getattr(entry, key) != value:
            hint = f"write {str(value).lower()}: {entry.quantity} is {source}, not of a training run."
            yield key, getattr(entry, key), hint


def _of_runs(entry: ClaimEntry, quantity: Quantity) -> Iterator[tuple[str, object, str]]:
    identity = entry.rule == "identity"
    if quantity.table == "evals" and entry.warmup_steps:
        yield "warmup_steps", entry.warmup_steps, "write 0: evaluations have no steps."
    if identity and quantity.identity is None:
        yield "rule", "identity", f"write interval: {entry.quantity} is a measurement."
    if not identity and quantity.identity is not None:
        yield "rule", entry.rule, f"write identity: {quantity.identity}."
    if identity and entry.margin is not None:
        yield "margin", entry.margin, "remove it: an identity has no margin."
    if entry.rule == EQUIVALENCE and not _bounded(entry.claimed):
        yield "claimed", str(entry.claimed), "write low and high: equivalence has two ends."


def _of_region(claimed: Region, margin: float | None, ratio: bool) -> Iterator[tuple[str, object, str]]:
    if margin is None:
        yield "margin", None, "state the margin, 0 for none."
        return
    if _bounded(claimed) and claimed.low - margin >= claimed.high + margin:
        yield "claimed", str(claimed), "write low below high, or a margin above 0."
    if ratio and -math.inf < claimed.low <= margin:
        yield "claimed", str(claimed), "write a low end that is above 0 after the margin: a ratio."


def _bounded(region: Region) -> bool:
    return math.isfinite(region.low) and math.isfinite(region.high)
