"""The pilot's sweep of learning rates, as the page shows it: table, figure, and what the seeds were counted from."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from groupppo.config import Benchmark
from groupppo.config.benchmark import RATE_KEY as KEY
from groupppo.draw.style import (
    FORMATS,
    QUIET,
    curve,
    figure_style,
    grid,
    legend_below,
    line,
    looks_of,
    points,
    wrap,
    write_figure,
)
from groupppo.draw.wording import MISSING, number
from groupppo.errors import BadInput
from groupppo.records.where import where_of
from groupppo.report.drawing import FigureRecord
from groupppo.report.sections.study import TextCell, TextTable
from groupppo.stats.power import seeds_for_equivalence
from groupppo.verdicts.claims import EQUIVALENCE, Claims, load_claims
from groupppo.verdicts.sweep import METRIC, TABLE, at_an_end, chosen_rates, paired_spread

FOLDER, FIGURE = "pilot", "sweep"


@dataclass(frozen=True)
class Sweep:
    """What the page shows of a pilot; `where`: where its runs are from."""

    where: str
    table: TextTable
    told: str
    figure: FigureRecord


def read_sweep(results: Path, benchmark: Benchmark) -> Sweep | None:
    """None for a benchmark without a pilot."""
    if benchmark.pilot is None:
        return None
    rows = read_rows(results, benchmark.pilot)
    return Sweep(
        _where(rows), _table(rows, benchmark), _told(rows, benchmark, load_claims(benchmark.claims)), _record(rows)
    )


def read_rows(results: Path, pilot: Path) -> pd.DataFrame:
    """The table of a benchmark's pilot.

    Raises:
        BadInput: it is missing.
    """
    file = results / FOLDER / TABLE
    if not file.is_file():
        raise BadInput(file, "file", None, f"run the pilot first: snakemake --config benchmark={pilot}")
    return pd.read_parquet(file)


def draw_sweep(rows: pd.DataFrame, benchmark: Benchmark, out: Path, *, keep: bool = False) -> None:
    """Write the figure with its data into `out`; arms of `benchmark` look as in its other figures. With `keep`,
    pictures that are there stay as they are."""
    with figure_style():
        write_figure(out, FIGURE, rows, lambda: _figure(rows, benchmark), keep=keep)


def _figure(rows: pd.DataFrame, benchmark: Benchmark) -> Figure:
    titles = dict(zip(rows["arm"], rows["title"], strict=True))
    here = {name: titles.get(name, arm.title) for name, arm in benchmark.arms.items()}
    looks, rates = looks_of(here | titles, benchmark.reference), sorted(set(rows["rate"]))
    figure, axes = grid(1, 1, 3.4)
    panel = axes[0, 0]
    for arm in titles:
        own = rows[rows["arm"] == arm]
        panel.plot(own["rate"], own["accuracy"], alpha=0.45, **points(looks[arm]))
        means = own.groupby("rate")["accuracy"].mean()
        panel.plot(means.index, means, **curve(looks[arm], len(means)))
    panel.set(xscale="log", xlabel="learning rate of the policy", ylabel=f"held-out {METRIC}")
    panel.set_title(wrap(_where(rows), 100), fontsize=8.5, fontweight="normal", color=QUIET)
    panel.xaxis.set_major_locator(FixedLocator(rates))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([f"{rate:g}" for rate in rates])
    legend_below(figure, [line(looks[arm]) for arm in titles])
    return figure


def _record(rows: pd.DataFrame) -> FigureRecord:
    best = chosen_rates(rows)
    titles = dict(zip(rows["arm"], rows["title"], strict=True))
    shown = "; ".join(f"{titles[arm]} best at {best[arm]:g}" for arm in titles)
    caption = (
        f"{_where(rows)} Held-out accuracy of the pilot's runs against the learning rate: each run, and lines through "
        "the means."
    )
    files = {suffix: f"{FIGURE}.{suffix}" for suffix in FORMATS}
    return FigureRecord(FIGURE, "The pilot's sweep of learning rates", caption, files, f"Line chart. {shown}.")


def _table(rows: pd.DataFrame, benchmark: Benchmark) -> TextTable:
    best, rates = chosen_rates(rows), sorted(set(rows["rate"]))
    seeds = ", ".join(map(str, sorted(set(rows["seed"]))))
    lines = []
    for arm, own in rows.groupby("arm", sort=False):
        cells = []
        for rate in rates:
            values = own[own["rate"] == rate]["accuracy"]
            mark = "best: " if rate == best[str(arm)] else ""
            each = " ".join(number(value) for value in values)
            cells.append(TextCell(f"{mark}{number(values.mean())}", each) if len(values) else TextCell(MISSING))
        lines.append([TextCell(own["title"].iloc[0]), *cells, _here(str(arm), best[str(arm)], benchmark)])
    caption = (
        f"Mean held-out {METRIC} of the pilot's runs (seeds {seeds}, which this benchmark does not use), below it each "
        "seed's. Every arm was swept over the same rates; the best mean chose the rate that this benchmark trains at."
    )
    return TextTable(caption, ["Arm", *(f"rate {rate:g}" for rate in rates), "Trained here at"], lines)


def _where(rows: pd.DataFrame) -> str:
    return f"Not run for this results folder: the pilot is {where_of(rows).told()}."


def _here(arm: str, best: float, benchmark: Benchmark) -> TextCell:
    if arm not in benchmark.arms:
        return TextCell(MISSING, "not in this benchmark")
    rate = float(benchmark.arms[arm].verl.get(KEY, benchmark.train.actor_lr))
    return TextCell(f"{rate:g}", "" if rate == best else f"not the pilot's best, {best:g}")


def _told(rows: pd.DataFrame, benchmark: Benchmark, claims: Claims) -> str:
    title = benchmark.arms[benchmark.reference].title
    spread, freedom = paired_spread(rows, benchmark.reference)
    told = (
        f"The paired difference of held-out {METRIC} to {title}, each arm at its best rate, has a standard deviation "
        f"of {number(spread)} (pooled over arms, {freedom} degrees of freedom)."
    )
    for margin in sorted({claim.margin for claim in claims.claims if claim.rule == EQUIVALENCE and claim.margin}):
        needed = seeds_for_equivalence(spread, margin, claims.level, claims.power)
        asks = f"{needed} seeds" if needed else "more seeds than anyone trains"
        told += f" Equivalence within {margin:g} with {claims.power:.0%} power asks for {asks}."
    titles = dict(zip(rows["arm"], rows["title"], strict=True))
    ends = ", ".join(titles[arm] for arm in at_an_end(rows))
    return told + (f" The best rate is an end of the sweep for: {ends}." if ends else "")
