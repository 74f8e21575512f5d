"""The bias of the streamed gradient, measured on sampled rollouts."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from groupppo.algorithm import Tokens
from groupppo.studies.arms import GroupArm, group_updates
from groupppo.studies.directions import loss_gradients
from groupppo.studies.names import ALL
from groupppo.studies.rollouts import Rollouts
from groupppo.studies.streams import PARAMETER_GROUPS, Endpoints, _gradient, bias_rows, group_of, keys_values_of
from groupppo.update.passes import LiveRows, Plan
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE


@pytest.fixture(scope="module")
def endpoints(rollouts: Rollouts, tokens: Tokens) -> Endpoints:
    arm = GroupArm("stride", "Stride", {"rule": "stride", "group_max_size": 4}, None)
    return Endpoints.of(rollouts, group_updates([arm], tokens, GAMMA, LAM)["stride"])


def test_the_exact_gradient_is_that_of_the_loss_on_padded_rollouts(
    policy: Any, rollouts: Rollouts, tokens: Tokens, endpoints: Endpoints
) -> None:
    arm = GroupArm("stride", "Stride", {"rule": "stride", "group_max_size": 4}, None)
    weights = group_updates([arm], tokens, GAMMA, LAM)["stride"].weights
    expected = loss_gradients(policy, rollouts, [weights], TEMPERATURE)[0]
    found = _gradient(policy, endpoints, Plan("gathered"), TEMPERATURE, None)
    flat = torch.cat([found[name].flatten() for name, _ in policy.named_parameters()])
    assert (flat - expected).norm() < 1e-4 * expected.norm()
    later = replace(endpoints, weights=endpoints.weights.roll(1))
    wrong = _gradient(policy, later, Plan("gathered"), TEMPERATURE, None)
    assert (torch.cat([part.flatten() for part in wrong.values()]) - expected).norm() > 0.1 * expected.norm()


def test_a_stream_of_all_tokens_is_exact_and_one_of_endpoints_is_biased(policy: Any, endpoints: Endpoints) -> None:
    rows = list(bias_rows(policy, [endpoints], [LiveRows(), LiveRows(window=2), LiveRows(share=1.0)], TEMPERATURE))
    assert [row["group"] for row in rows[: 1 + len(PARAMETER_GROUPS)]] == [ALL, *PARAMETER_GROUPS]
    found = {(row["window"], row["share"], row["group"]): row for row in rows}
    for group in (ALL, *PARAMETER_GROUPS):
        assert found[0, 1.0, group]["cosine"] == pytest.approx(1.0, abs=1e-5)
        assert found[0, 1.0, group]["norm_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert found[0, 0.0, ALL]["cosine"] < found[2, 0.0, ALL]["cosine"] < 1.0 - 1e-4
    assert found[0, 0.0, ALL]["speedup"] > found[2, 0.0, ALL]["speedup"] > found[0, 1.0, ALL]["speedup"]
    assert found[0, 0.0, ALL]["live"] == pytest.approx(len(endpoints.rows) / len(endpoints.layout.input_ids))


def test_keys_and_values_of_other_weights_matter_only_where_tokens_do_not_flow(
    policy: Any, endpoints: Endpoints
) -> None:
    other = copy.deepcopy(policy)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ways = [LiveRows(), LiveRows(share=1.0)]
    fresh, stale = (
        [
            row["cosine"]
            for row in bias_rows(policy, [endpoints], ways, TEMPERATURE, kept=[keys_values_of(model, endpoints)])
            if row["group"] == ALL
        ]
        for model in (policy, other)
    )
    assert abs(stale[0] - fresh[0]) > 1e-3
    assert stale[1] == pytest.approx(1.0, abs=1e-5)


def test_every_parameter_belongs_to_a_group(policy: Any) -> None:
    assert {group_of(name) for name, _ in policy.named_parameters()} == set(PARAMETER_GROUPS)
    with pytest.raises(KeyError, match=r"router\.weight belongs to no group"):
        group_of("router.weight")
