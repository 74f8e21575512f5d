"""What the tables of one side say of every cell, by quantity: the numbers that two sides are compared by."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from groupppo.tables import Only, Tables

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


class Cell(NamedTuple):
    """A cell of the matrix; the start checkpoint has no seed."""

    task: str
    model: str
    arm: str
    seed: int | None

    def __str__(self) -> str:
        return "/".join([self.task, self.model, self.arm, *([] if self.seed is None else [f"seed{self.seed}"])])


Measured = dict[str, dict[Cell, float]]
"""Values by quantity and cell; a value that was not measured is not there."""


def measured(tables: Tables) -> Measured:
    """Median seconds of each stage, the first steps left out; the largest memory of the run in bytes; density over the
    whole run; every held-out metric."""
    found = {DENSITY: _densities(tables), PEAK: _peaks(tables)} | _seconds(tables) | _metrics(tables)
    return {
        quantity: {cell: x for cell, x in values.items() if _is_value(quantity, x)}
        for quantity, values in found.items()
    }


def is_cost(quantity: str) -> bool:
    """Whether it depends on the machine, and is compared as a ratio."""
    return quantity == PEAK or quantity.startswith(_SECONDS)


def lost_values(a: Measured, b: Measured, cells: Iterable[Cell], timed: Iterable[Cell]) -> list[str]:
    """What one side alone has of the cells of both: quantity, side, and the first of the cells.

    Args:
        cells: that are evidence on both sides. timed: those of them whose machines are the same.
    """
    told, all_cells, timed_cells = [], list(cells), list(timed)
    for quantity in sorted({*a, *b}):
        asked = timed_cells if is_cost(quantity) else all_cells
        for name, side, other in (("a", a, b), ("b", b, a)):
            there, elsewhere = side.get(quantity, {}), other.get(quantity, {})
            alone = [cell for cell in asked if cell in there and cell not in elsewhere]
            if alone:
                more = f" and {len(alone) - 1} more cells" if len(alone) > 1 else ""
                told.append(f"{quantity} of {alone[0]}{more}: only in {name}")
    return told


def _is_value(quantity: str, value: float) -> bool:
    return math.isfinite(value) and (value > 0 or not is_cost(quantity))


def _seconds(tables: Tables) -> Measured:
    last = tables.stages.groupby(list(_KEYS), observed=True)["step"].transform("max")
    warmup = (last // WARMUP_SHARE).clip(upper=MOST_WARMUP)
    rows = tables.stages[tables.stages["step"] > warmup]
    found: Measured = {}
    for (stage, *key), value in rows.groupby(["stage", *_KEYS], observed=True)["seconds"].median().items():
        found.setdefault(f"{_SECONDS}{stage}", {})[_cell(key)] = float(value)
    return found


def _peaks(tables: Tables) -> dict[Cell, float]:
    peaks = tables.stages.groupby(list(_KEYS), observed=True)["peak_bytes"].max()
    return {_cell(key): float(value) for key, value in peaks.items()}


def _densities(tables: Tables) -> dict[Cell, float]:
    totals = tables.groups.groupby(list(_KEYS), observed=True)[["endpoints", "tokens"]].sum()
    return {_cell(key): float(value) for key, value in (totals["endpoints"] / totals["tokens"]).items()}


def _metrics(tables: Tables) -> Measured:
    found: Measured = {}
    for row in tables.evals.itertuples():
        seed = None if pd.isna(row.seed) else int(row.seed)
        found.setdefault(row.metric, {})[Cell(row.task, row.model, row.arm, seed)] = float(row.value)
    return found


def _cell(key: Any) -> Cell:
    return Cell(str(key[0]), str(key[1]), str(key[2]), int(key[3]))
