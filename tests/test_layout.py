"""The layout: imports run down, no two files import each other, and files and functions stay short enough to read."""

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from groupppo.config import REPOSITORY

PACKAGE = "groupppo"
# From the bottom: a module may import from its own floor and from those below.
FLOORS = (
    {"errors"},
    {"records"},
    {"stats", "config"},
    {"algorithm", "update", "draw", "slurm"},
    {"measure", "tasks", "tables", "cost"},
    {"models", "evaluate"},
    {"verl"},
    {"run", "profile"},
    {"studies", "verdicts"},
    {"report"},
    {"publish"},
    {"cli"},
)
LONGEST_FILE, LEAST_MEDIAN, LONGEST_FUNCTION, MOST_LONG_FUNCTIONS = 600, 120, 60, 3


@cache
def sources() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its dotted name."""
    home = REPOSITORY / PACKAGE
    return {_name(file): ast.parse(file.read_text()) for file in sorted(home.rglob("*.py"))}


def _name(file: Path) -> str:
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports(name: str, modules: dict[str, ast.Module]) -> set[str]:
    """The modules of this package that a module imports, those that only a function or a type checker imports too."""
    found: set[str] = set()
    for node in ast.walk(modules[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in modules else node.module for member in members}
    return (found & modules.keys()) - {name}


def missing(text: str, modules: dict[str, ast.Module]) -> set[str]:
    """Modules of this package that a text imports and that are not there; mypy takes them for somebody else's."""
    asked: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            asked.add(node.module)
    return {name for name in asked if name.split(".")[0] == PACKAGE} - modules.keys()


def floor(name: str) -> int:
    room = name.split(".")[1]
    return next(height for height, rooms in enumerate(FLOORS) if room in rooms)


def upward(modules: dict[str, ast.Module]) -> Iterator[tuple[str, str]]:
    for name in modules.keys() - {PACKAGE}:
        for other in imports(name, modules) - {PACKAGE}:
            if floor(other) > floor(name):
                yield name, other


def circle(modules: dict[str, ast.Module]) -> list[str]:
    """The modules of one circle of imports, none where there is none."""
    try:
        graphlib.TopologicalSorter({name: imports(name, modules) for name in modules}).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def functions(modules: dict[str, ast.Module]) -> Iterator[tuple[str, int]]:
    """Every function with its length in lines."""
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                yield f"{name}.{node.name}", node.end_lineno - node.lineno + 1


def test_every_room_has_a_floor() -> None:
    rooms = {name.split(".")[1] for name in sources().keys() - {PACKAGE}}
    assert rooms == set().union(*FLOORS)


def test_every_module_that_is_imported_is_there() -> None:
    assert missing("from groupppo.gone import it", sources())
    for folder in (PACKAGE, "tests", "workflow", "benchmarks", "docs"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            assert not missing(file.read_text(), sources()), file


def test_no_import_runs_up() -> None:
    assert sorted(upward(sources())) == []


def test_no_files_import_each_other() -> None:
    assert circle(sources()) == []


@pytest.mark.parametrize("line", ["import groupppo.cli.listing", "def late():\n    from groupppo.cli import listing"])
def test_an_import_that_runs_up_is_seen(line: str) -> None:
    modules = sources() | {"groupppo.errors": ast.parse(line)}
    assert ("groupppo.errors", "groupppo.cli.listing") in set(upward(modules))
    assert circle(modules)


def test_files_are_long_enough_to_hold_something_and_short_enough_to_read() -> None:
    lengths = [len(file.read_text().splitlines()) for file in (REPOSITORY / PACKAGE).rglob("*.py")]
    assert median(lengths) >= LEAST_MEDIAN
    assert max(lengths) <= LONGEST_FILE


def test_functions_fit_a_screen() -> None:
    long = [(name, lines) for name, lines in functions(sources()) if lines > LONGEST_FUNCTION]
    assert len(long) <= MOST_LONG_FUNCTIONS, long
