"""Streamed gradients on sampled rollouts: their bias, what they cost, and what kept keys and values do to them."""

import copy
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from groupppo.studies.shared.updates import group_updates
from groupppo.studies.shared.directions import loss_gradients, mean_of
from hypothesis import given
from hypothesis import strategies as st

from groupppo.algorithm import Tokens
from groupppo.studies.shared.rollouts import Rollouts
from groupppo.studies.shared.streaming import (
    EXACT,
    PARAMETER_GROUPS,
    Curve,
    Endpoints,
    cosine_and_ratio,
    cost_table,
    flat,
    group_of,
    group_table,
    keys_values_of,
    kind_of,
    loss_gradient,
    measure_curve,
    pareto,
    stale_rows,
    staleness_table,
    update_speedup,
    warm_optimizer,
)
from groupppo.studies.shared.study import ALL, ENDPOINTS, GATHERED, RECOMPUTE, REUSE, SHARE, WINDOW
from groupppo.studies.streams import COLUMNS
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layout import Layout
from groupppo.update.passes import LiveRows, Plan
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE

PLACE = {"checkpoint": "start", "arm": "stride", "title": "Stride"}
WAYS = [LiveRows(), LiveRows(window=2), LiveRows(share=0.5), LiveRows(share=1.0)]
RATE = 1e-3

point = st.tuples(st.floats(1.0, 32.0), st.floats(-1.0, 1.0))
layouts = st.lists(st.integers(6, 30), min_size=1, max_size=4)


def stride(size: int, tokens: Tokens) -> Any:
    arm = GroupArm("stride", "Stride", {"rule": "stride", "group_max_size": size}, None)
    return group_updates([arm], tokens, GAMMA, LAM)["stride"]


@pytest.fixture(scope="module")
def endpoints(rollouts: Rollouts, tokens: Tokens) -> list[Endpoints]:
    """Three batches: of strides of four, three and five."""
    return [Endpoints.of(rollouts, stride(size, tokens)) for size in (4, 3, 5)]


@pytest.fixture(scope="module")
def curve(policy: Any, endpoints: list[Endpoints]) -> Curve:
    return measure_curve(policy, endpoints, WAYS, TEMPERATURE)


@pytest.fixture(scope="module")
def stale(policy: Any, endpoints: list[Endpoints], curve: Curve) -> pd.DataFrame:
    before = copy.deepcopy(policy.state_dict())
    rows = pd.DataFrame(stale_rows(policy, endpoints[:2], curve.gradients[:2], (0, 1, 4), RATE, TEMPERATURE))
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    return rows


# ---- gradients


def test_the_exact_gradient_is_that_of_the_loss_on_padded_rollouts(
    policy: Any, rollouts: Rollouts, tokens: Tokens, endpoints: list[Endpoints]
) -> None:
    expected = loss_gradients(policy, rollouts, [stride(4, tokens).weights], TEMPERATURE)[0]
    found, _ = loss_gradient(policy, endpoints[0], EXACT, TEMPERATURE)
    assert (torch.cat([found[name].flatten() for name, _ in policy.named_parameters()]) - expected).norm() < (
        1e-4 * expected.norm()
    )
    wrong, _ = loss_gradient(policy, replace(endpoints[0], weights=endpoints[0].weights.roll(1)), EXACT, TEMPERATURE)
    assert (torch.cat([part.flatten() for part in wrong.values()]) - expected).norm() > 0.1 * expected.norm()


def test_far_above_the_clip_endpoints_with_a_positive_advantage_no_longer_count(
    policy: Any, endpoints: list[Endpoints]
) -> None:
    plain, old = loss_gradient(policy, endpoints[0], EXACT, TEMPERATURE)
    same, _ = loss_gradient(policy, endpoints[0], EXACT, TEMPERATURE, old=old)
    clipped, _ = loss_gradient(policy, endpoints[0], EXACT, TEMPERATURE, old=old - 1.0)
    assert torch.equal(flat(same), flat(plain))
    assert (flat(clipped) - flat(plain)).norm() > 0.1 * flat(plain).norm()


def test_a_stream_of_all_tokens_is_exact_and_one_of_endpoints_is_biased(curve: Curve, endpoints: list) -> None:
    rows = curve.rows[curve.rows["batch"] == 0].set_index(["kind", "size", "group"])
    for group in (ALL, *PARAMETER_GROUPS):
        assert rows.loc[(SHARE, 1.0, group), "cosine"] == pytest.approx(1.0, abs=1e-5)
        assert rows.loc[(SHARE, 1.0, group), "norm_ratio"] == pytest.approx(1.0, abs=1e-4)
    bare, near, whole = (rows.loc[(*way, ALL)] for way in ((ENDPOINTS, 0.0), (WINDOW, 2.0), (SHARE, 1.0)))
    assert bare["cosine"] < near["cosine"] < 1.0 - 1e-4
    assert bare["speedup"] > near["speedup"] > whole["speedup"]
    assert bare["live"] == pytest.approx(len(endpoints[0].rows) / len(endpoints[0].layout.input_ids))


def test_keys_and_values_of_other_weights_matter_only_where_tokens_do_not_flow(
    policy: Any, endpoints: list[Endpoints], curve: Curve
) -> None:
    other, batch, exact = copy.deepcopy(policy), endpoints[0], curve.gradients[0]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def cosine(model: Any, way: LiveRows) -> float:
        plan = Plan("streamed", live=way, seed=0)
        found, _ = loss_gradient(policy, batch, plan, TEMPERATURE, keys_values_of(model, batch))
        return cosine_and_ratio(found, exact)["cosine"]

    assert abs(cosine(other, LiveRows()) - cosine(policy, LiveRows())) > 1e-3
    assert cosine(other, LiveRows(share=1.0)) == pytest.approx(1.0, abs=1e-5)


def test_every_parameter_belongs_to_a_group(policy: Any) -> None:
    assert {group_of(name) for name, _ in policy.named_parameters()} == set(PARAMETER_GROUPS)
    with pytest.raises(KeyError, match=r"router\.weight belongs to no group"):
        group_of("router.weight")


# ---- points


def test_a_way_is_named_by_what_flows() -> None:
    assert [kind_of(way) for way in WAYS[:3]] == [(ENDPOINTS, 0.0), (WINDOW, 2.0), (SHARE, 0.5)]


def test_every_way_is_a_point_and_the_exact_update_is_one_of_them(curve: Curve) -> None:
    measured = curve.rows.assign(**PLACE, density=0.25)
    expected = {("start", "stride", *way): found for way, found in curve.expected.items()}
    table = cost_table(measured, expected)
    assert set(table.columns) == set(COLUMNS["stream_costs"])
    assert list(table["kind"]) == [ENDPOINTS, WINDOW, SHARE, SHARE, GATHERED]
    table = table.drop(index=3).set_index("kind")
    assert table.loc[GATHERED, ["cosine", "norm_ratio", "expected_cosine"]].tolist() == [1.0, 1.0, 1.0]
    assert table.loc[ENDPOINTS, "cosine"] < table.loc[WINDOW, "cosine"] < 1.0
    assert table.loc[ENDPOINTS, "speedup"] > table.loc[WINDOW, "speedup"] > table.loc[GATHERED, "speedup"] > 1.0
    assert table.loc[ENDPOINTS, "speedup"] > table.loc[ENDPOINTS, "speedup_recompute"]
    whole = measured[(measured["group"] == ALL) & (measured["kind"] == WINDOW)]["cosine"].to_numpy()
    assert table.loc[WINDOW, ["cosine", "cosine_low", "cosine_high"]].tolist() == pytest.approx(list(mean_of(whole)))
    assert (table["batches"] == 3).all()
    groups = group_table(measured)
    assert set(groups.columns) == set(COLUMNS["stream_groups"])
    assert groups["group"].tolist() == [ALL, *PARAMETER_GROUPS]


@given(st.lists(point, min_size=1, max_size=8))
def test_a_point_is_on_the_front_exactly_if_no_other_beats_it(pairs: list[tuple[float, float]]) -> None:
    front = pareto(pd.DataFrame(pairs, columns=["speedup", "cosine"])).tolist()
    assert any(front)
    for (speed, cosine), on in zip(pairs, front, strict=True):
        beaten = any(s >= speed and c >= cosine and (s, c) != (speed, cosine) for s, c in pairs)
        assert on != beaten


def test_the_speed_up_counts_each_sequence_by_its_own_length(policy: Any) -> None:
    """Attention is quadratic: two sequences of 5 and 25 tokens are dearer than two of 15."""
    shape, rows = Shape.of(policy.config), torch.tensor([4, 29])
    uneven = Endpoints(Layout(torch.arange(30), torch.tensor([5, 25]), packed=False), rows, torch.ones(2))
    even = Endpoints(Layout(torch.arange(30), torch.tensor([15, 15]), packed=False), rows, torch.ones(2))

    def cost(mode: str) -> float:
        works = [Work(tokens=n, response=n, endpoints=1, live=1, kept=n) for n in (5, 25)]
        return sum(sum(update_flops(shape, work, mode).values()) for work in works)

    for mode in ("streamed", "streamed_reuse", "gathered"):
        assert update_speedup(shape, uneven, rows, mode) == pytest.approx(cost("dense") / cost(mode))
    other = update_speedup(shape, even, torch.tensor([14, 29]), "streamed_reuse")
    assert update_speedup(shape, uneven, rows, "streamed_reuse") != pytest.approx(other, rel=1e-6)


# ---- keys and values that grow old


def test_before_the_first_step_kept_keys_and_values_are_fresh(stale: pd.DataFrame, curve: Curve) -> None:
    rows = stale.set_index(["steps", "kv", "batch"]).sort_index()
    pd.testing.assert_frame_equal(rows.loc[0, REUSE], rows.loc[0, RECOMPUTE])
    assert (rows.loc[0, "moved"] == 0).all()
    assert rows.loc[0, "log_prob_error_max"].max() < 1e-5
    bias = curve.rows[(curve.rows["kind"] == ENDPOINTS) & (curve.rows["group"] == ALL)]["cosine"].tolist()[:2]
    assert rows.loc[(0, REUSE), "cosine"].tolist() == pytest.approx(bias, abs=1e-5)


def test_after_steps_kept_ones_are_wrong_in_value_and_fresh_ones_are_not(stale: pd.DataFrame) -> None:
    rows = stale.set_index(["steps", "kv", "batch"]).sort_index()
    for steps in (1, 4):
        assert rows.loc[(steps, RECOMPUTE), "log_prob_error_max"].max() < 1e-5
        assert rows.loc[(steps, REUSE), "log_prob_error"].min() > 1e-4
        assert (rows.loc[steps, "moved"] > 0).all()
    assert (rows.loc[(4, REUSE), "log_prob_error"] > rows.loc[(1, REUSE), "log_prob_error"]).all()
    assert (rows.loc[(4, REUSE), "cosine"] - rows.loc[(4, RECOMPUTE), "cosine"]).abs().min() > 1e-4


def test_the_table_of_staleness_has_the_largest_error_of_any_batch(stale: pd.DataFrame) -> None:
    table = staleness_table(stale.assign(**PLACE))
    assert set(table.columns) == set(COLUMNS["stream_staleness"])
    own = stale[(stale["steps"] == 4) & (stale["kv"] == REUSE)]
    row = table[(table["steps"] == 4) & (table["kv"] == REUSE)].iloc[0]
    assert row["log_prob_error_max"] == own["log_prob_error_max"].max()
    assert row["cosine"] == pytest.approx(own["cosine"].mean())


def test_warming_the_optimizer_moves_nothing_and_shortens_a_step_that_earlier_gradients_do_not_share(
    policy: Any, curve: Curve
) -> None:
    def moved(seen: list, found: dict | None) -> float:
        model = copy.deepcopy(policy)
        optimizer = warm_optimizer(model, seen, RATE)
        if found is not None:
            for name, parameter in model.named_parameters():
                parameter.grad = found[name].clone()
            optimizer.step()
        pairs = zip(model.parameters(), policy.parameters(), strict=True)
        return float(sum((one - other).square().sum() for one, other in pairs))

    opposed = [{name: -part for name, part in one.items()} for one in curve.gradients]
    assert moved(curve.gradients, None) == 0.0
    assert 0.0 < moved(opposed, curve.gradients[0]) < moved([], curve.gradients[0])
