"""Measured quantities on rows small enough to compute by hand."""

import pandas as pd
import pytest

from groupppo.tables import Tables
from groupppo.verdicts.quantities import QUANTITIES, Sample

SAMPLE = Sample("sorting", "tiny", "group_ppo", "ppo", stage="update_actor", warmup_steps=2)


def stage_rows(seconds: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    rows = [
        {"task": "sorting", "model": "tiny", "arm": arm, "seed": seed, "step": step, "stage": "update_actor"}
        | {"seconds": value, "rise_bytes": int(1e6 * value), "endpoints": 1, "tokens": 4}
        for (arm, seed), values in seconds.items()
        for step, value in enumerate(values, start=1)
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def tables_with(**frames: pd.DataFrame) -> Tables:
    empty = {name: pd.DataFrame() for name in ("runs", "steps", "stages", "groups", "evals")}
    return Tables(**(empty | frames))


STAGES = stage_rows(
    {
        ("ppo", 1): [90, 80, 4, 6, 5],
        ("group_ppo", 1): [900, 70, 2, 90, 2.5],
        ("ppo", 2): [9, 9, 8, 8, 8],
        ("group_ppo", 2): [9, 9, 4, 4, 4],
    }
)


def test_a_speed_up_is_the_ratio_of_medians_after_warm_up_paired_by_seed():
    values = QUANTITIES["stage_seconds_ratio"].values(tables_with(stages=STAGES), SAMPLE, (1, 2))
    assert values == {1: 5 / 2.5, 2: 2.0}


def test_warm_up_pairing_and_medians_each_change_the_answer():
    """Negative controls: with warm-up, unpaired, or with means, the number is another one."""
    quantity, rows = QUANTITIES["stage_seconds_ratio"], SAMPLE.select(STAGES)
    assert quantity.measure(STAGES, SAMPLE)[1] == pytest.approx(6 / 70)
    swapped = rows.assign(seed=rows["seed"].where(rows["arm"] == "ppo", 3 - rows["seed"]))
    assert quantity.measure(swapped, SAMPLE)[1] == pytest.approx(5 / 4)
    means = rows.groupby(["seed", "arm"])["seconds"].mean().unstack()
    assert means["ppo"][1] / means["group_ppo"][1] != pytest.approx(2.0)


def test_a_memory_ratio_is_below_one_where_memory_is_saved():
    values = QUANTITIES["rise_bytes_ratio"].values(tables_with(stages=STAGES), SAMPLE, (1, 2))
    assert values == {1: pytest.approx(2.5 / 5), 2: pytest.approx(0.5)}


def test_density_is_pooled_over_tokens_not_averaged_over_steps():
    groups = pd.DataFrame(
        {
            **{"task": "sorting", "model": "tiny", "arm": "group_ppo", "seed": 1, "step": [1, 2]},
            **{"tokens": [100, 900], "endpoints": [50, 50]},
        }
    )
    tables, sample = tables_with(groups=groups), Sample("sorting", "tiny", "group_ppo")
    assert QUANTITIES["density"].values(tables, sample, (1,)) == {1: 0.1}
    assert QUANTITIES["compression"].values(tables, sample, (1,)) == {1: 0.9}
    assert QUANTITIES["tokens_per_endpoint"].values(tables, sample, (1,)) == {1: 10.0}
    assert pytest.approx(0.1) != (50 / 100 + 50 / 900) / 2


def test_a_seed_without_a_value_is_missing_never_zero():
    stages = stage_rows({("ppo", 1): [1, 1, 1], ("group_ppo", 1): [1, 1, 0], ("ppo", 2): [1, 1, 1]})
    for name in ("stage_seconds_ratio", "rise_bytes_ratio"):
        assert QUANTITIES[name].values(tables_with(stages=stages), SAMPLE, (1, 2, 3)) == {}


def test_seeds_outside_the_matrix_and_the_start_do_not_count():
    evals = pd.DataFrame(
        {
            **{"task": "sorting", "model": "tiny", "metric": "accuracy"},
            "arm": ["start", "ppo", "group_ppo", "ppo", "group_ppo"],
            "seed": pd.array([None, 1, 1, 9, 9], dtype="Int64"),
            "value": [0.4, 0.8, 0.7, 0.8, 0.1],
        }
    )
    sample = Sample("sorting", "tiny", "group_ppo", "ppo", metric="accuracy")
    values = QUANTITIES["accuracy_difference"].values(tables_with(evals=evals), sample, (1, 2))
    assert values == {1: pytest.approx(-0.1)}


def reward_steps(curves: dict[str, list[float]], seconds: float = 2.0) -> pd.DataFrame:
    """The rows of `steps` of arms whose rewards are these, with the same seconds and 10 tokens in every step."""
    rows = []
    for arm, rewards in curves.items():
        for step, reward in enumerate(rewards, start=1):
            of_step = {"reward/mean": reward, "elapsed_seconds": seconds * step, "tokens/response": 10.0}
            keys = {"task": "sorting", "model": "tiny", "arm": arm, "seed": 1, "step": step}
            rows += [keys | {"metric": metric, "value": value} for metric, value in of_step.items()]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def to_target(curves: dict[str, list[float]], unit: str = "steps") -> float:
    quantity = QUANTITIES[f"{unit}_to_target_ratio"]
    sample = Sample("sorting", "tiny", "group_ppo", "ppo", metrics=quantity.metrics)
    return quantity.values(tables_with(steps=reward_steps(curves)), sample, (1,))[1]


SLOW = [0.1, 0.1, 0.3, 0.4, 0.5, 0.6, 0.8, 0.8]
"""A run of eight steps is judged by means of two: from 0.1 to 0.8, so that it reaches 0.765 in its last step."""


@pytest.mark.parametrize("unit", ["steps", "seconds", "tokens"])
def test_cost_to_target_is_the_reference_s_over_the_arm_s(unit):
    assert to_target({"ppo": SLOW, "group_ppo": SLOW}, unit) == 1.0
    assert to_target({"ppo": SLOW, "group_ppo": [0.8] * 8}, unit) == 4.0
    assert to_target({"ppo": [*SLOW[:7], 0.9], "group_ppo": [0.1] * 6 + [0.9] * 2}, unit) == 1.0


def test_one_lucky_step_is_no_arrival():
    assert to_target({"ppo": SLOW, "group_ppo": [0.1, 0.1, 1.0, 0.1, 0.1, 0.1, 0.8, 0.8]}) == 1.0


def test_a_miss_is_an_infinite_cost_and_not_a_missing_value():
    assert to_target({"ppo": SLOW, "group_ppo": [0.7] * 8}) == 0.0


def test_a_seed_without_a_target_or_a_run_without_the_metrics_has_no_cost():
    quantity = QUANTITIES["steps_to_target_ratio"]
    sample = Sample("sorting", "tiny", "group_ppo", "ppo", metrics=quantity.metrics)
    gained_nothing = reward_steps({"ppo": [0.5] * 8, "group_ppo": SLOW})
    steps = reward_steps({"ppo": SLOW, "group_ppo": SLOW})
    gone = steps[(steps["arm"] == "ppo") | (steps["metric"] != "tokens/response")]
    for rows in (gained_nothing, gone, steps[steps["arm"] == "ppo"]):
        assert quantity.values(tables_with(steps=rows), sample, (1,)) == {}
    assert quantity.values(tables_with(steps=steps), sample, (1,)) == {1: 1.0}


def test_the_largest_memory_of_a_run_is_that_of_its_fullest_step():
    rows = [
        {"task": "sorting", "model": "tiny", "arm": arm, "seed": 1, "step": step, "stage": "step", "peak_bytes": peak}
        for arm, peaks in (("ppo", (100, 400, 200)), ("group_ppo", (300, 100, 100)))
        for step, peak in enumerate(peaks, start=1)
    ]
    sample = Sample("sorting", "tiny", "group_ppo", "ppo", stage="step")
    table = pd.DataFrame(rows).astype({"seed": "Int64"})
    assert QUANTITIES["peak_bytes_ratio"].values(tables_with(stages=table), sample, (1,)) == {1: 0.75}
