"""Claims under test: data read from benchmarks/claims.yaml, never code."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput
from groupppo.records.hashing import sha256_file
from groupppo.schemas import read_checked
from groupppo.update.variants import find
from groupppo.verdicts.quantities import COSTS, QUANTITIES, SHARES, Cost, Quantity, Sample, Share

REFERENCE = "reference"
EQUIVALENCE = "equivalence"


@dataclass(frozen=True)
class Region:
    """Open region of a quantity, in its unit; an end may be infinite."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:.4g}"
        return f"at most {self.high:.4g}" if math.isinf(self.low) else f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Claim:
    """One claim; docs and defaults of the keys are in groupppo/schemas/claims.schema.yaml.

    `claimed` is the region as claimed, `margin` widens it at each end; None where the rule is `identity`.
    """

    id: str
    claim: str
    source: str
    reading: str
    arm: str
    quantity: str
    comparison: str
    claimed: Region
    rule: str
    warmup_steps: int
    evidence: tuple[str, ...]
    needs_learning: bool
    what_would_change: str
    margin: float | None = None
    against: str | None = None
    stage: str | None = None
    metric: str | None = None
    setting: str | None = None
    variant: str | None = None
    figure: str | None = None

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
    """Read a claims file, check it against its schema and against the quantities.

    Raises:
        BadInput: a key, quantity or rule is unknown, an id is written twice, an arm has no file, a region is empty, or
            a claim lacks (or has too many of) the keys its quantity and rule need.
    """
    path = Path(path)
    # Every figure and verdict asks for them, and reading them takes half a second.
    arms = tuple(sorted(file.name for file in (path.parent / "arms").glob("*.yaml")))
    return _read(path, sha256_file(path) if path.is_file() else "", arms)


@lru_cache(maxsize=8)
def _read(path: Path, sha256: str, _arms: tuple[str, ...]) -> Claims:
    data = read_checked(path, "claims")
    claims: list[Claim] = []
    for index, entry in enumerate(data["claims"]):
        _check(path, f"claims.{index}", entry)
        if entry["id"] in [claim.id for claim in claims]:
            raise BadInput(path, f"claims.{index}.id", entry["id"], "give each claim an id of its own.")
        lists = {"claimed": Region(**entry["claimed"]), "evidence": tuple(entry["evidence"])}
        claims.append(Claim(**(entry | lists)))
    shared = {key: data[key] for key in ("level", "power", "learning_metric")}
    return Claims(**shared, claims=tuple(claims), source=path, sha256=sha256)


def _check(path: Path, place: str, entry: Mapping[str, Any]) -> None:
    name = entry["quantity"]
    needs = QUANTITIES[name].needs if name in QUANTITIES else {"setting", "variant"} if name in COSTS else frozenset()
    for key in ("against", "stage", "metric", "setting", "variant"):
        if key in needs and key not in entry:
            raise BadInput(path, f"{place}.{key}", None, f"state the {key}: {entry['quantity']} is measured by it.")
        if key in entry and key not in needs:
            raise BadInput(path, f"{place}.{key}", entry[key], f"remove it: {entry['quantity']} has no {key}.")
    for key in ("arm", "against"):
        name = entry.get(key, REFERENCE)
        known = sorted(file.stem for file in (path.parent / "arms").glob("*.yaml"))
        if name not in known and not (key == "against" and name == REFERENCE):
            raise BadInput(path, f"{place}.{key}", name, f"name a file in {path.parent / 'arms'}: {', '.join(known)}.")
    if entry["quantity"] not in QUANTITIES:
        _check_unseeded(path, place, entry)
        return
    quantity = QUANTITIES[entry["quantity"]]
    if quantity.table == "evals" and entry["warmup_steps"]:
        raise BadInput(path, f"{place}.warmup_steps", entry["warmup_steps"], "write 0: evaluations have no steps.")
    _check_rule(path, place, entry, quantity)


def _check_unseeded(path: Path, place: str, entry: Mapping[str, Any]) -> None:
    """A claim that is judged from the profile or from a study, not from training runs of the matrix."""
    cost = entry["quantity"] in COSTS
    if cost:
        try:
            find(entry["variant"])
        except ValueError as error:
            raise BadInput(path, f"{place}.variant", entry["variant"], f"{error}.") from error
    wanted = {"rule": "interval", "warmup_steps": 0, "needs_learning": False}
    source = "measured of one update" if cost else "counted in a study"
    for key, value in wanted.items():
        if entry[key] != value:
            hint = f"write {str(value).lower()}: {entry['quantity']} is {source}, not of a training run."
            raise BadInput(path, f"{place}.{key}", entry[key], hint)
    _check_region(path, place, entry, ratio=cost)


def _check_rule(path: Path, place: str, entry: Mapping[str, Any], quantity: Quantity) -> None:
    identity = entry["rule"] == "identity"
    if identity and quantity.identity is None:
        raise BadInput(path, f"{place}.rule", "identity", f"write interval: {entry['quantity']} is a measurement.")
    if not identity and quantity.identity is not None:
        raise BadInput(path, f"{place}.rule", entry["rule"], f"write identity: {quantity.identity}.")
    if identity == ("margin" in entry):
        hint = "remove it: an identity has no margin." if identity else "state the margin, 0 for none."
        raise BadInput(path, f"{place}.margin", entry.get("margin"), hint)
    claimed = entry["claimed"]
    if entry["rule"] == EQUIVALENCE and len(claimed) < 2:
        raise BadInput(path, f"{place}.claimed", claimed, "write low and high: equivalence has two ends.")
    if not identity:
        _check_region(path, place, entry, ratio=quantity.ratio)


def _check_region(path: Path, place: str, entry: Mapping[str, Any], *, ratio: bool) -> None:
    if "margin" not in entry:
        raise BadInput(path, f"{place}.margin", None, "state the margin, 0 for none.")
    claimed, margin = entry["claimed"], entry["margin"]
    if len(claimed) == 2 and claimed["low"] - margin >= claimed["high"] + margin:
        raise BadInput(path, f"{place}.claimed", claimed, "write low below high, or a margin above 0.")
    if ratio and claimed.get("low", math.inf) - margin <= 0:
        raise BadInput(path, f"{place}.claimed", claimed, "write a low end that is above 0 after the margin: a ratio.")
