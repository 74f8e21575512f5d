"""One look for every figure: colours, sizes, labels, and a panel for each task and model.

Any two of the arms' colours are apart to a reader with or without a common colour blindness; dashes, markers and
hatches repeat the distinction for a print in grey, and make it where colours return. Figures are built on
`matplotlib.figure.Figure`, without pyplot's global state.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy import stats

from groupppo.config import Benchmark
from groupppo.errors import BadInput

ARM_KEYS = ["task", "model", "arm"]
RUN_KEYS = [*ARM_KEYS, "seed"]
START = "start"
LEVEL = 0.90
WIDTH = 7.6
LETTER = 0.078
"""Inches: width of a figure, and of an average letter at label size."""
MOST_SINGLE = 12
"""Seeds of an arm up to which a figure of curves has one for each; of more it has their mean."""
MOST_BANDED = 6
"""Arms up to which a panel of curves shows single seeds and bands; of more they hide the means."""
MOST_FACETS = 6
"""Tasks and models that a figure shows; its CSV has all."""
MOST_POINTS = 100
"""Points of a drawn curve; a run of more steps is thinned evenly, in the picture only."""
INK, QUIET = "#222222", "#6b6b6b"
MARGIN = "#cfe8dc"
"""The stretch that a claim is about."""
DOTTED: dict[str, Any] = {"color": QUIET, "linewidth": 1, "linestyle": (0, (1, 1.5))}
"""The line of no difference."""
REFERENCE_COLOUR = "#000000"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#800040", "#36b7e2", "#605020", "#d279a6", "#002080")
DASHES: tuple[tuple[float, ...], ...] = (
    (4.5, 1.5),
    (1.4, 1.3),
    (5, 1.4, 1.4, 1.4),
    (8, 2),
    (5, 1.4, 1.4, 1.4, 1.4, 1.4),
)
MARKERS = ("s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++")
MARKS = 6
"""Markers on a drawn curve."""

# Apart as the arms' are; a segment has neither dashes nor a marker.
STAGE_COLOURS = {
    "gen": "#0072b2",
    "old_log_prob": "#bf93ec",
    "values": "#7f8000",
    "adv": "#3a1b98",
    "update_critic": "#ba5e75",
    "update_actor": "#f2b134",
    "update_weights": "#802000",
    "rest": "#c4c4c4",
}
# None of the arms' colours: here a colour is a cause.
CLOSED_COLOURS = {"cap": "#b4bfcc", "criterion": "#4b3f8f", "end": "#e6e3da"}

_RC: dict[Any, Any] = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("paper"),
    "axes.edgecolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    # Paths, because a reader's machine may lack the font, and another font would clip.
    "svg.fonttype": "path",
    "svg.hashsalt": "groupppo",
    # Titles come from YAML files: a lone dollar sign must not be read as mathematics.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Look:
    """How one arm is drawn in every figure; colour with dashes, marker or hatch tells it from any other. Markers on
    curves are shifted by `place`, so that they do not hide one another."""

    label: str
    colour: str
    dashes: tuple[float, ...]
    marker: str
    hatch: str = ""
    width: float = 2.0
    place: int = 0


@dataclass(frozen=True, order=True)
class Cell:
    """A task with a model."""

    task: str
    model: str

    def rows(self, data: pd.DataFrame) -> pd.DataFrame:
        return data[(data["task"] == self.task) & (data["model"] == self.model)]


class Facet(NamedTuple):
    """What a figure shows of one task and model: its rows, the looks of their arms, and panels under its title."""

    rows: pd.DataFrame
    arms: dict[str, Look]
    panels: Sequence[Axes]


def arm_looks(benchmark: Benchmark, data: pd.DataFrame) -> dict[str, Look]:
    """How each arm that `data` has is drawn, fixed by its place in the benchmark."""
    looks = looks_of({name: arm.title for name, arm in benchmark.arms.items()}, benchmark.reference)
    return {arm: looks[arm] for arm in arms_in(data, benchmark)}


def looks_of(titles: Mapping[str, str], reference: str) -> dict[str, Look]:
    """As `arm_looks`, of arms by name with their titles; the reference alone is black, solid, round and thick."""
    others = {name: look_at(place, titles[name]) for place, name in enumerate(n for n in titles if n != reference)}
    first = Look(titles.get(reference, ""), REFERENCE_COLOUR, (), "o", width=2.8)
    return {name: others.get(name, first) for name in titles}


def look_at(place: int, label: str) -> Look:
    """The look of the series at a place, counted from 0; none is a reference's, and 40 differ."""
    turn, hue = divmod(place, len(ARM_COLOURS))
    # From turn to turn dashes and markers shift in opposite ways: series of one colour differ in both, and those of
    # equal dashes in marker and colour.
    dashes, marker = DASHES[(hue + turn) % len(DASHES)], MARKERS[(hue - turn) % len(MARKERS)]
    return Look(label, ARM_COLOURS[hue], dashes, marker, HATCHES[turn % len(HATCHES)], place=place + 1)


def cells(data: pd.DataFrame, benchmark: Benchmark) -> list[Cell]:
    """The (task, model) pairs that `data` has, in the benchmark's order."""
    found = set(zip(data["task"], data["model"], strict=True))
    return [Cell(task, model) for task in benchmark.tasks for model in benchmark.models if (task, model) in found]


def cell_title(cell: Cell, benchmark: Benchmark) -> str:
    return wrap(f"{benchmark.tasks[cell.task].title}, {benchmark.models[cell.model].title}", 72)


def arms_in(data: pd.DataFrame, benchmark: Benchmark) -> list[str]:
    """The arms that `data` has, in the benchmark's order."""
    found = set(data["arm"])
    return [arm for arm in benchmark.arms if arm in found]


def wrap(text: str, width: int = 18) -> str:
    """Break a label over lines so that it is not clipped."""
    return "\n".join(textwrap.wrap(text, width)) or text


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """With texts for categories: a frame that is drawn is small, and unused categories would be drawn too."""
    return frame.astype({name: "str" for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)})


def refuse_empty(table: pd.DataFrame, name: str) -> None:
    """Raise BadInput for a table without rows: an empty picture would look like a result."""
    if table.empty:
        hint = "collect at least one finished run; there is nothing to draw."
        raise BadInput(f"tables/{name}.parquet", "rows", 0, hint)


def share_limits(values: pd.DataFrame) -> tuple[float, float]:
    """Limits of an accuracy or reward axis: the data with a margin, inside 0..1, never a span below 0.1."""
    low, high = float(values.min(axis=None)), float(values.max(axis=None))
    margin = max(0.05 * (high - low), (0.1 - (high - low)) / 2, 0.01)
    return max(0.0, low - margin), min(1.0, high + margin)


def percent(share: float, _position: float = 0) -> str:
    """A tick label: 0.075 is "7.5 %"."""
    return f"{100 * share:.4g} %"


def t_interval(values: np.ndarray, pool: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and t interval over seeds: mean -+ t(n-1) * sqrt(variance / n).

    Args:
        values: shape (seeds, points).
        pool: the variance at a point is averaged over this many neighbouring points. At single points of a curve the
            spread of a few seeds is mostly chance: it vanishes wherever two seeds happen to cross.

    Returns:
        Mean, lower and upper bound, each of shape (points,). The bounds are NaN for one seed: one value has no spread.
    """
    n = values.shape[0]
    mean = values.mean(axis=0)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    variance = pd.Series(values.var(axis=0, ddof=1)).rolling(max(1, pool), center=True, min_periods=1).mean()
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.sqrt(variance.to_numpy() / n)
    return mean, mean - half, mean + half


def seed_means(runs: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """The mean over seeds of a column by some keys, `low` and `high` of its t interval, and the number of `seeds`."""
    rows = []
    for names, own in runs.groupby(keys, sort=False, observed=True):
        (mean,), (low,), (high,) = t_interval(own[[value]].to_numpy(float))
        rows.append([*names, mean, low, high, len(own)])
    return pd.DataFrame(rows, columns=[*keys, value, "low", "high", "seeds"])


@contextmanager
def figure_style() -> Iterator[None]:
    """Every figure is built AND saved inside this context, so that no caller's settings leak in."""
    with matplotlib.rc_context(_RC):
        yield


def facets(
    data: pd.DataFrame, benchmark: Benchmark, height: float, *, columns: int = 1, by_arm: float = 0.0
) -> tuple[Figure, list[Facet]]:
    """A figure with a row of panels for each task and model, laid out so that nothing overlaps.

    Args:
        data: with the columns task, model and arm.
        benchmark: gives titles and order.
        height: of a row with its labels, in inches.
        columns: panels of a row.
        by_arm: what each arm adds to the height of its row; the panels are then as high as their arms.
    """
    found = cells(data, benchmark)
    rows = [cell.rows(data) for cell in found]
    arms = [arm_looks(benchmark, own) for own in rows]
    heights = [height + by_arm * len(own) for own in arms]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    ratios = [len(own) for own in arms] if by_arm else heights
    axes = figure.subplots(len(found), columns, squeeze=False, height_ratios=ratios)
    for panels, cell in zip(axes, found, strict=True):
        panels[0].set_title(cell_title(cell, benchmark))
    return figure, [Facet(*parts) for parts in zip(rows, arms, axes, strict=True)]


def label_rows(panel: Axes, labels: Iterable[str], letters: int = 22) -> None:
    """Rows from the top down with their labels, and no grid between them."""
    texts = [wrap(label, letters) for label in labels]
    panel.set_yticks(range(len(texts)), texts)
    panel.set_ylim(len(texts) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)


def stacked_bars(panel: Axes, widths: pd.DataFrame, colours: Mapping[str, str], whole: pd.Series) -> np.ndarray:
    """A bar for each row of `widths` with a segment for each of its columns, in the order of `colours`, and a diamond
    at `whole`; returns where each ends."""
    left = np.zeros(len(widths))
    for part, colour in colours.items():
        width = widths[part].fillna(0).to_numpy() if part in widths else np.zeros(len(widths))
        panel.barh(range(len(widths)), width, 0.64, left, color=colour, edgecolor="white", linewidth=0.7)
        left = left + width
    panel.plot(whole, range(len(widths)), "D", color=INK, markersize=4.5, zorder=3)
    ends = np.maximum(whole.to_numpy(float), left)
    panel.set_xlim(0, 1.3 * float(ends.max()))
    return ends


def beside(panel: Axes, text: str, at: tuple[float, float], **look: Any) -> None:
    """A few words to the right of a point."""
    panel.annotate(text, at, xytext=(7, 0), textcoords="offset points", va="center", fontsize=8.5, **look)


def legend_below(figure: Figure | SubFigure, handles: Iterable[Artist]) -> None:
    """One legend for all panels, under them, in as many columns as fit the width; the labels are the handles' own."""
    handles = list(handles)
    labels = [wrap(str(handle.get_label()), 36) for handle in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = min(6, len(labels), max(1, int(WIDTH / (LETTER * longest + 0.85))))
    # A line is as long as the longest dash pattern twice.
    shape = {"ncols": columns, "columnspacing": 1.4, "handlelength": 3.0}
    figure.legend(handles, labels, loc="outside lower center", **shape)


def steps_axis(panel: Axes, ticks: int) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))


def patch(colour: str, label: str, hatch: str = "") -> Artist:
    return Patch(facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0, label=label)


def mark(label: str, marker: str, colour: str = QUIET, **look: Any) -> Artist:
    """The entry of a legend for a marker, with a line through it where `look` has a style for one."""
    given: dict[str, Any] = {"marker": marker, "color": colour, "markersize": 6, "linestyle": "none"}
    return Line2D([], [], label=label, **given | look)


def line(look: Look) -> Artist:
    return Line2D([], [], label=look.label, **curve(look, 1))


def curve(look: Look, length: int) -> dict[str, Any]:
    """What `Axes.plot` takes to draw a curve of so many points in a look, with a few markers on it."""
    every = -(-length // MARKS)
    style = {"linestyle": (0, look.dashes), "linewidth": look.width, "markevery": (look.place % every, every)}
    return {**points(look, 6), **style, "markeredgecolor": "white", "markeredgewidth": 0.5}


def points(look: Look, size: float = 5) -> dict[str, Any]:
    """What `Axes.plot` and `Axes.errorbar` take to draw points of a size in a look."""
    # A star fills little of its size.
    size *= 1.6 if look.marker == "*" else 1
    return {"color": look.colour, "marker": look.marker, "markersize": size, "linestyle": "none"}


def draw_curves(panel: Axes, rows: pd.DataFrame, y: str, looks: dict[str, Look]) -> None:
    """Thin lines for seeds, a thick one and a band for their mean; of more than MOST_BANDED arms the means alone.

    Args:
        panel: where they are drawn.
        rows: arm, seed (<NA>: the mean), x, low, high, and the column that `y` names.
        y: what is drawn over x.
        looks: of the arms that have rows.
    """
    crowded = rows["arm"].nunique() > MOST_BANDED
    for arm, look in looks.items():
        own = rows[rows["arm"] == arm]
        for _, run in own.groupby("seed") if not crowded else ():
            panel.plot(run["x"], run[y], color=look.colour, linewidth=0.8, alpha=0.45)
        mean = thinned(own[own["seed"].isna()])
        panel.plot(mean["x"], mean[y], zorder=3, **curve(look, len(mean)))
        if mean["low"].notna().all() and not crowded:
            panel.fill_between(mean["x"], mean["low"], mean["high"], color=look.colour, alpha=0.14, linewidth=0)


def thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_POINTS of the rows, the first and the last among them."""
    count = len(rows)
    return rows.iloc[np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))]
