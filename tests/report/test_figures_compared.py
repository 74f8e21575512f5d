"""Figures that compare arms run by run: what they draw is what the verdicts are about, and misses stay visible."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.draw.style import figure_style
from groupppo.report.figures import Evidence, controls, parity, target
from groupppo.tables import Tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.report.conftest import collected
from tests.synthetic import ARMS, Effect

CONTROLS = {"group_ppo": Effect(0.45, 0.08), "random": Effect(0.78, 0.08)}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Tables, Benchmark]:
    """Five seeds of dense arms, and of two that spend the same endpoints to another end."""
    return collected(tmp_path_factory.mktemp("made"), arms=ARMS | CONTROLS, seeds=(1, 2, 3, 4, 5), steps=8)


def mean_of(data: pd.DataFrame, arm: str) -> pd.Series:
    return data[(data["arm"] == arm) & data["seed"].isna()].iloc[0]


def test_a_difference_and_its_interval_are_those_of_the_verdict(made):
    tables, benchmark = made
    data = parity.differences(tables.evals, benchmark)
    entries = decide(load_claims(benchmark.claims), tables, benchmark)["verdicts"]
    verdict = next(entry for entry in entries if entry["id"] == "parity-ppo")
    mean = mean_of(data, "group_ppo")
    assert list(mean[["difference", "low", "high"]]) == pytest.approx([verdict[k] for k in ("estimate", "low", "high")])
    assert "ppo" not in set(data["arm"])
    assert mean_of(data, "random")["difference"] > mean["difference"]


def test_the_margin_drawn_is_that_of_the_claims(made, tmp_path):
    tables, benchmark = made
    assert parity.parity_margin(benchmark) == 0.05
    other = tmp_path / "claims.yaml"
    [named] = benchmark.claims_files
    text = named.read_text()
    (tmp_path / "arms").symlink_to(named.resolve().parents[1] / "arms")
    other.write_text(
        text.replace("    margin: 0.05\n    rule: equivalence", "    margin: 0.125\n    rule: equivalence")
    )
    assert set(parity.differences(tables.evals, replace(benchmark, claims=other))["margin"]) == {0.125}


def test_arms_of_one_density_stand_over_one_another_and_dense_arms_at_one(made):
    tables, benchmark = made
    data = controls.data(tables.evals, benchmark, tables.groups)
    assert mean_of(data, "group_ppo")["density"] == pytest.approx(mean_of(data, "random")["density"], rel=0.01)
    assert mean_of(data, "group_ppo")["density"] == pytest.approx(0.08, rel=0.01)
    assert mean_of(data, "grpo")["density"] == 1.0


def test_a_run_that_never_gets_there_is_drawn_as_missed(made):
    tables, benchmark = made
    data = target.data(tables.steps, benchmark)
    steps = data[data["unit"] == "steps"]
    assert np.isinf(steps.loc[steps["arm"] == "group_ppo", "cost"].astype(float)).all()
    assert np.isfinite(steps.loc[steps["arm"] == "ppo", "cost"].astype(float)).all()
    assert "Missed: GROUP-PPO in 5 of 5" in target.caption(data, benchmark)
    with figure_style():
        panel = target.draw(data, benchmark).axes[0]
    missed = steps[steps["seed"].notna() & np.isinf(steps["cost"].astype(float))].groupby("arm").size()
    assert {text.get_text() for text in panel.texts} == set(missed.astype(str))
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert len(crosses) == len(missed) < steps["arm"].nunique()
    reached = [x for line in panel.lines if line.get_marker() != "x" for x in np.atleast_1d(line.get_xdata())]
    assert float(np.atleast_1d(crosses[0].get_xdata())[0]) > max(map(float, reached))


def test_every_run_of_the_data_is_in_the_pictures(made):
    tables, benchmark = made
    paired = parity.differences(tables.evals, benchmark)
    spent = controls.data(tables.evals, benchmark, tables.groups)
    with figure_style():
        drawn = ((parity.draw(paired, benchmark), 0, paired), (controls.draw(spent, benchmark), 1, spent))
    for figure, axis, frame in drawn:
        points = [line.get_xydata()[:, axis] for line in figure.axes[0].lines if len(line.get_xydata())]
        values = np.concatenate(points)
        for expected in set(frame["difference"]):
            assert np.isclose(values, expected, atol=1e-9).any()


def test_without_the_reference_nothing_is_compared_and_the_report_says_so(made):
    tables, benchmark = made
    runs = tables.runs.assign(admissible=tables.runs["arm"] != "ppo", reason="spoilt")
    for module in (target, parity, controls):
        reason = module.FIGURE.picture(Evidence(replace(tables, runs=runs), benchmark, {}))
        assert reason.startswith("no seed has both PPO (dense) and another arm")
        assert not isinstance(module.FIGURE.picture(Evidence(tables, benchmark, {})), str)


OF_MODEL = {"tiny": ["grpo", "group_ppo", "random", "stride", "entropy", "ppo_lam95"], "small": ["grpo", "group_ppo"]}


def differences(spread: dict[str, float]) -> pd.DataFrame:
    """One seed and the mean of every arm, arms apart by a cell's own spread."""
    rows = [
        {"task": "sorting", "model": model, "arm": arm, "seed": seed, "difference": -spread[model] * place}
        for model, arms in OF_MODEL.items()
        for place, arm in enumerate(arms)
        for seed in (1, pd.NA)
    ]
    return pd.DataFrame(rows).assign(low=float("nan"), high=float("nan"), margin=0.05).astype({"seed": "Int64"})


def test_panels_are_as_high_as_their_arms_and_have_one_scale() -> None:
    with figure_style():
        figure = parity.draw(
            differences({"tiny": 0.01, "small": 0.3}), load_benchmark(REPOSITORY / "benchmarks" / "study.yaml")
        )
        figure.draw_without_rendering()
    tiny, small = figure.axes
    heights = [panel.get_position().height for panel in (tiny, small)]
    assert heights[0] / heights[1] == pytest.approx(len(OF_MODEL["tiny"]) / len(OF_MODEL["small"]), rel=0.02)
    assert tiny.get_xlim() == small.get_xlim()
    low, high = tiny.get_xlim()
    assert low < -0.3  # of the other panel
    assert high > 0.05  # the margin
