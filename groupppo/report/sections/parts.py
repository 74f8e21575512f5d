"""What every page is made of: templates, inlined pictures, a policy that forbids requests, and a write that is whole.

A page needs no network: figures are inlined, and a content security policy forbids every request and every script but
the page's own. All text from files is escaped.
"""

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from groupppo.draw.style import few_colours
from groupppo.errors import BadInput
from groupppo.report.drawing import FigureRecord

LARGEST_SVG = 400_000
"""Bytes; a larger drawing is inlined as its PNG, so that many long runs still make a page that opens at once."""
PICTURES = 2_600_000
"""Bytes of all pictures of a page; where they would be more, the largest are reduced. That leaves the text of thousands
of verdicts room in a page of 5 MB."""
GAIN = 3
"""How much smaller 256 colours make a picture, roughly."""


@dataclass(frozen=True)
class PageFigure:
    """A figure with its picture inlined; `anchor` is its id on the page, `folder` where its files are, `reduced`
    whether the picture is a smaller one than its files."""

    record: FigureRecord
    source: str
    anchor: str
    folder: str
    reduced: bool = False


def page_figure(
    results: Path, folder: str, record: FigureRecord, prefix: str = "", largest: int | None = None
) -> PageFigure:
    """A figure of `results`/`folder`; the prefix keeps ids on the page apart.

    Args:
        largest: bytes that its picture may have, as `largest_picture` says; None for any.

    Raises:
        BadInput: a file of it is missing.
    """
    source, reduced = _inline(results / folder, record, largest)
    return PageFigure(record, source, f"figure-{prefix}{record.id}", folder, reduced)


def largest_picture(pictures: Sequence[tuple[Path, FigureRecord]]) -> int | None:
    """Bytes that a picture may have so that all together have at most PICTURES; None where they have no more anyway.

    Args:
        pictures: the folder and the record of each.

    Raises:
        BadInput: a file is missing.
    """
    sizes = sorted(_picture(folder, record).stat().st_size for folder, record in pictures if record.files)
    if sum(sizes) <= PICTURES:
        return None
    room, left = PICTURES, len(sizes)
    for size in sizes:
        if size * left > room:
            break
        # It stays as it is, and leaves the larger ones what it does not need.
        room, left = room - size, left - 1
    return room // left


def write_page(path: Path, text: str) -> Path:
    """Replace a page as a whole or not at all."""
    unfinished = path.with_suffix(f"{path.suffix}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def page_environment() -> Environment:
    """Templates beside this file; whatever they show is escaped."""
    return Environment(
        loader=PackageLoader("groupppo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def source_text(environment: Environment, name: str) -> Markup:
    """Our own style sheet or script, which must reach the page unescaped."""
    return Markup(environment.get_template(name).render())


def content_policy(style: str, script: str) -> str:
    """Nothing may be loaded; of inline code only what hashes to the page's own style sheet and script may run."""
    hashed = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = (f"'sha256-{digest}'" for digest in hashed)
    parts = ("default-src 'none'", "img-src data:", f"style-src {style_hash}", f"script-src {script_hash}")
    return "; ".join((*parts, "base-uri 'none'", "form-action 'none'"))


def _inline(folder: Path, record: FigureRecord, largest: int | None) -> tuple[str, bool]:
    """The picture as a data URI, which cannot run scripts, and whether it was reduced; empty for one not drawn."""
    if not record.files:
        return "", False
    file = _picture(folder, record)
    if largest is None or file.stat().st_size <= largest:
        kind = "svg+xml" if file.suffix == ".svg" else "png"
        return _data_uri(kind, file.read_bytes()), False
    png = (folder / record.files["png"]).read_bytes()
    return (_data_uri("png", png), False) if len(png) <= largest else (_data_uri("png", _smaller(png, largest)), True)


def _picture(folder: Path, record: FigureRecord) -> Path:
    svg, png = folder / record.files["svg"], folder / record.files["png"]
    for file in (svg, png):
        if not file.is_file():
            raise BadInput(file, "file", None, "draw the figures again.")
    return svg if svg.stat().st_size <= LARGEST_SVG else png


def _smaller(png: bytes, largest: int) -> bytes:
    """The picture with 256 colours, and as many pixels as fit into `largest` bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    scale = min(1.0, (GAIN * largest / len(png)) ** 0.5)
    while True:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        written = io.BytesIO()
        small = picture.resize(size, Image.Resampling.LANCZOS) if scale < 1 else picture
        few_colours(small).save(written, "PNG", optimize=True)
        if written.tell() <= largest or max(size) <= 64:
            return written.getvalue()
        scale *= max(0.5, min(0.9, (largest / written.tell()) ** 0.5))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
