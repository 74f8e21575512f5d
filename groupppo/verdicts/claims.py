"""Claims under test: data read from benchmarks/claims.yaml, never code."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from groupppo.config.files import read_form
from groupppo.config.forms import ClaimEntry, ClaimsFile, Region
from groupppo.errors import BadInput, suggest
from groupppo.records.hashing import sha256_file
from groupppo.update.variants import find
from groupppo.verdicts.quantities import COSTS, QUANTITIES, SHARES, Cost, Quantity, Sample, Share

REFERENCE = "reference"
EQUIVALENCE = "equivalence"


@dataclass(frozen=True)
class Claim(ClaimEntry):
    """One claim; `ClaimEntry` describes the attributes."""

    @property
    def region(self) -> Region:
        """What the interval is held against: the claimed region widened by the margin."""
        margin = self.margin or 0.0
        return Region(self.claimed.low - margin, self.claimed.high + margin)

    @property
    def cost(self) -> Cost | None:
        """What it measures of a profile; None for every other claim."""
        return COSTS.get(self.quantity)

    @property
    def share(self) -> Share | None:
        """What it counts in a study's table; None for every other claim."""
        return SHARES.get(self.quantity)

    @property
    def of_runs(self) -> bool:
        """Whether it is about training runs of the matrix."""
        return self.quantity in QUANTITIES

    @property
    def measured(self) -> Quantity:
        """What it measures of training runs; `of_runs` holds."""
        return QUANTITIES[self.quantity]

    @property
    def unit(self) -> str:
        return (self.cost or self.share or self.measured).unit

    def compared(self, reference: str) -> str | None:
        """The arm it is paired with, `reference` resolved."""
        return reference if self.against == REFERENCE else self.against

    @property
    def variant_rows(self) -> str:
        """Its row of the table `variants` as a `DataFrame.query` expression: the evidence that a verdict names."""
        return f"setting == {self.setting!r} and variant == {self.variant!r}"

    def sample(self, task: str, model: str, reference: str) -> Sample:
        stage, metrics = self.measured.stage or self.stage, self.measured.metrics
        against = self.compared(reference)
        return Sample(task, model, self.arm, against, stage, self.metric, self.warmup_steps, metrics)


@dataclass(frozen=True)
class Claims:
    """All claims of a file, with the confidence, power and learning metric they share."""

    level: float
    power: float
    learning_metric: str
    claims: tuple[Claim, ...]
    source: Path
    sha256: str


def load_claims(path: str | Path) -> Claims:
    """Read a claims file, check it against its form and against the quantities.

    Raises:
        BadInput: a key, quantity or rule is unknown, an id is written twice, an arm has no file, a region is empty, or
            a claim lacks (or has too many of) the keys its quantity and rule need.
    """
    path = Path(path)
    # Every figure and verdict asks for them, and reading them takes half a second.
    arms = tuple(sorted(file.stem for file in (path.parent / "arms").glob("*.yaml")))
    return _read(path, sha256_file(path) if path.is_file() else "", arms)


@lru_cache(maxsize=8)
def _read(path: Path, sha256: str, arms: tuple[str, ...]) -> Claims:
    file = read_form(path, ClaimsFile)
    for fault in _faults(path, file, arms):
        raise fault
    claims = tuple(Claim(**vars(entry)) for entry in file.claims)
    return Claims(file.level, file.power, file.learning_metric, claims, path, sha256)


def claims_faults(path: Path) -> Iterator[BadInput]:
    """What is wrong with each claim of a file whose keys are sound."""
    arms = tuple(sorted(file.stem for file in (path.parent / "arms").glob("*.yaml")))
    return _faults(path, read_form(path, ClaimsFile), arms)


def _faults(path: Path, file: ClaimsFile, arms: Sequence[str]) -> Iterator[BadInput]:
    seen = set[str]()
    for index, entry in enumerate(file.claims):
        for key, value, hint in _complaints(entry, path.parent / "arms", arms):
            yield BadInput(path, f"claims.{index}.{key}", value, hint)
            break  # what else is right depends on it
        if entry.id in seen:
            yield BadInput(path, f"claims.{index}.id", entry.id, "give each claim an id of its own.")
        seen.add(entry.id)


def _complaints(entry: ClaimEntry, folder: Path, arms: Sequence[str]) -> Iterator[tuple[str, object, str]]:
    """(key, value, hint) of what does not fit the quantity or the rule of a claim."""
    name, known = entry.quantity, (*QUANTITIES, *COSTS, *SHARES)
    if name not in known:
        yield "quantity", name, f"{suggest(name, known)}Known: {', '.join(known)}."
        return
    needs = QUANTITIES[name].needs if name in QUANTITIES else {"setting", "variant"} if name in COSTS else frozenset()
    for key in ("against", "stage", "metric", "setting", "variant"):
        value = getattr(entry, key)
        if key in needs and value is None:
            yield key, None, f"state the {key}: {name} is measured by it."
        if key not in needs and value is not None:
            yield key, value, f"remove it: {name} has no {key}."
    for key, arm in (("arm", entry.arm), ("against", entry.against or REFERENCE)):
        if arm not in arms and not (key == "against" and arm == REFERENCE):
            yield key, arm, f"{suggest(arm, arms)}Name a file in {folder}: {', '.join(arms)}."
    if name in QUANTITIES:
        yield from _of_runs(entry, QUANTITIES[name])
    else:
        yield from _unseeded(entry)


def _unseeded(entry: ClaimEntry) -> Iterator[tuple[str, object, str]]:
    """A claim that is judged from the profile or from a study, not from training runs of the matrix."""
    cost = entry.quantity in COSTS
    if cost:
        try:
            find(entry.variant or "")
        except ValueError as error:
            yield "variant", entry.variant, f"{error}."
    source = "measured of one update" if cost else "counted in a study"
    for key, value in (("rule", "interval"), ("warmup_steps", 0), ("needs_learning", False)):
        if getattr(entry, key) != value:
            hint = f"write {str(value).lower()}: {entry.quantity} is {source}, not of a training run."
            yield key, getattr(entry, key), hint
    yield from _of_region(entry, ratio=cost)


def _of_runs(entry: ClaimEntry, quantity: Quantity) -> Iterator[tuple[str, object, str]]:
    if quantity.table == "evals" and entry.warmup_steps:
        yield "warmup_steps", entry.warmup_steps, "write 0: evaluations have no steps."
    identity = entry.rule == "identity"
    if identity and quantity.identity is None:
        yield "rule", "identity", f"write interval: {entry.quantity} is a measurement."
    if not identity and quantity.identity is not None:
        yield "rule", entry.rule, f"write identity: {quantity.identity}."
    if identity and entry.margin is not None:
        yield "margin", entry.margin, "remove it: an identity has no margin."
    if entry.rule == EQUIVALENCE and not _bounded(entry.claimed):
        yield "claimed", str(entry.claimed), "write low and high: equivalence has two ends."
    if not identity:
        yield from _of_region(entry, ratio=quantity.ratio)


def _of_region(entry: ClaimEntry, *, ratio: bool) -> Iterator[tuple[str, object, str]]:
    if entry.margin is None:
        yield "margin", None, "state the margin, 0 for none."
        return
    claimed, margin = entry.claimed, entry.margin
    if _bounded(claimed) and claimed.low - margin >= claimed.high + margin:
        yield "claimed", str(claimed), "write low below high, or a margin above 0."
    if ratio and -math.inf < claimed.low <= margin:
        yield "claimed", str(claimed), "write a low end that is above 0 after the margin: a ratio."


def _bounded(region: Region) -> bool:
    return math.isfinite(region.low) and math.isfinite(region.high)
