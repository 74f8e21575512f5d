"""No pickle is loaded anywhere: whoever sends a results folder must not be able to run code with it."""

import re

import pytest

from groupppo.config import REPOSITORY

_READERS = r"(?:pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b"
LOADS = re.compile(
    rf"^\s*(?:import|from) +{_READERS}|(?:__import__|import_module)\(['\"]{_READERS}|read_pickle"
    r"|torch\.load\((?![^)]*weights_only=True)|allow_pickle(?!=False)",
    re.MULTILINE,
)


def test_no_source_loads_a_pickle() -> None:
    sources = [path for home in ("groupppo", "workflow", "benchmarks") for path in (REPOSITORY / home).rglob("*.py")]
    assert len(sources) > 100
    assert not [path for path in sources if LOADS.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("text", "noticed"),
    [
        ("import pickle", True),
        ("    from joblib import load", True),
        ("__import__('pickle')", True),
        ("importlib.import_module('dill')", True),
        ("pd.read_pickle(file)", True),
        ("torch.load(file)", True),
        ("torch.load(file, weights_only=False)", True),
        ("np.load(file, allow_pickle=True)", True),
        ("np.load(file, allow_pickle=flag)", True),
        ("torch.load(file, weights_only=True)", False),
        ("np.load(file, allow_pickle=False)", False),
        ("import json", False),
    ],
)
def test_what_would_load_one_is_noticed(text: str, noticed: bool) -> None:
    assert bool(LOADS.search(text)) is noticed
