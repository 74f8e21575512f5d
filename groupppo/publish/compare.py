"""Two bundles or results folders side by side: the same cells, paired by seed, with intervals; regressions are flagged.

    comparison = compare(Path("before.zip"), Path("after.zip"))
    raise SystemExit(comparison.exit_code)

`a` is what was, `b` is what is now. A cell is (task, model, arm, seed).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from groupppo.config import Benchmark
from groupppo.config.benchmark import CELLS
from groupppo.draw.wording import in_bytes, seconds_text
from groupppo.errors import BadInput
from groupppo.publish.contents import RECORD, sums_differences
from groupppo.publish.reading import config_values, flat, read_json, safe_tables
from groupppo.publish.source import RESULTS, Source, loaded_config, opened
from groupppo.records.folders import RunFolder, cell_path
from groupppo.records.plain_yaml import read_yaml
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
_KEYS = ["task", "model", "arm", "seed"]
NEEDED = {
    "runs": Only(),
    "evals": Only(),
    "stages": Only((*_KEYS, "step", "stage", "seconds", "peak_bytes")),
    "groups": Only((*_KEYS, "endpoints", "tokens")),
}
"""The part of the tables that is read."""


Differences = list[tuple[str, str, str]]
"""Key, value in a and value in b of every setting that differs, sorted by key; "not set" where a side has none."""
_OF_MACHINE = ("cpu", "cpu_cores", "gpu", "gpu_count")
MACHINE = ("device", "rollout", "cpu", "software.omp_num_threads", *(f"machine.{name}" for name in _OF_MACHINE))
"""What seconds and bytes depend on; where it differs they are not compared."""
_RECORDED = ("device", "machine", "software", "source", "inputs", "host", "cpu", "torch", "verl", "transformers")
# They differ between any two runs or copies, or follow from what is compared by itself, as the start is by the hash
# of its evaluation: older runs hashed it with its logs, seconds included.
_IGNORED = {"machine.cpu_mhz", "machine.memory_bytes", "inputs.config_sha256", "source.uncommitted_sha256"}
_IGNORED |= {"inputs.start_model_sha256", "inputs.start_checkpoint_sha256"}
_EVALUATION = ("n", "data_sha256", "yaml_sha256", "lm_eval_version", "batch_size", "repeats", "eval_seed")
_PLACE_KEYS = ("trainer.experiment_name", "trainer.project_name")
_NO_SETTINGS = {"source", "claims", "profile", "pilot", "name", "title", "description", "seeds", "studies", CELLS}


class SettingDifference(NamedTuple):
    """One setting, such as "config train.steps" or "machine.cpu", that differs; `cells`: where, empty for all."""

    key: str
    a: str
    b: str
    cells: tuple[str, ...] = ()


class ArmDifference(NamedTuple):
    """One quantity of one arm over the seeds that both sides have."""

    arm: str  # "<task>/<model>/<arm>"
    quantity: str  # "seconds of <stage>", "peak memory", "density" or a held-out metric
    seeds: int
    a: float  # mean over the seeds, geometric for costs
    b: float
    estimate: float  # of b / a for costs, else of b - a
    low: float | None  # end of its 90 % paired interval; None for one seed
    high: float | None


class Regression(NamedTuple):
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


class NotCompared(NamedTuple):
    """What is not compared: a cell, or a quantity of some. `UNPLANNED` is no loss: one side's matrix leaves it out."""

    gap: Gap
    what: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    a: str  # what was compared, as named
    b: str
    benchmarks: tuple[str, str]  # their names
    metric: str  # the held-out metric that claims are decided by
    margin: float | None  # by which accuracy may fall, None where no claim states one
    cells: tuple[str, ...]  # those of both sides that are evidence, as <task>/<model>/<arm>/seed<k>
    arms: tuple[ArmDifference, ...]
    settings: tuple[SettingDifference, ...]  # between runs of the same cell, and between the benchmarks
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


class _Side(NamedTuple):
    """What is compared of one side; its tables, larger than all of this, are not kept."""

    source: Source
    runs: dict[Keys, dict[str, Any]]
    values: pd.Series
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
        for name, expected, found in sums_differences(source.folder):
            hint = f"fetch it again: the bundle says {expected}."
            raise BadInput(source.folder / name, "SHA-256", found, hint)
    with loaded_config(source.folder) as (benchmark, claims):
        tables = safe_tables(source.folder / "tables", NEEDED)
        runs = {_cell(row): row for row in tables.runs.to_dict("records")}
        return _Side(source, runs, measured(tables), benchmark, claims)


def _compared(a: _Side, b: _Side) -> Comparison:
    missing, regressions = _missing(a, b)
    shared = sorted(set(a.runs) & set(b.runs), key=lambda cell: cell_path(*cell))
    sound = [cell for cell in shared if a.runs[cell]["admissible"] and b.runs[cell]["admissible"]]
    unlike = {cell: _unlike(a, b, cell) for cell in sound}
    timed = set(sound)
    for cell, differences in unlike.items():
        machine = [key for key, _, _ in differences if key in MACHINE]
        if machine:
            timed.discard(cell)
            why = f"seconds and memory, for {', '.join(machine)} differ"
            missing.append(NotCompared(Gap.WITHHELD, cell_path(*cell), why))
    values = pd.concat({"a": a.values, "b": b.values}, axis=1)
    compared = [key[1:] in (timed if is_cost(key[0]) else unlike) for key in values.index]
    judged = values[np.array(compared, dtype=bool)]
    metric, margin, arms = a.claims.learning_metric, _margin(a.claims), _arms(judged)
    hashes = a.claims.sha256, b.claims.sha256
    claimed = [SettingDifference("claims (SHA-256)", *hashes)] if hashes[0] != hashes[1] else []
    matrices = _matrix_differences(*(side.source.folder / RECORD for side in (a, b)))
    of_cells = _grouped({cell_path(*cell): differences for cell, differences in unlike.items()})
    order = list(Gap)
    return Comparison(
        a=str(a.source.path),
        b=str(b.source.path),
        benchmarks=(a.benchmark.name, b.benchmark.name),
        metric=metric,
        margin=margin,
        cells=tuple(cell_path(*cell) for cell in sound),
        arms=tuple(arms),
        settings=(*matrices, *claimed, *of_cells),
        not_compared=tuple(sorted([*missing, *_lost(judged)], key=lambda each: order.index(each.gap))),
        regressions=(*regressions, *_slower_or_larger(judged), *_less_accurate(arms, metric, margin)),
    )


def _unlike(a: _Side, b: _Side, cell: Keys) -> Differences:
    was, now = (str(side.runs[cell]["rollout"]) for side in (a, b))
    found = _cell_differences(a.source.folder, b.source.folder, cell_path(*cell))
    return found if was == now else [("rollout", was, now), *found]


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


def measured(tables: Tables) -> pd.Series:
    """Values by quantity, task, model, arm and seed; what was not measured is not there.

    Median seconds of each stage, the first steps left out; the largest memory of the run in bytes; density over the
    whole run; every held-out metric.
    """
    stages, by_cell = tables.stages, tables.stages.groupby(_KEYS, observed=True)
    timed = stages[stages["step"] > (by_cell["step"].transform("max") // WARMUP_SHARE).clip(upper=MOST_WARMUP)]
    seconds = timed.groupby(["stage", *_KEYS], observed=True)["seconds"].median().reset_index(name="value")
    totals = tables.groups.groupby(_KEYS, observed=True)[["endpoints", "tokens"]].sum()
    density = totals["endpoints"] / totals["tokens"]
    rows = pd.concat(
        [
            seconds.assign(quantity=_SECONDS + seconds["stage"].astype(str)),
            by_cell["peak_bytes"].max().reset_index(name="value").assign(quantity=PEAK),
            density.reset_index(name="value").assign(quantity=DENSITY),
            tables.evals.rename(columns={"metric": "quantity"}),
        ]
    ).dropna(subset=["seed", "value"])
    costs = rows["quantity"].map(is_cost)
    sound = rows[np.isfinite(rows["value"]) & ((rows["value"] > 0) | ~costs)]
    index = ["quantity", *_KEYS]
    plain = sound.astype(dict.fromkeys(index, "object") | {"seed": "int64", "value": "float64"})
    return plain.groupby(index)["value"].last()


def is_cost(quantity: str) -> bool:
    """Whether it depends on the machine, and is compared as a ratio."""
    return quantity == PEAK or quantity.startswith(_SECONDS)


def _cell(run: dict[str, Any]) -> Keys:
    """A folder whose name tells no seed gives a cell without one."""
    seed = None if pd.isna(run["seed"]) else int(run["seed"])
    return Keys(str(run["task"]), str(run["model"]), str(run["arm"]), seed)


def _lost(judged: pd.DataFrame) -> Iterator[NotCompared]:
    """What one side alone has of the cells of both: quantity, side, and the first of the cells."""
    for side, other in ("ab", "ba"):
        for quantity, rows in judged[judged[other].isna()].groupby("quantity"):
            cells = [cell_path(*key[1:]) for key in rows.index]
            more = f" and {len(cells) - 1} more cells" if len(cells) > 1 else ""
            yield NotCompared(Gap.LOST, f"{quantity} of {cells[0]}{more}", f"only in {side}")


def _arms(judged: pd.DataFrame) -> list[ArmDifference]:
    """Differences over seeds of what both sides have: seconds of the whole step, of stages, memory, and the rest."""
    arms = []
    for (quantity, *arm), rows in judged.dropna().groupby(["quantity", *_KEYS[:3]]):
        was, now, costs = rows["a"], rows["b"], is_cost(quantity)
        means = [float(np.exp(np.log(side).mean()) if costs else side.mean()) for side in (was, now)]
        change = (now / was if costs else now - was).tolist()
        interval = (paired_ratio if costs else paired_t)(change, LEVEL) if len(change) > 1 else None
        ends = (interval.estimate, interval.low, interval.high) if interval else (change[0], None, None)
        arms.append(ArmDifference("/".join(arm), quantity, len(change), *means, *ends))

    def order(arm: ArmDifference) -> tuple[Any, ...]:
        return arm.arm, not is_cost(arm.quantity), arm.quantity != STEP, arm.quantity == PEAK, arm.quantity

    return sorted(arms, key=order)


def _margin(claims: Claims) -> float | None:
    """The smallest margin within which a claim takes the learning metric of two arms for equal."""
    same = [c for c in claims.claims if c.rule == EQUIVALENCE and c.metric == claims.learning_metric]
    margins = [claim.margin for claim in same if claim.quantity == "accuracy_difference" and claim.margin is not None]
    return min(margins, default=None)


def _slower_or_larger(judged: pd.DataFrame) -> Iterator[Regression]:
    for quantity, kind, limit, what, form in (
        (STEP, SPEED, SLOWER, "a step", seconds_text),
        (PEAK, MEMORY, LARGER, "memory at the peak", in_bytes),
    ):
        rows = judged[judged["b"] > limit * judged["a"]]
        for key, before, after in rows[rows.index.get_level_values(0) == quantity].itertuples():
            more, most = 100 * (after / before - 1), 100 * (limit - 1)
            message = f"{what}: {more:+.1f} %, from {form(before)} to {form(after)}; at most {most:+.0f} %"
            yield Regression(kind, cell_path(*key[1:]), message)


def _less_accurate(arms: Iterable[ArmDifference], metric: str, margin: float | None) -> Iterator[Regression]:
    """An interval wholly below zero, or a mean that fell by more than the margin."""
    for arm in (arm for arm in arms if arm.quantity == metric):
        change = f"{metric} {arm.estimate:+.4f}"
        change += f" [{arm.low:+.4f}, {arm.high:+.4f}]" if arm.low is not None else ""
        if arm.high is not None and arm.high < 0:
            yield Regression(ACCURACY, arm.arm, f"{change}: the interval lies wholly below zero")
        elif margin is not None and arm.estimate < -margin:
            yield Regression(ACCURACY, arm.arm, f"{change}: fell by more than the margin of {margin:g}")


def _cell_differences(a: Path, b: Path, cell: str) -> Differences:
    """Machine, software, source, inputs, evaluation and each key of verl's config in which a cell of two folders
    differs."""
    recorded = [_recorded(side, cell) for side in (a, b)]
    files = [RunFolder(side / "runs" / cell).config for side in (a, b)]
    there = [file.is_file() for file in files]
    for own, file in zip(recorded, files, strict=True):
        if all(there):
            values = config_values(file)
            own |= {f"config {key}": value for key, value in values.items() if key not in _PLACE_KEYS}
        elif file.is_file():
            own["config"] = "a file"
    return _differences(*recorded)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Differences:
    was, now = ({key: str(value) for key, value in side.items()} for side in (a, b))
    keys = sorted(set(was) | set(now))
    return [(key, was.get(key, "not set"), now.get(key, "not set")) for key in keys if was.get(key) != now.get(key)]


def _recorded(folder: Path, cell: str) -> dict[str, Any]:
    provenance, result = RunFolder(folder / "runs" / cell).provenance, folder / "evals" / cell / "result.json"
    start = result.parents[2] / "start" / "result.json"
    found: dict[str, Any] = {}
    if provenance.is_file():
        kept = {key: value for key, value in read_json(provenance).items() if key in _RECORDED}
        found |= {key: value for key, value in flat(kept).items() if key not in _IGNORED}
    if start.is_file():
        found["start (SHA-256)"] = read_json(start).get("checkpoint_sha256")
    if result.is_file():
        found |= {f"evaluation {key}": value for key, value in read_json(result).items() if key in _EVALUATION}
    return found


def _matrix_differences(a: Path, b: Path) -> list[SettingDifference]:
    """Keys of the two matrices (benchmark.yaml) that differ, cells and places of files apart."""
    flattened = (flat(read_yaml(path)) for path in (a, b))
    sides = [{k: v for k, v in side.items() if not set(k.split(".")) & _NO_SETTINGS} for side in flattened]
    return [SettingDifference(f"benchmark {key}", was, now) for key, was, now in _differences(*sides)]


def _grouped(found: Mapping[str, Differences]) -> list[SettingDifference]:
    """Differences of many cells, one entry for each key and pair of values."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for cell, items in found.items():
        for item in items:
            cells.setdefault(item, []).append(cell)
    return [SettingDifference(*item, tuple(names)) for item, names in sorted(cells.items())]
