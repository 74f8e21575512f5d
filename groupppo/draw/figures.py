"""A figure on the disk: its pictures, its numbers, and the record of its words in `figures.json`.

    write_figures([Picture("costs", "What it costs", data, draw, caption, alt)], folder)
    records = read_figures(folder)

The records let a page be written without drawing again.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from groupppo.config import Benchmark
from groupppo.draw.blocks import FigureRecord
from groupppo.draw.style import (
    ARM_KEYS,
    MOST_BANDED,
    MOST_FACETS,
    MOST_SINGLE,
    START,
    arms_in,
    cell_title,
    cells,
    figure_style,
)
from groupppo.draw.wording import plural
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_json

INDEX = "figures.json"
FORMATS = ("svg", "png", "csv")
"""Of a figure: two pictures, and the numbers that they show."""
DOTS, MOST_DOTS = 160, 6000
"""Dots per inch of a PNG, and the most that it is high."""


@dataclass(frozen=True)
class Picture:
    """A figure ready to be drawn: `data` becomes the CSV; `draw` is called only where pictures are to be written."""

    id: str
    title: str
    data: pd.DataFrame
    draw: Callable[[], Figure]
    caption: str
    alt: str

    @property
    def record(self) -> FigureRecord:
        files = {suffix: f"{self.id}.{suffix}" for suffix in FORMATS}
        return FigureRecord(self.id, self.title, self.caption, files, self.alt)


def write_figures(pictures: Iterable[Picture], out: Path, *, keep: bool = False) -> list[FigureRecord]:
    """Write every figure into `out`, which is made when missing, as `<id>.svg`, `<id>.png` and `<id>.csv`, and
    `figures.json`; with `keep`, pictures that are there stay as they are."""
    out.mkdir(parents=True, exist_ok=True)
    records = [write_figure(picture, out, keep=keep) for picture in pictures]
    write_index(out, records)
    return records


def write_figure(picture: Picture, out: Path, *, keep: bool = False) -> FigureRecord:
    """As `write_figures`, of one figure and without the index. Drawing, which `keep` saves, is most of the work."""
    record = picture.record
    if not keep or not all((out / record.files[suffix]).is_file() for suffix in ("svg", "png")):
        with figure_style():
            save(picture.draw(), out, picture.id)
    picture.data.to_csv(out / record.files["csv"], index=False)
    return record


def not_drawn(name: str, title: str, reason: str, out: Path) -> FigureRecord:
    """The record of a figure that has nothing to show; its files of before are removed."""
    for suffix in FORMATS:
        (out / f"{name}.{suffix}").unlink(missing_ok=True)
    return FigureRecord(name, title, reason, {}, "")


def write_index(out: Path, records: Sequence[FigureRecord]) -> None:
    text = json.dumps([asdict(record) for record in records], indent=1, ensure_ascii=False)
    (out / INDEX).write_text(text + "\n", encoding="utf-8")


def read_figures(folder: Path) -> list[FigureRecord]:
    """The records of the figures in `folder`.

    Raises:
        BadInput: `figures.json` is missing or is not what `write_index` writes.
    """
    index = folder / INDEX
    try:
        return [FigureRecord(**record) for record in read_json(index, "draw the figures first.")]
    except TypeError as error:
        raise BadInput(index, "file", str(error), "draw the figures again.") from error


def save(figure: Figure, out: Path, name: str) -> None:
    """Write `<name>.svg` and `<name>.png` (160 dots per inch; fewer, and 256 colours, for a figure of many panels);
    the same figure gives the same bytes."""
    dots = min(DOTS, MOST_DOTS / float(figure.get_figheight()))
    # One layout, most of the work, serves both formats. It is found at the picture's dots: at the 72 of an SVG texts
    # are hinted to other widths, and long labels would be cut.
    figure.set_dpi(dots)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    figure.set_dpi(dots)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture = picture if dots == DOTS else few_colours(picture)
    picture.save(out / f"{name}.png", dpi=(dots, dots), optimize=dots < DOTS)


def few_colours(picture: Image.Image) -> Image.Image:
    """The picture with a palette of 256. By octree: the median cut shares colours out by area, and thin lines of an arm
    would get another's."""
    return picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


POOLED = "their width at a step uses the variance over seeds averaged over the nearest quarter of the run"
ITEMS = "Intervals cover training seeds; how much of a claim's interval items make is in the table of item noise."


def excluded(runs: pd.DataFrame) -> str:
    """A sentence on the runs that are not drawn, or nothing when all are."""
    count = int((~runs["admissible"].astype(bool)).sum())
    verb = "is" if count == 1 else "are"
    return f"{plural(count, 'run')} excluded from the evidence {verb} not drawn." if count else ""


def place(benchmark: Benchmark, task: str, model: str) -> str:
    """Task and model in words; empty where the benchmark has one of each."""
    if len(benchmark.tasks) * len(benchmark.models) == 1:
        return ""
    homes = ((benchmark.tasks, task), (benchmark.models, model))
    return ", ".join(home[name].title if name in home else name for home, name in homes)


def left_out(facets: int, what: str) -> str:
    """A sentence on facets that are not drawn, or nothing when all are."""
    if facets <= MOST_FACETS:
        return ""
    return f"Drawn are the first {MOST_FACETS} of {facets:,} {what}, in the benchmark's order; the CSV has all."


def seed_lines(data: pd.DataFrame) -> str:
    arms = data.groupby(["task", "model"], observed=True)["arm"].nunique().max()
    crowd = f" Of more than {MOST_BANDED} arms in a panel the means alone are drawn." if arms > MOST_BANDED else ""
    if _counts(data).max() > MOST_SINGLE:
        return f"Lines are means over seeds; single seeds are thin lines where an arm has at most {MOST_SINGLE}.{crowd}"
    return f"Thin lines are single seeds, thick lines their mean.{crowd}"


def band(rows: pd.DataFrame, benchmark: Benchmark, meaning: str) -> str:
    """Number of seeds, and what the band is or why an arm has none."""
    counts = _counts(rows)
    if counts.max() < 2:
        return "One seed in each arm, so there is no interval over seeds."
    single = sorted(set(counts.index.get_level_values("arm")[counts < 2]))
    titles = ", ".join(benchmark.arms[arm].title for arm in single)
    without = f"; none for {titles}, with one seed" if single else ""
    sentence = seeds_in_words(rows, benchmark)
    return f"{sentence[0].upper()}{sentence[1:]}; {meaning}{without}."


def seeds_in_words(rows: pd.DataFrame, benchmark: Benchmark) -> str:
    counts = _counts(rows)
    if counts.nunique() == 1:
        return f"{plural(counts.iloc[0], 'seed')} in each arm"
    by_arm = counts.groupby(level="arm").agg(["min", "max"])
    shown = []
    for arm in arms_in(rows, benchmark):
        least, most = by_arm.loc[arm]
        span = plural(least, "seed") if least == most else f"{least} to {most} seeds"
        shown.append(f"{benchmark.arms[arm].title} has {span}")
    return ", ".join(shown)


def _counts(rows: pd.DataFrame) -> pd.Series:
    """Seeds by task, model and arm. A mean knows how many seeds it is of, also where they are not drawn."""
    runs = rows[rows["arm"] != START]
    means = runs[runs["seed"].isna()] if "seeds" in runs else runs[:0]
    if len(means):
        return means.groupby(ARM_KEYS, observed=True)["seeds"].max()
    return runs.groupby(ARM_KEYS, observed=True)["seed"].nunique()


def each(rows: pd.DataFrame, benchmark: Benchmark, describe: Callable[[pd.DataFrame, str], str]) -> str:
    """One clause for each arm, one sentence for each task and model."""
    found = cells(rows, benchmark)
    sentences = []
    for cell in found:
        own = cell.rows(rows)
        clauses = [describe(own[own["arm"] == arm], benchmark.arms[arm].title) for arm in arms_in(own, benchmark)]
        title = f"{cell_title(cell, benchmark)}: " if len(found) > 1 else ""
        sentences.append(f"{title}{'; '.join(clauses)}.")
    return " ".join(sentences)
