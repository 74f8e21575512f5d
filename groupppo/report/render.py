"""Pages as HTML and as Markdown, of the values in `groupppo.draw.blocks`; `page.j2` says in which order, for both.

    write_page(folder / "report.html", html(page, folder))
    write_page(folder / "report.md", markdown(page))

An HTML page needs no network: pictures are inlined, and a content security policy forbids every request and every
script but the page's own. Every text is escaped in both.
"""

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from groupppo.draw.blocks import Block, FigureBlock, Page, Words
from groupppo.draw.figures import FigureRecord, few_colours
from groupppo.errors import BadInput

LARGEST_SVG = 400_000
"""Bytes; a larger drawing is inlined as its PNG, so that many long runs still make a page that opens at once."""
PICTURES = 2_600_000
"""Bytes of all pictures of a page; where they would be more, the largest are reduced. That leaves the text of thousands
of verdicts room in a page of 5 MB."""
GAIN = 3
"""How much smaller 256 colours make a picture, roughly."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$&])")


def html(page: Page, folder: Path) -> str:
    """The page as HTML.

    Args:
        page: what it says.
        folder: the folder of results, which has the figures' files.

    Raises:
        BadInput: a file of a figure is missing.
    """
    figures = list(_figures(block for section in page.sections for block in section.blocks))
    largest = largest_picture((folder / figure.folder, figure.record) for figure in figures)
    environment = _environment(autoescape=True)
    environment.filters |= {"href": _href, "code": _code}
    # Our own style sheet and script are not text of anybody else.
    style, script = (Markup(environment.get_template(name).render()) for name in ("report.css", "report.js"))
    return environment.get_template("page.j2").render(
        dialect="html.j2",
        page=_in_order(page),
        style=style,
        script=script,
        policy=content_policy(style, script),
        picture=lambda figure: _inline(folder / figure.folder, figure.record, largest),
    )


def markdown(page: Page) -> str:
    """The sections that Markdown has; what stands in the others is named."""
    environment = _environment(autoescape=False)  # not HTML; the filter `md` escapes every value
    environment.filters |= {"href": _href, "md": escaped}
    left = [section.nav for section in _in_order(page).sections if not section.markdown]
    shown = replace(page, sections=[section for section in page.sections if section.markdown])
    text = environment.get_template("page.j2").render(dialect="markdown.j2", page=_in_order(shown), left=left)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_page(path: Path, text: str) -> Path:
    """Replace a page as a whole or not at all."""
    unfinished = path.with_suffix(f"{path.suffix}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def escaped(text: object) -> str:
    """Text on one line in which nothing is Markdown, HTML, a formula, a link or a mention."""
    line = _SPECIAL.sub(r"\\\1", re.sub(r"\s+", " ", str(text)))
    # Addresses and mentions are found without any mark-up.
    return line.replace("://", "&#58;//").replace("www.", "www\\.").replace("@", "@\N{WORD JOINER}")


def content_policy(style: str, script: str) -> str:
    """Nothing may be loaded; of inline code only what hashes to the page's own style sheet and script may run."""
    hashed = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = (f"'sha256-{digest}'" for digest in hashed)
    parts = ("default-src 'none'", "img-src data:", f"style-src {style_hash}", f"script-src {script_hash}")
    return "; ".join((*parts, "base-uri 'none'", "form-action 'none'"))


def largest_picture(pictures: Iterable[tuple[Path, FigureRecord]]) -> int | None:
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


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("groupppo.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pieces"] = _pieces
    environment.tests["drawn"] = lambda block: isinstance(block, FigureBlock) and bool(block.record.files)
    environment.filters["kind"] = lambda block: type(block).__name__.lower()
    return environment


def _in_order(page: Page) -> Page:
    return replace(page, sections=sorted(page.sections, key=lambda section: section.order))


def _figures(blocks: Iterable[Block]) -> Iterator[FigureBlock]:
    for block in blocks:
        if isinstance(block, FigureBlock):
            yield block
        else:
            yield from _figures(getattr(block, "blocks", ()))


def _pieces(words: Words) -> tuple[Any, ...]:
    return words if isinstance(words, tuple) else (words,)


def _href(target: str) -> str:
    """An address that a path or "#" and an id is, whatever is in them."""
    return f"#{quote(target[1:])}" if target.startswith("#") else quote(target)


def _code(text: str) -> Markup:
    """A key may break after its dots."""
    return escape(text).replace(".", Markup(".<wbr>"))


def _inline(folder: Path, record: FigureRecord, largest: int | None) -> tuple[str, bool]:
    """The picture as a data URI, which cannot run scripts, and whether it was reduced."""
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
