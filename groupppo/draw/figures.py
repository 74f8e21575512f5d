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

from groupppo.draw.style import figure_style
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_json

INDEX = "figures.json"
FORMATS = ("svg", "png", "csv")
"""Of a figure: two pictures, and the numbers that they show."""
DOTS, MOST_DOTS = 160, 6000
"""Dots per inch of a PNG, and the most that it is high."""


@dataclass(frozen=True)
class FigureRecord:
    """What is known of a figure without looking at its pictures.

    Args:
        id: what verdicts and links call it.
        title: its heading.
        caption: how to read it, number of seeds included; for a figure without files, why it is not drawn.
        files: file names by format of FORMATS, beside `figures.json`; empty when it is not drawn.
        alt: what the picture shows, in words and numbers, for readers who do not see it.
    """

    id: str
    title: str
    caption: str
    files: dict[str, str]
    alt: str


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
