"""All figures of a benchmark, written as SVG, PNG and CSV with captions and alternative text.

    tables = StoredTables(results / "tables", needed(benchmark))
    records = write_figures(tables, benchmark, results / "figures", judged)

`figures.json` beside the pictures holds the records, so that the report can be rendered without drawing again.
Only admissible runs are drawn; what cannot be drawn leaves a record that says why.
"""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw.captions import excluded, left_out
from groupppo.draw.figures import INDEX as INDEX
from groupppo.draw.figures import FigureRecord as FigureRecord
from groupppo.draw.figures import read_figures as read_figures
from groupppo.draw.style import (
    ARM_KEYS,
    FORMATS,
    MOST_FACETS,
    RUN_KEYS,
    START,
    cells,
    figure_style,
    refuse_empty,
    write_figure,
)
from groupppo.report import captions
from groupppo.report.figures.accuracy import accuracy_data, accuracy_figure
from groupppo.report.figures.costs import (
    stage_memory_data,
    stage_memory_figure,
    stage_seconds_data,
    stage_seconds_figure,
)
from groupppo.report.figures.parity import controls_data, controls_figure, parity_data, parity_figure
from groupppo.report.figures.target import target_data, target_figure
from groupppo.report.figures.tasks import has_tasks, profiles_data, profiles_figure, task_scores
from groupppo.report.figures.training import (
    CLOSED_BY,
    REWARD_METRICS,
    density_data,
    density_figure,
    reward_data,
    reward_figure,
)
from groupppo.report.figures.updates import METRICS, has_twins, updates_data, updates_figure
from groupppo.report.figures.verdicts import VERDICT_COLOURS, drawn_verdicts, verdicts_data, verdicts_figure
from groupppo.tables import HasCells, Only
from groupppo.verdicts.arrivals import METRICS as TARGET_METRICS
from groupppo.verdicts.claims import load_claims


@dataclass(frozen=True)
class _Plan:
    id: str
    title: str
    table: str
    data: Callable[..., pd.DataFrame]
    draw: Callable[[pd.DataFrame, Benchmark], Figure]
    asked: Callable[[Benchmark], bool] = lambda _: True
    """Whether the benchmark has what the figure compares; where it has not, there is no such figure."""
    beside: tuple[str, ...] = ()
    """Further tables, whose rows `data` takes after the benchmark."""
    without: Callable[[Benchmark], str] | None = None
    """Why its data may be without rows though there are runs; the words for a figure that is then not drawn."""


def _of_rows(data: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame, Benchmark], pd.DataFrame]:
    return lambda rows, _: data(rows)


def has_others(benchmark: Benchmark) -> bool:
    return len(benchmark.arms) > 1


def has_groups(benchmark: Benchmark) -> bool:
    return any(arm.grouped for arm in benchmark.arms.values())


def _no_pair(benchmark: Benchmark) -> str:
    return f"no seed has both {benchmark.arms[benchmark.reference].title} and another arm"


def _no_twin(_: Benchmark) -> str:
    return "no arm has been run whose update is computed in another way"


PLANS = (
    _Plan("reward", "Reward over training", "steps", _of_rows(reward_data), reward_figure),
    _Plan("target", "Cost to dense PPO's reward", "steps", target_data, target_figure, has_others, without=_no_pair),
    _Plan("accuracy", "Held-out accuracy", "evals", _of_rows(accuracy_data), accuracy_figure),
    _Plan(
        "parity",
        "Accuracy against the reference",
        "evals",
        parity_data,
        parity_figure,
        has_others,
        without=_no_pair,
    ),
    _Plan(
        "controls",
        "Accuracy against density",
        "evals",
        controls_data,
        controls_figure,
        has_groups,
        beside=("groups",),
        without=_no_pair,
    ),
    _Plan("density", "Endpoint density and what closes groups", "groups", _of_rows(density_data), density_figure),
    _Plan(
        "updates",
        "One arm, its update computed in several ways",
        "steps",
        updates_data,
        updates_figure,
        has_twins,
        without=_no_twin,
    ),
    _Plan("stage_seconds", "Seconds of each stage", "stages", _of_rows(stage_seconds_data), stage_seconds_figure),
    _Plan("stage_memory", "Memory of each stage", "stages", _of_rows(stage_memory_data), stage_memory_figure),
)


def needed(benchmark: Benchmark) -> dict[str, Only]:
    """What the figures draw of each table."""
    metrics = [*dict.fromkeys((*REWARD_METRICS, *TARGET_METRICS)), *(METRICS if has_twins(benchmark) else ())]
    keys = (*RUN_KEYS, "step")
    return {
        "steps": Only((*keys, "metric", "value"), {"metric": metrics}),
        "stages": Only((*keys, "stage", "seconds", "peak_bytes", "rise_bytes")),
        "groups": Only((*keys, "tokens", "endpoints", "density", *CLOSED_BY)),
    }


def write_figures(
    tables: HasCells,
    benchmark: Benchmark,
    out: Path,
    judged: dict[str, Any] | None = None,
    processes: int = 1,
    *,
    keep: bool = False,
) -> list[FigureRecord]:
    """Draw every figure into `out` as `<id>.svg`, `<id>.png` and `<id>.csv`, and write `figures.json`.

    Args:
        tables: the tidy tables of one results folder; read by one task and model after another.
        benchmark: gives titles, order and colours of arms.
        out: the folder for the figures; made when missing, its older figures replaced.
        judged: the content of verdicts.json, for the overview of verdicts; without it there is no overview.
        processes: that draw, a figure each.
        keep: leave pictures that are there as they are, and write numbers, captions and the index again.

    Returns:
        One record for each figure, in the report's order. A figure none of whose runs is admissible, and the density of
        a benchmark without grouped arms, has no files and a caption that says why.

    Raises:
        BadInput: there is no run, there are admissible runs but a table has no row of them, a metric is missing, or
            the benchmark's claims are not those that were judged.
    """
    out.mkdir(parents=True, exist_ok=True)
    refuse_empty(tables.runs, "runs")
    drawing: list[tuple[str, Callable[[], FigureRecord]]] = []
    if judged:
        drawing.append(("evals", partial(_overview, judged, benchmark, out, keep)))
    asked = [plan for plan in PLANS if plan.asked(benchmark)]
    drawing += [(plan.table, partial(_record, plan, tables, benchmark, out, keep)) for plan in asked]
    if has_tasks(benchmark):
        drawing.append(("evals", partial(_profiles, tables, benchmark, out, keep)))
    with figure_style():
        records = _all_of(drawing, processes)
    text = json.dumps([asdict(record) for record in records], indent=1, ensure_ascii=False)
    (out / INDEX).write_text(text + "\n", encoding="utf-8")
    return records


_drawing: list[Callable[[], FigureRecord]] = []
"""What a forked process draws of; functions of plans cannot be sent to it."""


_LARGEST_FIRST = ("stages", "steps", "groups", "evals")


def _all_of(drawing: list[tuple[str, Callable[[], FigureRecord]]], processes: int) -> list[FigureRecord]:
    """Records in the order of `drawing`, which has the table of each; figures of the largest are begun with."""
    if processes < 2:
        return [draw() for _, draw in drawing]
    _drawing[:] = [draw for _, draw in drawing]
    sizes = {table: place for place, table in enumerate(_LARGEST_FIRST)}
    order = sorted(range(len(drawing)), key=lambda place: sizes.get(drawing[place][0], len(sizes)))
    # Forked: a spawned process would run the workflow's script again, which has no guard.
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        records = dict(zip(order, pool.map(_draw, order), strict=True))
    return [records[place] for place in range(len(drawing))]


def _draw(place: int) -> FigureRecord:
    return _drawing[place]()


def _record(plan: _Plan, tables: HasCells, benchmark: Benchmark, out: Path, keep: bool) -> FigureRecord:
    reason = _why_not(plan, tables.runs, benchmark)
    return _not_drawn(plan.id, plan.title, reason, out) if reason else _drawn(plan, tables, benchmark, out, keep)


def admissible_rows(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of admissible runs, and of the start checkpoint, which is no run."""
    kept = (table["arm"] == START).to_numpy(bool, copy=True)
    for (task, model, arm), own in runs[runs["admissible"].astype(bool)].groupby(ARM_KEYS):
        same = (table["task"] == task) & (table["model"] == model) & (table["arm"] == arm)
        kept |= (same & table["seed"].isin(own["seed"])).to_numpy(bool)
    return table[kept]


def _overview(judged: dict[str, Any], benchmark: Benchmark, out: Path, keep: bool) -> FigureRecord:
    name, title = "verdicts", "Claims against measurements"
    if not any(verdict["verdict"] in VERDICT_COLOURS and verdict["low"] is not None for verdict in judged["verdicts"]):
        return _not_drawn(name, title, "Not drawn: no claim was judged by an interval.", out)
    data = verdicts_data(judged, load_claims(benchmark.claims))
    shown = drawn_verdicts(data)
    files = write_figure(out, name, data, lambda: verdicts_figure(shown, benchmark), keep=keep)
    caption = captions.verdicts(data, len(judged["verdicts"]), len(shown))
    return FigureRecord(name, title, caption, files, captions.verdicts_alt(shown))


def _profiles(tables: HasCells, benchmark: Benchmark, out: Path, keep: bool) -> FigureRecord:
    name, title = "profiles", "Performance profiles over tasks"
    frames = [tables.cell("evals", plan.task, plan.model) for plan in benchmark.plans()]
    scores = task_scores(admissible_rows(pd.concat(frames, ignore_index=True), tables.runs), benchmark)
    data = profiles_data(scores)
    if data.empty:
        reason = f"Not drawn: no seed of any arm is admissible on every task. {excluded(tables.runs)}"
        return _not_drawn(name, title, reason.rstrip(), out)
    models = list(dict.fromkeys(data["model"]))
    shown = data[data["model"].isin(models[:MOST_FACETS])]
    files = write_figure(out, name, data, lambda: profiles_figure(shown, benchmark), keep=keep)
    parts = (captions.profiles(shown, scores, benchmark), left_out(len(models), "models"))
    caption = " ".join(part for part in parts if part)
    return FigureRecord(name, title, caption, files, captions.profiles_alt(shown, benchmark))


def _data(plan: _Plan, tables: HasCells, benchmark: Benchmark) -> pd.DataFrame:
    """The frame that is drawn, from the rows of one task and model at a time: all of them would not fit into memory."""
    frames = []
    for task, model in ((cell.task, cell.model) for cell in benchmark.plans()):
        runs = tables.runs[(tables.runs["task"] == task) & (tables.runs["model"] == model)]
        rows = admissible_rows(tables.cell(plan.table, task, model), runs)
        if (rows["arm"] != START).any():
            others = [admissible_rows(tables.cell(name, task, model), runs) for name in plan.beside]
            frames.append(plan.data(rows, benchmark, *others))
    # Without any row the figure's own check says so.
    return pd.concat(frames, ignore_index=True) if frames else plan.data(rows, benchmark)


def _drawn(plan: _Plan, tables: HasCells, benchmark: Benchmark, out: Path, keep: bool) -> FigureRecord:
    data, runs = _data(plan, tables, benchmark), tables.runs
    if plan.without and data.empty:
        reason = f"Not drawn: {plan.without(benchmark)}. {excluded(runs)}"
        return _not_drawn(plan.id, plan.title, reason.rstrip(), out)
    facets = cells(data, benchmark)
    shown = data
    if len(facets) > MOST_FACETS:
        shown = pd.concat([cell.rows(data) for cell in facets[:MOST_FACETS]], ignore_index=True)
    files = write_figure(out, plan.id, data, lambda: plan.draw(shown, benchmark), keep=keep)
    words = captions.WORDS[plan.id]
    parts = (words.caption(shown, benchmark), left_out(len(facets), "tasks and models"), excluded(runs))
    caption = " ".join(part for part in parts if part)
    return FigureRecord(plan.id, plan.title, caption, files, words.alt(shown, benchmark))


def _why_not(plan: _Plan, runs: pd.DataFrame, benchmark: Benchmark) -> str:
    """Why a figure has nothing to show, or an empty text."""
    usable = runs[runs["admissible"].astype(bool)]
    if plan.table == "groups":
        grouped = [name for name, arm in benchmark.arms.items() if arm.grouped]
        if not grouped:
            return "Not drawn: no arm of this benchmark forms groups."
        usable = usable[usable["arm"].isin(grouped)]
    return "" if len(usable) else f"Not drawn: none of its runs may serve as evidence. {excluded(runs)}"


def _not_drawn(name: str, title: str, reason: str, out: Path) -> FigureRecord:
    for suffix in FORMATS:
        (out / f"{name}.{suffix}").unlink(missing_ok=True)
    return FigureRecord(name, title, reason, {}, "")
