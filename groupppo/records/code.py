"""What code a job runs: one hash that changes when it does, and not for comments, docstrings or layout.

A rule keeps the hash among its parameters: a change of code that a run depends on marks the run stale, and one of the
report's does not.
"""

import ast
import hashlib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "groupppo"
_READ = (".py", ".yaml", ".json", ".j2", ".css", ".js")
_ROOT = Path(__file__).resolve().parents[2]


def code_sha256(script: Path, *, entries: Collection[str] = (), apart: Collection[str] = ()) -> str:
    """SHA-256, in hexadecimal, of this package's modules that a script reaches, and of the data beside them.

    Args:
        script: a Python file. Its own text is left out: Snakemake compares that itself.
        entries: modules and packages that are started by name, which no import shows.
        apart: modules and packages that cannot change what the script computes, though it imports them.
    """
    total = hashlib.sha256()
    for file in modules(script, entries=entries, apart=apart):
        total.update(f"{file.relative_to(_ROOT).as_posix()}\0{_read(file)[1]}\n".encode())
    return total.hexdigest()


def modules(script: Path, *, entries: Collection[str] = (), apart: Collection[str] = ()) -> list[Path]:
    """The files that `code_sha256` hashes, sorted."""
    waiting = [file for name in entries for file in _files(name)] + list(_read(script)[0])
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in found or any(_inside(file, name) for name in apart):
            continue
        found.add(file)
        waiting += _read(file)[0]
    return sorted(found)


def _inside(file: Path, name: str) -> bool:
    place = _ROOT.joinpath(*name.split("."))
    return file == place.with_suffix(".py") or place in file.parents


def _files(name: str) -> Iterator[Path]:
    """A module's file; a package's with all of its modules and data, which it may look up by name."""
    place = _ROOT.joinpath(*name.split("."))
    if place.is_dir():
        for file in place.rglob("*"):
            if file.suffix in _READ:
                yield file
    elif place.with_suffix(".py").is_file():
        yield place.with_suffix(".py")


@cache
def _read(file: Path) -> tuple[tuple[Path, ...], str]:
    """The modules of this package that a file imports, and a hash of what it holds; each file is parsed once."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return (), hashlib.sha256(text.encode()).hexdigest()
    tree = ast.parse(text)
    imported = tuple(sorted({found for name in _names(tree) for found in _own(name)}))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Expr(ast.Constant(""))
    return imported, hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _names(tree: ast.Module) -> set[str]:
    """Of this package, what is imported, or named in a string as what is imported or started by its name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # What is taken from a package may be a module of it.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PACKAGE}."):
            names.add(node.value)
    return {name for name in names if name.split(".")[0] == PACKAGE}


def _own(name: str) -> Iterator[Path]:
    place = _ROOT.joinpath(*name.split("."))
    if place.with_suffix(".py").is_file():
        yield place.with_suffix(".py")
    elif (place / "__init__.py").is_file() and name != PACKAGE:
        # A package that looks its modules up by name needs them all; one that only imports says so itself.
        text = (place / "__init__.py").read_text(encoding="utf-8")
        looks_up = "importlib" in text or "pkgutil" in text
        yield from _files(name) if looks_up else [place / "__init__.py"]
