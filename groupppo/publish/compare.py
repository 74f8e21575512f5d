"""Two bundles or results folders side by side: the same cells, paired by seed, with intervals; regressions are flagged.

    comparison = compare(Path("before.zip"), Path("after.zip"))
    raise SystemExit(comparison.exit_code)

`a` is what was, `b` is what is now. A cell is (task, model, arm, seed). Seconds are medians of whole steps, the first
steps left out; memory is the largest of the run; accuracy is the held-out metric that claims are decided by.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.publish import settings
from groupppo.publish.matrix import RECORD
from groupppo.publish.reading import safe_tables
from groupppo.publish.settings import SettingDifference
from groupppo.publish.source import RESULTS, Source, loaded_config, opened
from groupppo.publish.sums import read_sums, sums_differences
from groupppo.tables import Tables
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.intervals import paired_ratio, paired_t

LEVEL = 0.90
SLOWER, LARGER = 1.15, 1.01
"""A cell that takes more than 15 % longer, or more than 1 % more memory, has regressed."""
MOST_WARMUP, WARMUP_SHARE = 5, 4
"""Steps left out at the start: 5, or a quarter of a run shorter than 20 steps."""
SPEED, MEMORY, ACCURACY, RUN = "speed", "memory", "accuracy", "run"
STEP, START = "step", "start"


class Cell(NamedTuple):
    task: str
    model: str
    arm: str
    seed: int | None

    def __str__(self) -> str:
        return "/".join([self.task, self.model, self.arm, *([] if self.seed is None else [f"seed{self.seed}"])])


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
        only_a, only_b: cells that one side alone has.
        excluded: cells that are no evidence on a side, with its name and the reason.
        settings: what differs between runs of the same cell, and between the benchmarks.
        withheld: cells whose seconds and memory are not compared, with the reason.
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
    excluded: tuple[str, ...]
    settings: tuple[SettingDifference, ...]
    withheld: tuple[str, ...]
    regressions: tuple[Regression, ...]

    @property
    def comparable(self) -> bool:
        """Every cell is on both sides, is evidence on both, and nothing was withheld."""
        return bool(self.cells) and not (self.only_a or self.only_b or self.excluded or self.withheld)

    @property
    def exit_code(self) -> int:
        """1 for a regression; 2 when there is none, but not everything could be compared; else 0."""
        return 1 if self.regressions else 0 if self.comparable else 2


@dataclass(frozen=True)
class _Side:
    source: Source
    tables: Tables
    benchmark: Benchmark
    claims: Claims

    def runs(self) -> dict[Cell, dict[str, Any]]:
        """Rows of the table of runs by cell; a folder whose name tells no seed gives a cell without one."""
        found = {}
        for row in self.tables.runs.to_dict("records"):
            seed = None if pd.isna(row["seed"]) else int(row["seed"])
            found[Cell(row["task"], row["model"], row["arm"], seed)] = {str(key): row[key] for key in row}
        return found


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
        return _Side(source, safe_tables(source.folder / "tables"), benchmark, claims)


def _compared(a: _Side, b: _Side) -> Comparison:
    runs_a, runs_b = a.runs(), b.runs()
    shared = sorted(set(runs_a) & set(runs_b), key=str)
    excluded, regressions = _inadmissible(shared, runs_a, runs_b)
    sound = [cell for cell in shared if runs_a[cell]["admissible"] and runs_b[cell]["admissible"]]
    unlike, withheld, timed = {}, [], []
    for cell in sound:
        sides = ((a, runs_a), (b, runs_b))
        made = [settings.run_settings(s.source.folder, str(cell), str(runs[cell]["rollout"])) for s, runs in sides]
        unlike[str(cell)] = settings.differences(*made)
        machine = settings.unlike_machines(unlike[str(cell)])
        if machine:
            withheld.append(f"{cell}: seconds and memory, for {', '.join(machine)} differ")
        else:
            timed.append(cell)
    metric = a.claims.learning_metric
    pairs = _pairs(a, b, sound, timed, metric)
    arms = [*_costs(a, b, timed), *_evaluations(a, b, sound)]
    margin = _margin(a.claims, metric)
    regressions += [*_slower_or_larger(pairs, set(timed)), *_less_accurate(arms, metric, margin)]
    records = [side.source.folder / RECORD for side in (a, b)]
    return Comparison(
        a=str(a.source.path),
        b=str(b.source.path),
        benchmarks=(a.benchmark.name, b.benchmark.name),
        metric=metric,
        margin=margin,
        cells=tuple(pairs),
        arms=tuple(sorted(arms, key=lambda arm: (arm.task, arm.model, arm.arm))),
        only_a=tuple(map(str, sorted(set(runs_a) - set(runs_b), key=str))),
        only_b=tuple(map(str, sorted(set(runs_b) - set(runs_a), key=str))),
        excluded=tuple(excluded),
        settings=(*settings.matrix_differences(*records), *settings.grouped(unlike)),
        withheld=tuple(withheld),
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


def _pairs(a: _Side, b: _Side, sound: list[Cell], timed: list[Cell], metric: str) -> list[CellPair]:
    both = (a.tables, b.tables)
    seconds = [_seconds(tables).get(STEP, {}) for tables in both]
    peaks = [_peaks(tables) for tables in both]
    accuracy = [_metrics(tables).get(metric, {}) for tables in both]

    def pair(values: list[dict[Cell, float]], cell: Cell) -> tuple[float | None, float | None]:
        return values[0].get(cell), values[1].get(cell)

    return [CellPair(c, pair(seconds, c), pair(peaks, c), pair(accuracy, c)) for c in sound]


def _seconds(tables: Tables) -> dict[str, dict[Cell, float]]:
    """Median seconds over steps by stage and cell, without the first steps."""
    last = tables.stages.groupby(list(Cell._fields), observed=True)["step"].transform("max")
    warmup = (last // WARMUP_SHARE).clip(upper=MOST_WARMUP)
    rows = tables.stages[tables.stages["step"] > warmup]
    medians = rows.groupby(["stage", *Cell._fields], observed=True)["seconds"].median()
    return _by_cell(medians)


def _peaks(tables: Tables) -> dict[Cell, float]:
    peaks = tables.stages.groupby(list(Cell._fields), observed=True)["peak_bytes"].max()
    return {_cell(key): float(value) for key, value in peaks.items()}


def _densities(tables: Tables) -> dict[Cell, float]:
    totals = tables.groups.groupby(list(Cell._fields), observed=True)[["endpoints", "tokens"]].sum()
    return {_cell(key): float(value) for key, value in (totals["endpoints"] / totals["tokens"]).items()}


def _metrics(tables: Tables) -> dict[str, dict[Cell, float]]:
    """Held-out values by metric and cell; the start checkpoint is a cell without a seed."""
    found: dict[str, dict[Cell, float]] = {}
    for row in tables.evals.itertuples():
        seed = None if pd.isna(row.seed) else int(row.seed)
        found.setdefault(row.metric, {})[Cell(row.task, row.model, row.arm, seed)] = float(row.value)
    return found


def _by_cell(values: pd.Series) -> dict[str, dict[Cell, float]]:
    found: dict[str, dict[Cell, float]] = {}
    for (first, *rest), value in values.items():
        found.setdefault(str(first), {})[_cell(tuple(rest))] = float(value)
    return found


def _cell(key: tuple[Any, ...]) -> Cell:
    return Cell(str(key[0]), str(key[1]), str(key[2]), int(key[3]))


def _costs(a: _Side, b: _Side, timed: list[Cell]) -> list[ArmDifference]:
    seconds = [_seconds(side.tables) for side in (a, b)]
    stages = sorted(set(seconds[0]) & set(seconds[1]), key=lambda stage: (stage != STEP, stage))
    found = []
    for stage in stages:
        found += _over_seeds(f"seconds of {stage}", seconds[0][stage], seconds[1][stage], timed, ratio=True)
    found += _over_seeds("peak memory", _peaks(a.tables), _peaks(b.tables), timed, ratio=True)
    return found


def _evaluations(a: _Side, b: _Side, sound: list[Cell]) -> list[ArmDifference]:
    metrics = [_metrics(side.tables) for side in (a, b)]
    found = _over_seeds("density", _densities(a.tables), _densities(b.tables), sound, ratio=False)
    for metric in sorted(set(metrics[0]) & set(metrics[1])):
        starts = [cell for cell in metrics[0][metric] if cell.arm == START and cell in metrics[1][metric]]
        found += _over_seeds(metric, metrics[0][metric], metrics[1][metric], [*sound, *starts], ratio=False)
    return found


def _over_seeds(
    quantity: str, a: dict[Cell, float], b: dict[Cell, float], cells: list[Cell], *, ratio: bool
) -> list[ArmDifference]:
    """One difference for each arm that has the quantity on both sides, paired by seed."""
    arms: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        if cell in a and cell in b and (not ratio or min(a[cell], b[cell]) > 0):
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
    same = [claim for claim in claims.claims if claim.rule == "equivalence" and claim.metric == metric]
    margins = [claim.margin for claim in same if claim.quantity == "accuracy_difference" and claim.margin is not None]
    return min(margins, default=None)


def _slower_or_larger(pairs: list[CellPair], timed: set[Cell]) -> list[Regression]:
    found = []
    for pair in (pair for pair in pairs if pair.cell in timed):
        for kind, (before, after), limit, what in (
            (SPEED, pair.seconds, SLOWER, "seconds of a step"),
            (MEMORY, pair.peak_bytes, LARGER, "bytes at the peak"),
        ):
            if before and after and after > limit * before:
                told = (
                    f"{what}: {after / before - 1:+.1%}, from {before:,.4g} to {after:,.4g}; at most {limit - 1:+.0%}"
                )
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
