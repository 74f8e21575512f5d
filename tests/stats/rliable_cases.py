"""Writes rliable_cases.json, what the package rliable answers on stored scores. Not a dependency: a throw-away
environment makes it.

    python -m venv throwaway && throwaway/bin/pip install rliable==1.2.0 "pandas<3"
    throwaway/bin/python tests/stats/rliable_cases.py > tests/stats/rliable_cases.json
"""

import json
from importlib.metadata import version

import numpy as np
from rliable import library, metrics

COMMAND = "throwaway/bin/python tests/stats/rliable_cases.py > tests/stats/rliable_cases.json"
SHAPES = {"one task": (3, 4, 1), "few seeds": (3, 3, 6), "many seeds": (12, 10, 4), "ties": (5, 5, 3)}
THRESHOLDS = [0.0, 0.25, 0.5, 0.75, 1.0]
LEVEL, DRAWS, DRAWS_OF_PAIRS = 0.90, 20_000, 2000


def one(function):
    """rliable wants statistics that return arrays."""
    return lambda *scores: np.array([function(*scores)])


def case(name, shape):
    generator = np.random.default_rng(len(name))
    seeds, others, tasks = shape
    first = generator.uniform(0.1, 1.0, (seeds, tasks)).round(1 if name == "ties" else 3)
    second = generator.uniform(0.0, 0.9, (others, tasks)).round(1 if name == "ties" else 3)
    np.random.seed(1)
    _, iqm = library.get_interval_estimates(
        {"a": first}, one(metrics.aggregate_iqm), reps=DRAWS, confidence_interval_size=LEVEL
    )
    _, better = library.get_interval_estimates(
        {"a": (first, second)},
        one(metrics.probability_of_improvement),
        reps=DRAWS_OF_PAIRS,
        confidence_interval_size=LEVEL,
    )
    profile, band = library.create_performance_profile(
        {"a": first}, np.array(THRESHOLDS), reps=DRAWS, confidence_interval_size=LEVEL
    )
    return {
        "first": first.tolist(),
        "second": second.tolist(),
        "iqm": float(metrics.aggregate_iqm(first)),
        "iqm_interval": iqm["a"][:, 0].tolist(),
        "probability_of_improvement": float(metrics.probability_of_improvement(first, second)),
        "probability_of_improvement_interval": better["a"][:, 0].tolist(),
        "profile": profile["a"].tolist(),
        "profile_band": band["a"].tolist(),
    }


if __name__ == "__main__":
    packages = ("rliable", "arch", "pandas", "numpy", "scipy")
    made = {
        "command": COMMAND,
        "versions": {name: version(name) for name in packages},
        "level": LEVEL,
        "draws": DRAWS,
        "draws_of_pairs": DRAWS_OF_PAIRS,
        "thresholds": THRESHOLDS,
        "cases": {name: case(name, shape) for name, shape in SHAPES.items()},
    }
    print(json.dumps(made, indent=1))
