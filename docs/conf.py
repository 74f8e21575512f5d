"""The site: `make docs` builds it into site/, with warnings as errors and without a network.

    python -m sphinx --fail-on-warning --builder html docs site

Pages are Markdown (MyST). A line `<!-- generated: NAME ARGUMENTS -->` is replaced by what `generated.NAME(*ARGUMENTS)`
makes of schemas, docstrings and registries while the site is built, so that no reference is kept as a copy.
"""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import groupppo  # noqa: E402

project = "GROUP-PPO bench"
version = release = groupppo.__version__
extensions = ["myst_parser"]
exclude_patterns = ["Thumbs.db"]
nitpicky = True
smartquotes = False  # it would turn the quotes of a text that is code elsewhere
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_show_sphinx = html_show_copyright = html_copy_source = False
# Furo brings its styles and scripts along; tests/docs/test_pages.py holds that no page fetches anything from elsewhere.
html_theme_options = {"navigation_with_keys": False}
templates_path: list[str] = []


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    from generated import filled

    source[0] = filled(source[0], name)


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True}
