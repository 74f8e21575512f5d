"""One file, one figure of the report, found by being there: a `FIGURE` with its data, drawing and words.

    tables = StoredTables(results / "tables", needed(benchmark))
    records = draw_figures(tables, benchmark, results / "figures", judged)

Only admissible runs are drawn; a figure that has nothing to show leaves a record that says why.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw.blocks import FigureRecord
from groupppo.draw.figures import Picture, excluded, left_out, not_drawn, write_figure, write_index
from groupppo.draw.style import ARM_KEYS, MOST_FACETS, START, cells, refuse_empty
from groupppo.tables import Only, StoredTables, Tables


@dataclass(frozen=True)
class Evidence:
    """What figures are drawn from; `judged` is the content of verdicts.json, empty where nothing is decided yet."""

    tables: Tables | StoredTables
    benchmark: Benchmark
    judged: Mapping[str, Any]


@dataclass(frozen=True)
class ReportFigure(ABC):
    """A figure of the report.

    Args:
        id: what verdicts and links call it; the name of its files.
        title: its heading.
        order: figures stand from the lowest to the highest.
        tables: that it reads, the one that it is about first.
        metrics: that it takes of the table of steps.
        asked: whether the benchmark has what the figure compares; where it has not, there is no such figure.
    """

    id: str
    title: str
    order: int
    tables: tuple[str, ...] = field(default=("steps",), kw_only=True)
    metrics: tuple[str, ...] = field(default=(), kw_only=True)
    asked: Callable[[Benchmark], bool] = field(default=lambda _: True, kw_only=True)

    @abstractmethod
    def picture(self, evidence: Evidence) -> Picture | str:
        """The figure, or why it is not drawn."""


@dataclass(frozen=True)
class RunFigure(ReportFigure):
    """A figure of the admissible runs.

    Args:
        data: the tidy frame that is drawn, from the rows of one task and model of the first table, the benchmark, and
            the rows of the further tables. All rows of all tasks and models would not fit into memory.
        draw: the figure of that frame. caption: how to read it, with the number of seeds. alt: what it shows.
        grouped: whether it is about arms that form groups alone.
        without: why the frame may be without rows though there are runs.
    """

    data: Callable[..., pd.DataFrame]
    draw: Callable[[pd.DataFrame, Benchmark], Figure]
    caption: Callable[[pd.DataFrame, Benchmark], str]
    alt: Callable[[pd.DataFrame, Benchmark], str]
    grouped: bool = field(default=False, kw_only=True)
    without: Callable[[Benchmark], str] | None = field(default=None, kw_only=True)

    def picture(self, evidence: Evidence) -> Picture | str:
        benchmark, runs = evidence.benchmark, evidence.tables.runs
        arms = [name for name, arm in benchmark.arms.items() if arm.grouped or not self.grouped]
        if not arms:
            return "no arm of this benchmark forms groups."
        if not runs.loc[runs["arm"].isin(arms), "admissible"].astype(bool).any():
            return f"none of its runs may serve as evidence. {excluded(runs)}"
        data = self._data(evidence)
        if self.without and data.empty:
            return f"{self.without(benchmark)}. {excluded(runs)}"
        facets = cells(data, benchmark)
        shown = pd.concat([cell.rows(data) for cell in facets[:MOST_FACETS]]) if len(facets) > MOST_FACETS else data
        parts = (self.caption(shown, benchmark), left_out(len(facets), "tasks and models"), excluded(runs))
        draw = partial(self.draw, shown, benchmark)
        return Picture(self.id, self.title, data, draw, " ".join(filter(None, parts)), self.alt(shown, benchmark))

    def _data(self, evidence: Evidence) -> pd.DataFrame:
        tables, benchmark, frames = evidence.tables, evidence.benchmark, []
        for plan in benchmark.plans():
            runs = tables.runs[(tables.runs["task"] == plan.task) & (tables.runs["model"] == plan.model)]
            rows, *others = (admissible_rows(tables.cell(name, plan.task, plan.model), runs) for name in self.tables)
            if (rows["arm"] != START).any():
                frames.append(self.data(rows, benchmark, *others))
        # Without any row the figure's own check says so.
        return pd.concat(frames, ignore_index=True) if frames else self.data(rows, benchmark, *others)


@cache
def report_figures() -> tuple[ReportFigure, ...]:
    """The figure of every module here that has one, in their order."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [module.FIGURE for module in modules if hasattr(module, "FIGURE")]
    return tuple(sorted(found, key=lambda figure: figure.order))


def needed(benchmark: Benchmark) -> dict[str, Only]:
    """What the figures read of the table of steps, by far the largest; of the others, everything."""
    metrics = {name for figure in report_figures() if figure.asked(benchmark) for name in figure.metrics}
    return {"steps": Only(where={"metric": sorted(metrics)})}


def draw_figures(
    tables: Tables | StoredTables,
    benchmark: Benchmark,
    out: Path,
    judged: Mapping[str, Any] | None = None,
    processes: int = 1,
    *,
    keep: bool = False,
) -> list[FigureRecord]:
    """Draw every figure into `out` as `<id>.svg`, `<id>.png` and `<id>.csv`, and write `figures.json`.

    Args:
        tables: the tidy tables of one results folder; read by one task and model after another.
        benchmark: gives titles, order and colours of arms.
        out: the folder for the figures; made when missing, its older figures replaced.
        judged: the content of verdicts.json.
        processes: that draw, a figure each.
        keep: leave pictures that are there as they are, and write numbers, captions and the index again.

    Raises:
        BadInput: there is no run, there are admissible runs but a table has no row of them, a metric is missing, or
            the benchmark's claims are not those that were judged.
    """
    out.mkdir(parents=True, exist_ok=True)
    refuse_empty(tables.runs, "runs")
    names = [figure.id for figure in report_figures() if figure.asked(benchmark)]
    draw = partial(_draw, evidence=Evidence(tables, benchmark, judged or {}), out=out, keep=keep)
    if processes < 2:
        records = [draw(name) for name in names]
    else:
        # Forked: a spawned process would run the workflow's script again, which has no guard.
        with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
            records = list(pool.map(draw, names))
    write_index(out, records)
    return records


def _draw(name: str, evidence: Evidence, out: Path, keep: bool) -> FigureRecord:
    figure = next(figure for figure in report_figures() if figure.id == name)
    picture = figure.picture(evidence)
    if isinstance(picture, str):
        return not_drawn(name, figure.title, f"Not drawn: {picture.rstrip()}", out)
    return write_figure(picture, out, keep=keep)


def has_others(benchmark: Benchmark) -> bool:
    return len(benchmark.arms) > 1


def no_pair(benchmark: Benchmark) -> str:
    return f"no seed has both {benchmark.arms[benchmark.reference].title} and another arm"


def admissible_rows(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of admissible runs, and of the start checkpoint, which is no run."""
    kept = (table["arm"] == START).to_numpy(bool, copy=True)
    for (task, model, arm), own in runs[runs["admissible"].astype(bool)].groupby(ARM_KEYS):
        same = (table["task"] == task) & (table["model"] == model) & (table["arm"] == arm)
        kept |= (same & table["seed"].isin(own["seed"])).to_numpy(bool)
    return table[kept]
