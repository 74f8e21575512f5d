"""Pages as HTML and as Markdown, of the values in `groupppo.draw.blocks`, through the templates beside this file.

An HTML page needs no network: pictures are inlined, and a content security policy forbids every request and every
script but the page's own. Every text is escaped in both.
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groupppo.draw.blocks import Block, FigureBlock, FigureRecord, Page, Text
from groupppo.errors import BadInput

LARGEST_SVG = 400_000
"""Bytes; a larger drawing is inlined as its PNG, so that many long runs still make a page that opens at once."""
PICTURES = 2_600_000
"""Bytes of all pictures of a page; where they would be more, the largest are reduced. That leaves the text of thousands
of verdicts room in a page of 5 MB."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$&])")


def html(page: Page, folder: Path) -> str:
    """The page as HTML.

    Args:
        page: what it says; figures stand in its sections, not inside of other blocks.
        folder: the folder of results, which has the figures' files.

    Raises:
        BadInput: a file of a figure is missing.
    """
    blocks = [block for section in page.sections for block in section.blocks]
    figures = [block for block in blocks if isinstance(block, FigureBlock) and block.record.files]
    largest = largest_picture(_picture(folder / figure.folder, figure.record) for figure in figures)
    environment = _environment(autoescape=True)
    # Our own style sheet and script are not text of anybody else.
    style, script = (Markup(environment.get_template(name).render()) for name in ("report.css", "report.js"))
    return environment.get_template("page.j2").render(
        dialect="html.j2",
        page=page,
        style=style,
        script=script,
        policy=content_policy(style, script),
        picture=lambda figure: _inline(folder / figure.folder, figure.record, largest),
    )


def markdown(page: Page) -> str:
    """The sections that Markdown has; what stands in the others is named."""
    # Not HTML; the filter `md` escapes every value.
    text = _environment(autoescape=False).get_template("page.j2").render(dialect="markdown.j2", page=page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def prose(name: str, **values: str) -> list[Block]:
    """The paragraphs of a template without marks, with the values in their places."""
    text = _environment(autoescape=False).get_template(name).render(values)
    return [Text(" ".join(paragraph.split())) for paragraph in text.split("\n\n")]


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


def largest_picture(files: Iterable[Path]) -> int | None:
    """Bytes that a picture may have so that all together have at most PICTURES; None where they have no more anyway."""
    sizes = sorted(file.stat().st_size for file in files)
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
    environment.filters |= {"href": _href, "md": escaped, "kind": lambda block: type(block).__name__.lower()}
    return environment


def _href(target: str) -> str:
    """An address that a path or "#" and an id is, whatever is in them."""
    return f"#{quote(target[1:])}" if target.startswith("#") else quote(target)


def _picture(folder: Path, record: FigureRecord) -> Path:
    svg, png = folder / record.files["svg"], folder / record.files["png"]
    for file in (svg, png):
        if not file.is_file():
            raise BadInput(file, "file", None, "draw the figures again.")
    return svg if svg.stat().st_size <= LARGEST_SVG else png


def _inline(folder: Path, record: FigureRecord, largest: int | None) -> tuple[str, bool]:
    """The picture as a data URI, which cannot run scripts, and whether it was reduced."""
    file, most = _picture(folder, record), math.inf if largest is None else largest
    if file.stat().st_size > most:
        file = folder / record.files["png"]
    content = file.read_bytes()
    reduced = len(content) > most
    if reduced:
        content = _smaller(content, most)
    kind = "svg+xml" if file.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", reduced


def _smaller(png: bytes, largest: float) -> bytes:
    """The picture with 256 colours, and as many pixels as fit into `largest` bytes."""
    # Here alone: a page without pictures is written where no library that draws is installed (profile/gpu.py).
    from PIL import Image

    from groupppo.draw.figures import few_colours

    picture, written = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    few_colours(picture).save(written, "PNG", optimize=True)
    while written.tell() > largest and max(picture.size) > 64:
        scale = max(0.5, min(0.9, (largest / written.tell()) ** 0.5))
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        few_colours(picture).save(written, "PNG", optimize=True)
    return written.getvalue()
