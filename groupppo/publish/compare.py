"""Two bundles or results folders side by side: the same cells, paired by seed, with intervals; regressions are flagged.

    comparison = compare(Path("before.zip"), Path("after.zip"))
    raise SystemExit(comparison.exit_code)

`a` is what was, `b` is what is now. A cell is (task, model, arm, seed). Seconds are medians of whole steps, the first
steps left out; memory is the largest of the run; accuracy is the held-out metric that claims are decided by.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.wording import in_bytes, seconds_text
from groupppo.errors import BadInput
from groupppo.publish import settings
from groupppo.publish.matrix import RECORD
from groupppo.publish.measured import NEEDED, PEAK, STEP, Cell, Measured, is_cost, lost_values, measured
from groupppo.publish.reading import safe_tables
from groupppo.publish.settings import SettingDifference
from groupppo.publish.source import RESULTS, Source, loaded_config, opened
from groupppo.publish.sums import read_sums, sums_differences
from groupppo.records.folders import START
from groupppo.stats.intervals import paired_ratio, paired_t
from groupppo.tables.keys import planned_keys
from groupppo.verdicts.claims import EQUIVALENCE, Claims

LEVEL = 0.90
SLOWER, LARGER = 1.15, 1.01
"""A cell that takes more than 15 % longer, or more than 1 % more memory, has regressed."""
SPEED, MEMORY, ACCURACY, RUN = "speed", "memory", "accuracy", "run"


@dataclass(frozen=True)
class CellPair:
    """One cell in `a` and `b`: seconds of a step, bytes at the peak, held-out accuracy; None where a side has none."""

    cell: Cell
    seconds: tuple[float | None, float | None]
    peak_bytes: tuple[float | None, float | None]
    accuracy: tuple[float | None, float | None]


@dataclass(frozen=True)
class ArmDifference:
    """One quantity of one arm over the seeds that both sides have.

    Args:
        quantity: "seconds of <stage>", "peak memory", "density" or a held-out metric.
        ratio: whether it is b / a; else b - a.
        a, b: means over these seeds (geometric for ratios).
        estimate, low, high: of the ratio or difference, 90 % paired interval; low and high are None for one seed.
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
    told: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Args:
        a, b: what was compared, as named. benchmarks: names of the two benchmarks. margin: by which accuracy may fall,
            None where no claim states one.
        cells: cells of both sides. arms: differences over seeds.
        only_a, only_b: cells that one side alone has. unplanned: those that the matrix of one side has and that of the
            other leaves out, with the side that does: nothing is missing.
        excluded: cells that are no evidence on a side, with its name and the reason.
        settings: what differs between runs of the same cell, and between the benchmarks.
        withheld: cells whose seconds and memory are not compared, with the reason.
        lost: values that one side alone has: stages, memory and metrics of cells that are on both.
        regressions: what is worse.
    """

    a: str
    b: str
    benchmarks: tuple[str, str]
    metric: str
    margin: float | None
    cells: tuple[CellPair, ...]
    arms: tuple[ArmDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    unplanned: tuple[tuple[str, str], ...]
    excluded: tuple[str, ...]
    settings: tuple[SettingDifference, ...]
    withheld: tuple[str, ...]
    lost: tuple[str, ...]
    regressions: tuple[Regression, ...]

    @property
    def comparable(self) -> bool:
        """Every cell that both sides plan is there with all its values, is evidence, and nothing was withheld."""
        return bool(self.cells) and not (self.only_a or self.only_b or self.excluded or self.withheld or self.lost)

    @property
    def exit_code(self) -> int:
        """1 for a regression; 2 when there is none, but not everything could be compared; else 0."""
        return 1 if self.regressions else 0 if self.comparable else 2


@dataclass(frozen=True)
class _Side:
    """What is compared of one side; its tables, larger than all of this, are not kept."""

    source: Source
    runs: dict[Cell, dict[str, Any]]
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
                raise source.told(error) from error
        return _compared(*sides)


def _read(source: Source) -> _Side:
    if source.kind != RESULTS:
        for name, expected, found in sums_differences(source.folder, read_sums(source.folder)):
            raise BadInput(source.folder / name, "SHA-256", found, f"fetch it again: the bundle says {expected}.")
    with loaded_config(source.folder) as (benchmark, claims):
        tables = safe_tables(source.folder / "tables", NEEDED)
        return _Side(source, _runs(tables.runs), measured(tables), benchmark, claims)


def _runs(table: pd.DataFrame) -> dict[Cell, dict[str, Any]]:
    """Rows of the table of runs by cell; a folder whose name tells no seed gives a cell without one."""
    found = {}
    for row in table.to_dict("records"):
        seed = None if pd.isna(row["seed"]) else int(row["seed"])
        found[Cell(row["task"], row["model"], row["arm"], seed)] = {str(key): row[key] for key in row}
    return found


def _compared(a: _Side, b: _Side) -> Comparison:
    runs_a, runs_b = a.runs, b.runs
    shared = sorted(set(runs_a) & set(runs_b), key=str)
    plan_a, plan_b = ({Cell(*keys) for keys in planned_keys(side.benchmark)} for side in (a, b))
    not_in_b = plan_a - plan_b - set(runs_b)
    not_in_a = plan_b - plan_a - set(runs_a)
    excluded, regressions = _inadmissible(shared, runs_a, runs_b)
    sound = [cell for cell in shared if runs_a[cell]["admissible"] and runs_b[cell]["admissible"]]
    unlike, withheld, timed = {}, [], []
    for cell in sound:
        sides = ((a.source.folder, runs_a), (b.source.folder, runs_b))
        made = [settings.CellFiles(folder, str(cell), str(runs[cell]["rollout"])) for folder, runs in sides]
        unlike[str(cell)] = settings.cell_differences(*made)
        machine = settings.unlike_machines(unlike[str(cell)])
        if machine:
            withheld.append(f"{cell}: seconds and memory, for {', '.join(machine)} differ")
        else:
            timed.append(cell)
    metric = a.claims.learning_metric
    pairs = _pairs(a.values, b.values, sound, metric)
    arms = _arms(a.values, b.values, sound, timed)
    margin = _margin(a.claims, metric)
    regressions += [*_slower_or_larger(pairs, set(timed)), *_less_accurate(arms, metric, margin)]
    hashes = (a.claims.sha256, b.claims.sha256)
    claimed = [SettingDifference("claims (SHA-256)", *hashes)] if hashes[0] != hashes[1] else []
    records = [side.source.folder / RECORD for side in (a, b)]
    return Comparison(
        a=str(a.source.path),
        b=str(b.source.path),
        benchmarks=(a.benchmark.name, b.benchmark.name),
        metric=metric,
        margin=margin,
        cells=tuple(pairs),
        arms=tuple(sorted(arms, key=lambda arm: (arm.task, arm.model, arm.arm))),
        only_a=tuple(map(str, sorted(set(runs_a) - set(runs_b) - not_in_b, key=str))),
        only_b=tuple(map(str, sorted(set(runs_b) - set(runs_a) - not_in_a, key=str))),
        unplanned=(*((str(cell), "b") for cell in sorted(not_in_b)), *((str(cell), "a") for cell in sorted(not_in_a))),
        excluded=tuple(excluded),
        settings=(*settings.matrix_differences(*records), *claimed, *settings.grouped(unlike)),
        withheld=tuple(withheld),
        lost=tuple(lost_values(a.values, b.values, sound, timed)),
        regressions=tuple(regressions),
    )


def _inadmissible(
    shared: list[Cell], runs_a: dict[Cell, dict[str, Any]], runs_b: dict[Cell, dict[str, Any]]
) -> tuple[list[str], list[Regression]]:
    """Cells that are no evidence on a side; one that was evidence and no longer is has regressed."""
    excluded, regressions = [], []
    for cell in shared:
        for name, runs in (("a", runs_a), ("b", runs_b)):
            if not runs[cell]["admissible"]:
                excluded.append(f"{cell} in {name}: {runs[cell]['reason']}")
        if runs_a[cell]["admissible"] and not runs_b[cell]["admissible"]:
            told = f"was evidence and no longer is: {runs_b[cell]['reason']}"
            regressions.append(Regression(RUN, str(cell), told))
    return excluded, regressions


def _pairs(was: Measured, now: Measured, sound: list[Cell], metric: str) -> list[CellPair]:
    def pair(quantity: str, cell: Cell) -> tuple[float | None, float | None]:
        return was.get(quantity, {}).get(cell), now.get(quantity, {}).get(cell)

    return [CellPair(cell, pair(STEP, cell), pair(PEAK, cell), pair(metric, cell)) for cell in sound]


def _arms(was: Measured, now: Measured, sound: list[Cell], timed: list[Cell]) -> list[ArmDifference]:
    """Differences over seeds of what both sides have: seconds of the whole step, of stages, memory, and the rest."""
    found = []
    for quantity in sorted(set(was) & set(now), key=lambda name: (not is_cost(name), name != STEP, name == PEAK, name)):
        a, b = was[quantity], now[quantity]
        starts = [cell for cell in a if cell.arm == START and cell in b]
        cells = timed if is_cost(quantity) else [*sound, *starts]
        found += _over_seeds(quantity, a, b, cells, ratio=is_cost(quantity))
    return found


def _over_seeds(
    quantity: str, a: dict[Cell, float], b: dict[Cell, float], cells: list[Cell], *, ratio: bool
) -> list[ArmDifference]:
    """One difference for each arm that has the quantity on both sides, paired by seed."""
    arms: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        if cell in a and cell in b:
            arms.setdefault(cell[:3], []).append((a[cell], b[cell]))
    found = []
    for arm, values in arms.items():
        before, after = _mean([x for x, _ in values], ratio), _mean([y for _, y in values], ratio)
        change = [y / x if ratio else y - x for x, y in values]
        interval = (paired_ratio if ratio else paired_t)(change, LEVEL) if len(change) > 1 else None
        ends = (interval.estimate, interval.low, interval.high) if interval else (change[0], None, None)
        found.append(ArmDifference(*arm, quantity, ratio, len(values), before, after, *ends))
    return found


def _mean(values: list[float], geometric: bool) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if geometric else sum(values) / len(values)


def _margin(claims: Claims, metric: str) -> float | None:
    """The smallest margin within which a claim takes this metric of two arms for equal."""
    same = [claim for claim in claims.claims if claim.rule == EQUIVALENCE and claim.metric == metric]
    margins = [claim.margin for claim in same if claim.quantity == "accuracy_difference" and claim.margin is not None]
    return min(margins, default=None)


def _slower_or_larger(pairs: list[CellPair], timed: set[Cell]) -> list[Regression]:
    found = []
    for pair in (pair for pair in pairs if pair.cell in timed):
        for kind, (before, after), limit, what, form in (
            (SPEED, pair.seconds, SLOWER, "a step", seconds_text),
            (MEMORY, pair.peak_bytes, LARGER, "memory at the peak", in_bytes),
        ):
            if before is not None and after is not None and after > limit * before:
                more, most = 100 * (after / before - 1), 100 * (limit - 1)
                told = f"{what}: {more:+.1f} %, from {form(before)} to {form(after)}; at most {most:+.0f} %"
                found.append(Regression(kind, str(pair.cell), told))
    return found


def _less_accurate(arms: list[ArmDifference], metric: str, margin: float | None) -> list[Regression]:
    """An interval wholly below zero, or a mean that fell by more than the margin."""
    found = []
    for arm in (arm for arm in arms if arm.quantity == metric and arm.arm != START):
        place = f"{arm.task}/{arm.model}/{arm.arm}"
        change = f"{metric} {arm.estimate:+.4f}" + (
            f" [{arm.low:+.4f}, {arm.high:+.4f}]" if arm.low is not None else ""
        )
        if arm.high is not None and arm.high < 0:
            found.append(Regression(ACCURACY, place, f"{change}: the interval lies wholly below zero"))
        elif margin is not None and arm.estimate < -margin:
            found.append(Regression(ACCURACY, place, f"{change}: fell by more than the margin of {margin:g}"))
    return found
