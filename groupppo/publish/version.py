"""Which version made a bundle: pages and pictures are the same, to the byte, for that version alone."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import groupppo
from groupppo.records.code import code_sha256

_PACKAGES = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "rocrate", "scipy")
"""Libraries that decide the bytes of pages, pictures and tables."""
_DERIVE = Path(__file__).with_name("derive.py")
_TEMPLATES = Path(__file__).parents[1] / "report" / "templates"


@cache
def made_by() -> dict[str, object]:
    """This version: its number, a hash of the code and templates that derive results, and of the libraries' numbers."""
    total = hashlib.sha256(code_sha256(_DERIVE).encode())
    for file in sorted(_TEMPLATES.iterdir()):
        total.update(f"{file.name}\0".encode() + file.read_bytes())
    packages = {name: version(name) for name in _PACKAGES}
    return {"groupppo": groupppo.__version__, "code_sha256": total.hexdigest(), "packages": packages}
