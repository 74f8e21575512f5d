"""Keys and values older than the weights: harmless before the first step, wrong after it where they are kept."""

import copy
from typing import Any

import pandas as pd
import pytest
import torch

from groupppo.algorithm import Tokens
from groupppo.studies.arms import GroupArm, group_updates
from groupppo.studies.names import ALL, RECOMPUTE, REUSE
from groupppo.studies.rollouts import Rollouts
from groupppo.studies.staleness import EXACT, _loss_gradient, endpoint_log_probs, stale_rows, warm_optimizer
from groupppo.studies.streams import Endpoints, Gradients, _gradient, bias_rows, flat
from groupppo.update.passes import LiveRows
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE

RATE = 1e-3


@pytest.fixture(scope="module")
def endpoints(rollouts: Rollouts, tokens: Tokens) -> list[Endpoints]:
    """Two batches: of strides of four and of three."""
    arms = [GroupArm(f"every{n}", "Stride", {"rule": "stride", "group_max_size": n}, None) for n in (4, 3)]
    updates = group_updates(arms, tokens, GAMMA, LAM)
    return [Endpoints.of(rollouts, updates[arm.name]) for arm in arms]


@pytest.fixture(scope="module")
def gradients(policy: Any, endpoints: list[Endpoints]) -> list[Gradients]:
    return [_gradient(policy, batch, EXACT, TEMPERATURE, None) for batch in endpoints]


@pytest.fixture(scope="module")
def rows(policy: Any, endpoints: list[Endpoints], gradients: list[Gradients]) -> pd.DataFrame:
    before = copy.deepcopy(policy.state_dict())
    found = pd.DataFrame(stale_rows(policy, endpoints, gradients, (0, 1, 4), RATE, TEMPERATURE))
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    return found.set_index(["steps", "kv", "batch"]).sort_index()


def test_before_the_first_step_kept_keys_and_values_are_fresh(
    policy: Any, endpoints: list[Endpoints], rows: pd.DataFrame
) -> None:
    pd.testing.assert_frame_equal(rows.loc[0, REUSE], rows.loc[0, RECOMPUTE])
    assert (rows.loc[0, "moved"] == 0).all()
    assert rows.loc[0, "log_prob_error_max"].max() < 1e-5
    bias = [row["cosine"] for row in bias_rows(policy, endpoints, [LiveRows()], TEMPERATURE) if row["group"] == ALL]
    assert rows.loc[(0, REUSE), "cosine"].tolist() == pytest.approx(bias, abs=1e-5)


def test_after_steps_kept_ones_are_wrong_in_value_and_fresh_ones_are_not(rows: pd.DataFrame) -> None:
    for steps in (1, 4):
        assert rows.loc[(steps, RECOMPUTE), "log_prob_error_max"].max() < 1e-5
        assert rows.loc[(steps, REUSE), "log_prob_error"].min() > 1e-4
        assert (rows.loc[steps, "moved"] > 0).all()
    assert (rows.loc[(4, REUSE), "log_prob_error"] > rows.loc[(1, REUSE), "log_prob_error"]).all()
    assert (rows.loc[(4, REUSE), "cosine"] - rows.loc[(4, RECOMPUTE), "cosine"]).abs().min() > 1e-4


def test_the_loss_at_ratio_one_has_the_weights_for_a_derivative(policy: Any, endpoints: list[Endpoints]) -> None:
    batch = endpoints[0]
    old = endpoint_log_probs(policy, batch, TEMPERATURE)
    plain = flat(_gradient(policy, batch, EXACT, TEMPERATURE, None))
    found, log_probs = _loss_gradient(policy, batch, EXACT, TEMPERATURE, old, None)
    assert torch.allclose(log_probs, old, atol=1e-6)
    assert (flat(found) - plain).norm() < 1e-5 * plain.norm()
    # Far above the clip, endpoints with a positive advantage no longer count.
    clipped, _ = _loss_gradient(policy, batch, EXACT, TEMPERATURE, old - 1.0, None)
    assert (flat(clipped) - plain).norm() > 0.1 * plain.norm()


def test_updates_lower_the_loss_and_not_when_they_go_the_other_way(policy: Any, endpoints: list[Endpoints]) -> None:
    batch = endpoints[0]
    old = endpoint_log_probs(policy, batch, TEMPERATURE)

    def change(sign: float) -> float:
        model = copy.deepcopy(policy)
        optimizer = warm_optimizer(model, [], RATE)
        found, _ = _loss_gradient(model, batch, EXACT, TEMPERATURE, old, None)
        for name, parameter in model.named_parameters():
            parameter.grad = sign * found[name]
        optimizer.step()
        return float((batch.weights * (endpoint_log_probs(model, batch, TEMPERATURE) - old)).sum())

    assert change(1.0) < 0 < change(-1.0)


def test_warming_the_optimizer_moves_nothing_and_shortens_a_step_that_earlier_gradients_do_not_share(
    policy: Any, gradients: list[Gradients]
) -> None:
    def moved(seen: list[Gradients], found: Gradients | None) -> float:
        model = copy.deepcopy(policy)
        optimizer = warm_optimizer(model, seen, RATE)
        if found is not None:
            for name, parameter in model.named_parameters():
                parameter.grad = found[name].clone()
            optimizer.step()
        pairs = zip(model.parameters(), policy.parameters(), strict=True)
        return float(sum((one - other).square().sum() for one, other in pairs))

    opposed = [{name: -part for name, part in one.items()} for one in gradients]
    assert moved(gradients, None) == 0.0
    assert 0.0 < moved(opposed, gradients[0]) < moved([], gradients[0])
