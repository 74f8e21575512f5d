"""No pickle is loaded anywhere: whoever sends a results folder must not be able to run code with it."""

import ast
from collections.abc import Iterator

import pytest

from groupppo.config import REPOSITORY

READERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOURCES = sorted(path for home in ("groupppo", "workflow", "benchmarks") for path in (REPOSITORY / home).rglob("*.py"))


def loads(text: str) -> Iterator[str]:
    """Every place of a source that may load a pickle."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.split(".")[0] in READERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in READERS:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from loading_calls(node)


def loading_calls(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    options = {option.arg: option.value for option in node.keywords}
    if called == "__import__" or called.endswith("import_module"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and str(first.value).split(".")[0] in READERS:
            yield ast.unparse(node)
    if called.endswith("read_pickle"):
        yield called
    if called == "torch.load" and not is_true(options.get("weights_only")):
        yield f"{called} without weights_only=True"
    if "allow_pickle" in options and not is_false(options["allow_pickle"]):
        yield f"{called} with allow_pickle"


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def is_false(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_source_loads_a_pickle(path):
    assert list(loads(path.read_text(encoding="utf-8"))) == []


def test_the_sources_are_found():
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "__import__('pickle')",
        "importlib.import_module('dill')",
        "pd.read_pickle(file)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=flag)",
    ],
)
def test_what_would_load_one_is_noticed(text):
    assert list(loads(text))


@pytest.mark.parametrize("text", ["torch.load(file, weights_only=True)", "np.load(file, allow_pickle=False)", "json"])
def test_what_does_not_is_left_alone(text):
    assert not list(loads(text))
