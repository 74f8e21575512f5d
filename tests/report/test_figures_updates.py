"""Runs whose updates are computed in different ways are laid over one another, and only those."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from groupppo.config import REPOSITORY, Benchmark, CellPlan, load_benchmark
from groupppo.draw.style import figure_style
from groupppo.errors import BadInput
from groupppo.report.figures import updates
from groupppo.report.figures.updates import METRICS, twins

FAMILY = ["group_ppo", "group_ppo_gathered", "group_ppo_streamed"]
STEPS = 4
OFF = {"group_ppo": 0.0, "group_ppo_gathered": 1e-6, "group_ppo_streamed": 0.1}


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark(REPOSITORY / "benchmarks" / "updates.yaml")


def steps_table(relative: dict[str, float]) -> pd.DataFrame:
    """Every metric of a family's runs, which are off the masked arm's by a relative difference that grows by steps."""
    rows = [
        {"task": "sorting", "model": "tiny", "arm": arm, "seed": 1, "step": step, "metric": metric}
        | {"value": (place + 1) * (0.5 + 0.1 * step) * (1 + off * step)}
        for arm, off in relative.items()
        for step in range(1, STEPS + 1)
        for place, metric in enumerate(METRICS)
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def test_twins_differ_in_their_update_alone(benchmark):
    assert twins(benchmark) == {"group_ppo": FAMILY[1:]}
    every = load_benchmark(REPOSITORY / "benchmarks" / "arms.yaml")
    assert twins(every) == {}
    other = benchmark.arms["group_ppo_gathered"]
    smaller = replace(other, verl=other.verl | {"algorithm.group_params.group_max_size": 4})
    changed = replace(benchmark, arms=benchmark.arms | {"group_ppo_gathered": smaller})
    assert twins(changed) == {"group_ppo": ["group_ppo_streamed"]}


def test_the_difference_is_the_largest_of_the_metrics_and_is_relative(benchmark):
    data = updates.data(steps_table(OFF), benchmark)
    assert list(dict.fromkeys(data["arm"])) == FAMILY
    assert data.loc[data["arm"] == "group_ppo", "difference"].isna().all()
    largest = 0.5 + 0.1 * STEPS
    for arm, off in (("group_ppo_gathered", 1e-6), ("group_ppo_streamed", 0.1)):
        rows = data[data["arm"] == arm].sort_values("step")
        expected = [(0.5 + 0.1 * step) * off * step / largest for step in range(1, STEPS + 1)]
        assert np.allclose(rows["difference"], expected, rtol=1e-6)


def test_one_metric_that_is_off_is_seen(benchmark):
    table = steps_table(dict.fromkeys(FAMILY, 0.0))
    table.loc[(table["arm"] == FAMILY[1]) & (table["metric"] == METRICS[3]) & (table["step"] == 2), "value"] *= 2
    data = updates.data(table, benchmark)
    off = data[data["difference"] > 0]
    assert list(zip(off["arm"], off["step"], strict=True)) == [(FAMILY[1], 2)]


def test_a_cell_whose_plan_has_the_masked_arm_alone_is_left_out(benchmark):
    alone = replace(benchmark, cells=(CellPlan("sorting", "tiny", ("ppo", "group_ppo"), (1,)),))
    table = steps_table({"group_ppo": 0.0})
    assert len(updates.data(table, benchmark)) == STEPS
    found = updates.data(table, alone)
    assert found.empty
    assert list(found) == list(updates.data(table, benchmark))


def test_words_say_from_which_step_on_a_curve_is_another(benchmark):
    data = updates.data(steps_table(OFF), benchmark)
    caption, alt = updates.caption(data, benchmark), updates.alt(data, benchmark)
    assert "gathered update: never above 0.001" in caption
    assert "streamed update: above 0.001 from step 1 on" in caption
    assert "streamed update: above 0.001 from step 1 on" in alt


def test_the_figure_draws_every_run_in_both_panels_but_the_masked_one_against_itself(benchmark):
    data = updates.data(steps_table(dict.fromkeys(FAMILY, 0.0)), benchmark)
    with figure_style():
        figure = updates.draw(data, benchmark)
    rewards, differences = figure.axes
    assert len(rewards.lines) == len(FAMILY)
    drawn = [line for line in differences.lines if np.isfinite(np.asarray(line.get_ydata(), float)).any()]
    assert len(drawn) == len(FAMILY) - 1


def test_an_empty_table_is_refused(benchmark):
    with pytest.raises(BadInput, match="nothing to draw"):
        updates.data(steps_table(dict.fromkeys(FAMILY, 0.0)).head(0), benchmark)
