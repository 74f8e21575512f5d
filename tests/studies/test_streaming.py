"""Streamed gradients on sampled rollouts: their bias, what they cost, and what kept keys and values do to them."""

import copy
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from groupppo.algorithm import Tokens
from groupppo.config import Arm
from groupppo.studies.shared.rollouts import Rollouts
from groupppo.studies.shared.streaming import (
    EXACT,
    PARAMETER_GROUPS,
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
    stale_rows,
    staleness_table,
    update_speedup,
    warm_optimizer,
)
from groupppo.studies.shared.study import ALL, ENDPOINTS, GATHERED, RECOMPUTE, REUSE, SHARE, WINDOW
from groupppo.studies.shared.updates import group_updates, loss_gradients, mean_of
from groupppo.studies.streams import COLUMNS
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layout import Layout
from groupppo.update.passes import LiveRows, Plan
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE

PLACE = {"checkpoint": "start", "arm": "stride", "title": "Stride"}
WAYS = [LiveRows(), LiveRows(window=2), LiveRows(share=0.5), LiveRows(share=1.0)]
Curve = tuple[pd.DataFrame, list]
RATE, VALUES = 1e-3, ["cosine", "norm_ratio", "log_prob_error", "moved"]


def stride(size: int, tokens: Tokens) -> Any:
    keys = {"algorithm.group_params.rule": "stride", "algorithm.group_params.group_max_size": size}
    return group_updates([Arm("stride", "Stride", "For a test.", keys)], tokens, GAMMA, LAM)["stride"]


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
    rows = pd.DataFrame(stale_rows(policy, endpoints[:2], curve[1][:2], (0, 1, 4), RATE, TEMPERATURE))
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
    rows = curve[0][curve[0]["batch"] == 0].set_index(["kind", "size", "group"])
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
    other, batch, exact = copy.deepcopy(policy), endpoints[0], curve[1][0]
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
    measured = curve[0].assign(**PLACE, density=0.25)
    table = cost_table(measured)
    assert set(table.columns) == set(COLUMNS["stream_costs"])
    assert list(table["kind"]) == [ENDPOINTS, WINDOW, SHARE, SHARE, GATHERED]
    table = table.drop(index=3).set_index("kind")
    assert table.loc[GATHERED, ["cosine", "norm_ratio"]].tolist() == [1.0, 1.0]
    assert table.loc[ENDPOINTS, "cosine"] < table.loc[WINDOW, "cosine"] < 1.0
    assert table.loc[ENDPOINTS, "speedup"] > table.loc[WINDOW, "speedup"] > table.loc[GATHERED, "speedup"] > 1.0
    assert table.loc[ENDPOINTS, "speedup"] > table.loc[ENDPOINTS, "speedup_recompute"]
    whole = measured[(measured["group"] == ALL) & (measured["kind"] == WINDOW)]["cosine"].to_numpy()
    assert table.loc[WINDOW, ["cosine", "cosine_low", "cosine_high"]].tolist() == pytest.approx(list(mean_of(whole)))
    assert (table["batches"] == 3).all()
    groups = group_table(measured)
    assert set(groups.columns) == set(COLUMNS["stream_groups"])
    assert groups["group"].tolist() == [ALL, *PARAMETER_GROUPS]


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


def test_kept_keys_and_values_are_fresh_at_first_and_wrong_in_value_after_steps(
    stale: pd.DataFrame, curve: Curve
) -> None:
    kept, fresh = (stale[stale["kv"] == kv].pivot_table(index="steps", values=VALUES) for kv in (REUSE, RECOMPUTE))
    assert kept.loc[0].tolist() == pytest.approx(fresh.loc[0].tolist())
    bias = curve[0].query("kind == @ENDPOINTS and group == @ALL and batch < 2")["cosine"].mean()
    assert (kept.loc[0, "cosine"], kept.loc[0, "moved"]) == (pytest.approx(bias, abs=1e-5), 0)
    assert (fresh["log_prob_error"] < 1e-5).all()
    assert 1e-4 < kept.loc[1, "log_prob_error"] < kept.loc[4, "log_prob_error"]
    assert 0 < kept.loc[1, "moved"] < kept.loc[4, "moved"]
    assert abs(kept.loc[4, "cosine"] - fresh.loc[4, "cosine"]) > 1e-4
    table = staleness_table(stale.assign(**PLACE))
    assert set(table.columns) == set(COLUMNS["stream_staleness"])
    assert table.query("steps == 4 and kv == @REUSE")["cosine"].item() == pytest.approx(kept.loc[4, "cosine"])


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

    opposed = [{name: -part for name, part in one.items()} for one in curve[1]]
    assert moved(curve[1], None) == 0.0
    assert 0.0 < moved(opposed, curve[1][0]) < moved([], curve[1][0])
