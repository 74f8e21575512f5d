"""One look for every figure: colours, sizes, labels, and how a figure is laid out in facets.

Any two of the arms' colours are apart to a reader with or without a common colour blindness (CIEDE2000 of at least 20,
and of 10 as seen with protanopia, deuteranopia or tritanopia); dashes, markers and hatches repeat the distinction for a
print in grey, and make it where colours return. Figures are built on `matplotlib.figure.Figure`, without pyplot's
global state.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
LEVEL = 0.90
WIDTH = 7.6
LETTER = 0.078
"""Inches: width of a figure, and of an average letter at label size."""
MOST_SINGLE = 12
"""Seeds of an arm up to which a figure shows each; of more it shows their spread."""
MOST_BANDED = 6
"""Arms up to which a panel of curves shows single seeds and bands; of more they hide the means."""
MOST_FACETS = 6
"""Tasks and models that a figure shows; its CSV has all."""
MOST_POINTS = 100
"""Points of a drawn curve; a run of more steps is thinned evenly, in the picture only."""
HANDLE = 3.0
"""Length of a line in a legend, in letters: the longest dash pattern shows twice."""
SPREAD = (5.0, 95.0)
"""Percentiles over seeds that stand for the single ones where there are too many."""
INK = "#222222"
QUIET = "#6b6b6b"
START = "start"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#800040", "#36b7e2", "#605020", "#d279a6", "#002080")
REFERENCE_COLOUR = "#000000"
SOLID: tuple[float, ...] = ()
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
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    # Paths, because a reader's machine may lack the font, and another font would clip.
    "svg.fonttype": "path",
    "svg.hashsalt": "groupppo",
    "text.color": INK,
    # Titles come from YAML files: a lone dollar sign must not be read as mathematics.
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}


@dataclass(frozen=True)
class Look:
    """How one arm is drawn in every figure; colour and dashes tell it from any other, and so do colour and marker,
    colour and hatch (of a bar). `place`: among the arms, so that markers on curves do not hide one another."""

    label: str
    colour: str
    dashes: tuple[float, ...]
    marker: str
    hatch: str = ""
    width: float = 2.0
    place: int = 0


@dataclass(frozen=True, order=True)
class Cell:
    """One facet: a task with a model."""

    task: str
    model: str

    def rows(self, data: pd.DataFrame) -> pd.DataFrame:
        return data[(data["task"] == self.task) & (data["model"] == self.model)]


def arm_looks(benchmark: Benchmark) -> dict[str, Look]:
    """How each arm is drawn, fixed by its place in the benchmark."""
    return looks_of({name: arm.title for name, arm in benchmark.arms.items()}, benchmark.reference)


def looks_of(titles: Mapping[str, str], reference: str) -> dict[str, Look]:
    """As `arm_looks`, of arms by name with their titles; the reference alone is black, solid, round and thick."""
    others = {name: look_at(place, titles[name]) for place, name in enumerate(n for n in titles if n != reference)}
    first = Look(titles.get(reference, ""), REFERENCE_COLOUR, SOLID, "o", width=2.8)
    return {name: others.get(name, first) for name in titles}


def look_at(place: int, label: str) -> Look:
    """The look of the series at a place, counted from 0, of however many; none is a reference's."""
    turn, hue = divmod(place, len(ARM_COLOURS))
    # Within a turn of the colours dashes and markers change too. From turn to turn each shifts the other way: series of
    # one colour differ in both, and those of equal dashes in marker and colour.
    dashes = DASHES[(hue + turn) % len(DASHES)] if turn < len(DASHES) else (5, 1.4) + (1.4, 1.4) * (turn - 2)
    marker = MARKERS[(hue - turn) % len(MARKERS)] if turn < len(MARKERS) else f"${turn}$"
    hatch = HATCHES[turn] if turn < len(HATCHES) else "/" * turn
    return Look(label, ARM_COLOURS[hue], dashes, marker, hatch, place=place + 1)


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


def t_interval(values: np.ndarray, level: float = LEVEL, pool: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(variance.to_numpy() / n)
    return mean, mean - half, mean + half


@contextmanager
def figure_style() -> Iterator[None]:
    """Every figure is built AND saved inside this context, so that no caller's settings leak in."""
    with matplotlib.rc_context({**sns.axes_style("white"), **_RC}):
        yield


def grid(
    rows: int, columns: int, row_height: float, width: float = WIDTH, ratios: Sequence[float] | None = None
) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` axes (array of that shape), laid out so that nothing overlaps.

    Args:
        row_height: of a row with its labels, the mean over rows, in inches.
        ratios: heights of the axes relative to each other, one for each row; equal by default.
    """
    figure = Figure(figsize=(width, row_height * rows + 0.5), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)


def legend_below(figure: Figure | SubFigure, handles: Sequence[Artist]) -> None:
    """One legend for all panels, under them, in as many columns as fit the width; the labels are the handles' own."""
    labels = [wrap(str(handle.get_label()), 36) for handle in handles]
    columns = _columns_that_fit([max(map(len, label.split("\n"))) for label in labels])
    shape = {"ncols": columns, "columnspacing": 1.4, "handlelength": HANDLE}
    figure.legend(list(handles), labels, loc="outside lower center", **shape)


def _columns_that_fit(lengths: list[int]) -> int:
    for columns in range(min(6, len(lengths)), 1, -1):
        # matplotlib fills column by column, the first ones one longer.
        longest = [max(chunk) for chunk in np.array_split(lengths, columns)]
        if sum(LETTER * length + 0.85 for length in longest) < WIDTH:
            return columns
    return 1


def steps_axis(panel: Axes, ticks: int) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))


def as_bars(panel: Axes) -> None:
    """The first bar above, no grid between bars."""
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)


def patch(colour: str, label: str) -> Artist:
    return Patch(facecolor=colour, edgecolor="white", label=label)


def bar(look: Look) -> Artist:
    return Patch(facecolor=look.colour, edgecolor="white", hatch=look.hatch, linewidth=0, label=look.label)


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


def draw_curves(panel: Axes, rows: pd.DataFrame, looks: dict[str, Look]) -> None:
    """Thin lines for seeds, a thick one and a band for their mean; of more than MOST_BANDED arms the means alone.

    Args:
        rows: arm, seed, x, y, low, high.
    """
    colours = {arm: look.colour for arm, look in looks.items()}
    single = rows[rows["seed"].notna()]
    crowded = rows["arm"].nunique() > MOST_BANDED
    if len(single) and not crowded:
        sns.lineplot(
            single,
            x="x",
            y="y",
            hue="arm",
            palette=colours,
            units="seed",
            estimator=None,
            linewidth=0.8,
            alpha=0.45,
            legend=False,
            ax=panel,
        )
    for arm, look in looks.items():
        mean = rows[(rows["arm"] == arm) & rows["seed"].isna()]
        if mean.empty:
            continue
        mean = mean.iloc[thinned(len(mean))]
        panel.plot(mean["x"], mean["y"], zorder=3, **curve(look, len(mean)))
        if mean["low"].notna().all() and not crowded:
            panel.fill_between(mean["x"], mean["low"], mean["high"], color=look.colour, alpha=0.14, linewidth=0)


def thinned(points: int) -> np.ndarray:
    """Places of at most MOST_POINTS points, the first and the last among them."""
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int))
