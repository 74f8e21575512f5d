"""Cells with fewer arms than the others: panels as high as their arms, and one scale for what is compared."""

import pandas as pd
import pytest

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.draw.style import figure_style
from groupppo.report.figures.parity import parity_figure

ARMS = {"tiny": ["grpo", "group_ppo", "random", "stride", "entropy", "ppo_lam95"], "small": ["grpo", "group_ppo"]}


def differences(spread: dict[str, float]) -> pd.DataFrame:
    """One seed and the mean of every arm, arms apart by a cell's own spread."""
    rows = [
        {"task": "sorting", "model": model, "arm": arm, "seed": seed, "difference": -spread[model] * place}
        for model, arms in ARMS.items()
        for place, arm in enumerate(arms)
        for seed in (1, pd.NA)
    ]
    return pd.DataFrame(rows).assign(low=float("nan"), high=float("nan"), margin=0.05).astype({"seed": "Int64"})


def test_panels_are_as_high_as_their_arms_and_have_one_scale() -> None:
    with figure_style():
        figure = parity_figure(
            differences({"tiny": 0.01, "small": 0.3}), load_benchmark(REPOSITORY / "benchmarks" / "study.yaml")
        )
        figure.draw_without_rendering()
    tiny, small = figure.axes
    heights = [panel.get_position().height for panel in (tiny, small)]
    assert heights[0] / heights[1] == pytest.approx(len(ARMS["tiny"]) / len(ARMS["small"]), rel=0.02)
    assert tiny.get_xlim() == small.get_xlim()
    low, high = tiny.get_xlim()
    assert low < -0.3  # of the other panel
    assert high > 0.05  # the margin
