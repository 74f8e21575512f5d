"""The report as Markdown, for a pull request: verdicts, what is excluded, figures; text from files stays text."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from groupppo.report.sections.parts import write_page

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$&])")


def escaped(text: Any) -> str:
    """Text on one line in which nothing is Markdown, HTML, a formula, a link or a mention."""
    line = _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))
    # Addresses and mentions are found without any mark-up.
    return line.replace("://", "&#58;//").replace("www.", "www\\.").replace("@", "@\N{WORD JOINER}")


def write_markdown(path: Path, **content: Any) -> Path:
    """Render report.md.j2 with what the page has; the file is replaced as a whole or not at all."""
    environment = Environment(
        loader=PackageLoader("groupppo.report"),
        autoescape=False,  # not HTML; the filter `md` escapes every value
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escaped
    return write_page(path, environment.get_template("report.md.j2").render(**content))
