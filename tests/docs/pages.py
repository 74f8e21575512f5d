"""What the pages of the documentation ask of a reader: files to write, and commands to run.

A page says so with a comment before a fenced block: `<!-- file: PATH -->`, or `<!-- run -->`; a command that would take
longer than a test may has `<!-- run -n -->` and is run as a dry run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from groupppo.config import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_BLOCK = re.compile(r"^<!-- (?P<what>file: \S+|run|run -n) -->\n```\w*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One block: text of a file at `path`, or (path None) commands; `dry` where they are to be dry runs."""

    page: str
    path: str | None
    text: str
    dry: bool = False


def steps(page: Path) -> list[Step]:
    """The blocks of a page in their order.

    Raises:
        ValueError: a comment is followed by no block, so that nobody would notice that it is not tested.
    """
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(DOCS)) if page.is_relative_to(DOCS) else page.name
    found = list(_BLOCK.finditer(text))
    marks = re.findall(r"^<!-- (?:file|run)\b.*$", text, re.MULTILINE)
    if len(marks) != len(found):
        raise ValueError(f"{name}: {len(marks)} comments ask for a file or a run, {len(found)} have a block: {marks}")
    return [
        Step(name, found["what"].removeprefix("file: ") if found["what"].startswith("file") else None,
             found["text"], dry=found["what"].endswith("-n"))
        for found in found
    ]  # fmt: skip


def files(page: str) -> dict[str, str]:
    """Files that a page writes, by their path in the repository."""
    return {step.path: step.text for step in steps(DOCS / page) if step.path is not None}


def write(root: Path, path: str, text: str) -> Path:
    """Write a page's file into a copy of the repository."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
