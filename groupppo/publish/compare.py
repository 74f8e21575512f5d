"""Two bundles or results folders side by side: the same cells, paired by seed, with intervals; regressions are flagged.

    comparison = compare(Path("before.zip"), Path("after.zip"))
    raise SystemExit(comparison.exit_code)

`a` is what was, `b` is what is now. A cell is (task, model, arm, seed). Seconds are medians of whole steps, the first
steps left out; memory is the largest of the run; accuracy is the held-out metric that claims are decided by.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.wording import in_bytes, seconds_text
from groupppo.errors import BadInput
from groupppo.publish import settings
from groupppo.publish.contents import RECORD, read_sums, sums_differences
from groupppo.publish.reading import safe_tables
from groupppo.publish.settings import SettingDifference
from groupppo.publish.source import RESULTS, Source, loaded_config, opened
from groupppo.records.folders import START, cell_path
from groupppo.stats.intervals import paired_ratio, paired_t
from groupppo.tables import Only, Tables
from groupppo.tables.keys import Keys, planned_keys
from groupppo.verdicts.claims import EQUIVALENCE, Claims

LEVEL = 0.90
SLOWER, LARGER = 1.15, 1.01
"""A cell that takes more than 15 % longer, or more than 1 % more memory, has regressed."""
SPEED, MEMORY, ACCURACY, RUN = "speed", "memory", "accuracy", "run"
MOST_WARMUP, WARMUP_SHARE = 5, 4
"""Steps left out at the start: 5, or a quarter of a run shorter than 20 steps."""
STEP, PEAK, DENSITY = "seconds of step", "peak memory", "density"
_SECONDS = "seconds of "
_KEYS = ("task", "model", "arm", "seed")
NEEDED = {
    "runs": Only(),
    "evals": Only(),
    "stages": Only((*_KEYS, "step", "stage", "seconds", "peak_bytes")),
    "groups": Only((*_KEYS, "endpoints", "tokens")),
}
"""The part of the tables that is read."""


Measured = dict[str, dict[Keys, float]]
"""Values by quantity and cell; a value that was not measured is not there."""
Pair = tuple[float | None, float | None]
"""What a and b have; None where a side has none."""


@dataclass(frozen=True)
class CellPair:
    """One cell in `a` and `b`: seconds of a step, bytes at the peak, held-out accuracy."""

    cell: str
    seconds: Pair
    peak_bytes: Pair
    accuracy: Pair


@dataclass(frozen=True)
class ArmDifference:
    """One quantity of one arm over the seeds that both sides have.

    Args:
        quantity: "seconds of <stage>", "peak memory", "density" or a held-out metric.
        ratio: whether it is b / a; else b - a.
        seeds: how many.
        a: mean over these seeds (geometric for ratios).
        b: as `a`.
        estimate: of the ratio or difference.
        low: lower end of its 90 % paired interval; None for one seed.
        high: upper end.
    """

    task: str
    model: str
    arm: str
    quantity: str
    ratio: bool
    seeds: int
    a: float
    b: float
    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Regression:
    """Something that is worse in `b`. `kind`: "speed", "memory", "accuracy" or "run"; `place`: the cell or arm."""

    kind: str
    place: str
    message: str


class Gap(StrEnum):
    """Why something is not compared, in the order of the page."""

    WITHHELD = "with seconds and memory withheld"
    EXCLUDED = "no evidence on a side"
    LOST = "kinds of values on one side only"
    ONLY_A = "only in a"
    ONLY_B = "only in b"
    UNPLANNED = "not planned on both sides"


@dataclass(frozen=True)
class NotCompared:
    """What is not compared: a cell, or a quantity of some. `UNPLANNED` is no loss: one side's matrix leaves it out."""

    gap: Gap
    what: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Args:
        a: what was compared, as named.
        b: with what.
        benchmarks: names of the two benchmarks.
        metric: the held-out metric that claims are decided by.
        margin: by which accuracy may fall, None where no claim states one.
        cells: cells of both sides.
        arms: differences over seeds.
        settings: what differs between runs of the same cell, and between the benchmarks.
        not_compared: what one side alone has, what is no evidence, and what was withheld.
        regressions: what is worse.
    """

    a: str
    b: str
    benchmarks: tuple[str, str]
    metric: str
    margin: float | None
    cells: tuple[CellPair, ...]
    arms: tuple[ArmDifference, ...]
    settings: tuple[SettingDifference, ...]
    not_compared: tuple[NotCompared, ...]
    regressions: tuple[Regression, ...]

    def gaps(self, gap: Gap) -> list[NotCompared]:
        return [each for each in self.not_compared if each.gap is gap]

    @property
    def comparable(self) -> bool:
        """Every cell that both sides plan is there with all its values, is evidence, and nothing was withheld."""
        return bool(self.cells) and len(self.not_compared) == len(self.gaps(Gap.UNPLANNED))

    @property
    def exit_code(self) -> int:
        """1 for a regression; 2 when there is none, but not everything could be compared; else 0."""
        return 1 if self.regressions else 0 if self.comparable else 2


@dataclass(frozen=True)
class _Side:
    """What is compared of one side; its tables, larger than all of this, are not kept."""

    source: Source
    runs: dict[Keys, dict[str, Any]]
    values: Measured
    benchmark: Benchmark
    claims: Claims


def compare(a: Path, b: Path) -> Comparison:
    """Compare `b` with `a`, each a bundle, an unpacked bundle or a results folder.

    Raises:
        BadInput: a side is missing, hostile, damaged (a checksum does not hold) or not in its schema.
    """
    with opened(a) as source_a, opened(b) as source_b:
        sides = []
        for source in (source_a, source_b):
            try:
                sides.append(_read(source))
            except BadInput as error:
                raise source.placed(error) from error
        return _compared(*sides)


def _read(source: Source) -> _Side:
    if source.kind != RESULTS:
        for name, expected, found in sums_differences(source.folder, read_sums(source.folder)):
            hint = f"fetch it again: the bundle says {expected}."
            raise BadInput(source.folder / name, "SHA-256", found, hint)
    with loaded_config(source.folder) as (benchmark, claims):
        tables = safe_tables(source.folder / "tables", NEEDED)
        runs = {_cell(row[key] for key in _KEYS): row for row in tables.runs.to_dict("records")}
        return _Side(source, runs, measured(tables), benchmark, claims)


def _compared(a: _Side, b: _Side) -> Comparison:
    missing, regressions = _missing(a, b)
    shared = sorted(set(a.runs) & set(b.runs), key=lambda cell: cell_path(*cell))
    sound = [cell for cell in shared if a.runs[cell]["admissible"] and b.runs[cell]["admissible"]]
    unlike, timed = dict[str, settings.Differences](), []
    for cell in sound:
        name = cell_path(*cell)
        sides = [settings.CellFiles(x.source.folder, name, str(x.runs[cell]["rollout"])) for x in (a, b)]
        unlike[name] = settings.cell_differences(*sides)
        machine = [key for key, _, _ in unlike[name] if key in (*settings.MACHINE, settings.THREADS)]
        if machine:
            why = f"seconds and memory, for {', '.join(machine)} differ"
            missing.append(NotCompared(Gap.WITHHELD, name, why))
        else:
            timed.append(cell)
    missing += _lost(a.values, b.values, sound, timed)
    metric, margin = a.claims.learning_metric, _margin(a.claims)

    def pair(quantity: str, cell: Keys) -> Pair:
        return a.values.get(quantity, {}).get(cell), b.values.get(quantity, {}).get(cell)

    pairs = tuple(CellPair(cell_path(*cell), pair(STEP, cell), pair(PEAK, cell), pair(metric, cell)) for cell in sound)
    arms = sorted(_arms(a.values, b.values, sound, timed), key=lambda arm: (arm.task, arm.model, arm.arm))
    regressions += [
        *_slower_or_larger(pairs, {cell_path(*cell) for cell in timed}),
        *_less_accurate(arms, metric, margin),
    ]
    hashes = a.claims.sha256, b.claims.sha256
    claimed = [SettingDifference("claims (SHA-256)", *hashes)] if hashes[0] != hashes[1] else []
    matrices = settings.matrix_differences(*(side.source.folder / RECORD for side in (a, b)))
    order = list(Gap)
    return Comparison(
        a=str(a.source.path),
        b=str(b.source.path),
        benchmarks=(a.benchmark.name, b.benchmark.name),
        metric=metric,
        margin=margin,
        cells=pairs,
        arms=tuple(arms),
        settings=(*matrices, *claimed, *settings.grouped(unlike)),
        not_compared=tuple(sorted(missing, key=lambda each: order.index(each.gap))),
        regressions=tuple(regressions),
    )


def _missing(a: _Side, b: _Side) -> tuple[list[NotCompared], list[Regression]]:
    """Cells of one side, and those that are no evidence on one; who was evidence and no longer is has regressed."""
    missing, regressions = list[NotCompared](), []
    for side, other, name, only in ((a, b, "a", Gap.ONLY_A), (b, a, "b", Gap.ONLY_B)):
        plan, others = (set(planned_keys(each.benchmark)) for each in (side, other))
        unplanned = plan - others - set(other.runs)
        alone = set(side.runs) - set(other.runs) - unplanned
        missing += [NotCompared(only, cell, only) for cell in sorted(cell_path(*keys) for keys in alone)]
        why = f"not in the matrix of {'b' if name == 'a' else 'a'}"
        missing += [NotCompared(Gap.UNPLANNED, cell_path(*keys), why) for keys in sorted(unplanned)]
        for keys in (keys for keys, run in side.runs.items() if keys in other.runs and not run["admissible"]):
            cell, reason = cell_path(*keys), str(side.runs[keys]["reason"])
            missing.append(NotCompared(Gap.EXCLUDED, f"{cell} in {name}", reason))
            if name == "b" and other.runs[keys]["admissible"]:
                regressions.append(Regression(RUN, cell, f"was evidence and no longer is: {reason}"))
    return missing, regressions


def measured(tables: Tables) -> Measured:
    """Median seconds of each stage, the first steps left out; the largest memory of the run in bytes; density over the
    whole run; every held-out metric."""
    keys, stages = list(_KEYS), tables.stages
    last = stages.groupby(keys, observed=True)["step"].transform("max")
    timed = stages[stages["step"] > (last // WARMUP_SHARE).clip(upper=MOST_WARMUP)]
    totals = tables.groups.groupby(keys, observed=True)[["endpoints", "tokens"]].sum()
    found = {
        DENSITY: totals["endpoints"] / totals["tokens"],
        PEAK: stages.groupby(keys, observed=True)["peak_bytes"].max(),
    }
    for stage, rows in timed.groupby("stage", observed=True):
        found[f"{_SECONDS}{stage}"] = rows.groupby(keys, observed=True)["seconds"].median()
    for metric, rows in tables.evals.groupby("metric"):
        found[str(metric)] = rows.set_index(keys)["value"]
    return {
        quantity: {
            _cell(key): float(value)
            for key, value in values.items()
            if math.isfinite(value) and (value > 0 or not is_cost(quantity))
        }
        for quantity, values in found.items()
    }


def is_cost(quantity: str) -> bool:
    """Whether it depends on the machine, and is compared as a ratio."""
    return quantity == PEAK or quantity.startswith(_SECONDS)


def _cell(key: Iterable[Any]) -> Keys:
    """A folder whose name tells no seed gives a cell without one, as the start is."""
    task, model, arm, seed = key
    return Keys(str(task), str(model), str(arm), None if pd.isna(seed) else int(seed))


def _lost(a: Measured, b: Measured, sound: list[Keys], timed: list[Keys]) -> Iterator[NotCompared]:
    """What one side alone has of the cells of both: quantity, side, and the first of the cells."""
    for quantity in sorted({*a, *b}):
        for side, one, two in (("a", a, b), ("b", b, a)):
            there, elsewhere = one.get(quantity, {}), two.get(quantity, {})
            cells = timed if is_cost(quantity) else sound
            alone = [cell for cell in cells if cell in there and cell not in elsewhere]
            if alone:
                more = f" and {len(alone) - 1} more cells" if len(alone) > 1 else ""
                yield NotCompared(Gap.LOST, f"{quantity} of {cell_path(*alone[0])}{more}", f"only in {side}")


def _arms(a: Measured, b: Measured, sound: list[Keys], timed: list[Keys]) -> Iterator[ArmDifference]:
    """Differences over seeds of what both sides have: seconds of the whole step, of stages, memory, and the rest."""
    for quantity in sorted(set(a) & set(b), key=lambda name: (not is_cost(name), name != STEP, name == PEAK, name)):
        was, now, ratio = a[quantity], b[quantity], is_cost(quantity)
        cells = timed if ratio else [*sound, *(cell for cell in was if cell.arm == START)]
        arms: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
        for cell in cells:
            if cell in was and cell in now:
                arms.setdefault(cell[:3], []).append((was[cell], now[cell]))
        for arm, values in arms.items():
            means = [_mean(side, ratio) for side in zip(*values, strict=True)]
            change = [y / x if ratio else y - x for x, y in values]
            interval = (paired_ratio if ratio else paired_t)(change, LEVEL) if len(change) > 1 else None
            ends = (interval.estimate, interval.low, interval.high) if interval else (change[0], None, None)
            yield ArmDifference(*arm, quantity, ratio, len(values), means[0], means[1], *ends)


def _mean(values: tuple[float, ...], geometric: bool) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if geometric else sum(values) / len(values)


def _margin(claims: Claims) -> float | None:
    """The smallest margin within which a claim takes the learning metric of two arms for equal."""
    same = [c for c in claims.claims if c.rule == EQUIVALENCE and c.metric == claims.learning_metric]
    margins = [claim.margin for claim in same if claim.quantity == "accuracy_difference" and claim.margin is not None]
    return min(margins, default=None)


def _slower_or_larger(pairs: Iterable[CellPair], timed: set[str]) -> Iterator[Regression]:
    for pair in (pair for pair in pairs if pair.cell in timed):
        for kind, (before, after), limit, what, form in (
            (SPEED, pair.seconds, SLOWER, "a step", seconds_text),
            (MEMORY, pair.peak_bytes, LARGER, "memory at the peak", in_bytes),
        ):
            if before is not None and after is not None and after > limit * before:
                more, most = 100 * (after / before - 1), 100 * (limit - 1)
                message = f"{what}: {more:+.1f} %, from {form(before)} to {form(after)}; at most {most:+.0f} %"
                yield Regression(kind, pair.cell, message)


def _less_accurate(arms: Iterable[ArmDifference], metric: str, margin: float | None) -> Iterator[Regression]:
    """An interval wholly below zero, or a mean that fell by more than the margin."""
    for arm in (arm for arm in arms if arm.quantity == metric and arm.arm != START):
        place, change = f"{arm.task}/{arm.model}/{arm.arm}", f"{metric} {arm.estimate:+.4f}"
        change += f" [{arm.low:+.4f}, {arm.high:+.4f}]" if arm.low is not None else ""
        if arm.high is not None and arm.high < 0:
            yield Regression(ACCURACY, place, f"{change}: the interval lies wholly below zero")
        elif margin is not None and arm.estimate < -margin:
            yield Regression(ACCURACY, place, f"{change}: fell by more than the margin of {margin:g}")
