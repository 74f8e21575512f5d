"""What every page is made of: templates, inlined pictures, a policy that forbids requests, and a write that is whole.

A page needs no network: figures are inlined, and a content security policy forbids every request and every script but
the page's own. All text from files is escaped.
"""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groupppo.errors import BadInput
from groupppo.report.figures import FigureRecord

LARGEST_SVG = 400_000
"""Bytes; a larger drawing is inlined as its PNG, so that many long runs still make a page that opens at once."""


@dataclass(frozen=True)
class PageFigure:
    """A figure with its picture inlined; `anchor` is its id on the page, `folder` where its files are."""

    record: FigureRecord
    source: str
    anchor: str
    folder: str


def page_figure(results: Path, folder: str, record: FigureRecord, prefix: str = "") -> PageFigure:
    """A figure of `results`/`folder`; the prefix keeps ids on the page apart.

    Raises:
        BadInput: a file of it is missing.
    """
    return PageFigure(record, _inline(results / folder, record), f"figure-{prefix}{record.id}", folder)


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


def _inline(folder: Path, record: FigureRecord) -> str:
    """The picture as a data URI, which cannot run scripts; empty for a figure that is not drawn."""
    if not record.files:
        return ""
    svg, png = folder / record.files["svg"], folder / record.files["png"]
    for file in (svg, png):
        if not file.is_file():
            raise BadInput(file, "file", None, "draw the figures again.")
    kind, file = ("svg+xml", svg) if svg.stat().st_size <= LARGEST_SVG else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
