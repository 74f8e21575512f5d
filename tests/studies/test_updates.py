"""Arms as studies follow them, their gradients against autograd on the whole loss, and statistics of directions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from groupppo.algorithm import Tokens
from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.config import REPOSITORY, Arm, load_arm
from groupppo.errors import BadInput
from groupppo.studies.grouping import COLUMNS
from groupppo.studies.shared.rollouts import Rollouts, response_log_probs
from groupppo.studies.shared.study import DENSE, DENSE_OTHER, NO_RULE
from groupppo.studies.shared.updates import (
    dense_update,
    direction_summary,
    disjoint_cosines,
    expected_cosine,
    group_arms,
    group_updates,
    inner_products,
    loss_gradients,
    relative_variance,
)
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE

SHIPPED = [load_arm(file) for file in sorted((REPOSITORY / "benchmarks" / "arms").glob("*.yaml"))]


def arm(name: str = "mine", density_from: str | None = None, **verl: object) -> Arm:
    keys = {"algorithm.adv_estimator": "group_ppo", "critic.enable": True} | {
        key.replace("__", "."): value for key, value in verl.items()
    }
    return Arm(name, name, "For a test.", keys, Path(f"arms/{name}.yaml"), density_from)


def test_every_shipped_arm_with_a_rule_is_followed_and_the_others_are_left_out_with_a_reason() -> None:
    followed, left_out = group_arms(SHIPPED)
    assert {arm.name for arm in followed} | set(left_out) == {arm.name for arm in SHIPPED}
    without_a_rule = {arm.name for arm in SHIPPED if not arm.grouped}
    assert {name for name, reason in left_out.items() if reason == NO_RULE} == without_a_rule
    others = {arm.name for arm in SHIPPED if arm.verl["algorithm.adv_estimator"] != "group_ppo"}
    assert {name for name, reason in left_out.items() if "estimator" in reason} == others - without_a_rule
    streamed = {arm.name for arm in SHIPPED if arm.verl.get("algorithm.group_params.update") == "streamed"}
    set_more = {arm.name for arm in SHIPPED if any(key.startswith(("actor_", "algorithm.lam")) for key in arm.verl)}
    assert set(left_out) == others | streamed | set_more
    controls = {arm.name for arm in followed if arm.density_from == "group_ppo"}
    assert controls == {"random", "entropy", "entropy_gathered", "abs_advantage_top", "abs_advantage_bottom"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"algorithm__adv_estimator": "grpo", "algorithm__group_params__rule": "stride"}, "estimator of verl's"),
        ({"algorithm__gamma": 0.9}, "algorithm.gamma"),
        ({"algorithm__group_params__update": "streamed"}, "approximate"),
        ({"algorithm__group_params__rule": "random", "algorithm__group_params__density_source": "a.jsonl"}, "file"),
    ],
)
def test_an_arm_that_the_study_would_misrepresent_is_left_out(changed: dict, reason: str) -> None:
    followed, left_out = group_arms([arm(**changed)])
    assert not followed
    assert reason in left_out["mine"]
    assert not group_arms([arm()])[1]


def test_a_wrong_key_is_named_with_its_file_and_mend() -> None:
    with pytest.raises(BadInput, match=r"arms/mine.yaml: verl.algorithm.group_params.group_max_sizes = 4(.|\n)*hint"):
        group_arms([arm(algorithm__group_params__group_max_sizes=4)])


def test_an_arm_whose_density_comes_from_nowhere_is_named() -> None:
    control = arm("control", density_from="group_ppo", algorithm__group_params__rule="random")
    with pytest.raises(BadInput, match=r"arms/control.yaml: density_from = 'group_ppo'"):
        group_arms([control])
    assert len(group_arms([control, arm("group_ppo")])[0]) == 2


def test_singleton_has_dense_weights_to_the_bit_and_other_arms_have_not(tokens: Tokens) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    dense = dense_update(tokens, GAMMA, LAM)
    assert torch.equal(updates["singleton"].weights, dense.weights)
    assert updates["singleton"].density == 1.0
    same = [name for name, update in updates.items() if torch.equal(update.weights, dense.weights)]
    # The micro policy is sure of none of its tokens, so that low_prob cuts at each.
    assert same == ["low_prob", "singleton"]


def test_weights_sit_on_endpoints_or_on_all_tokens_as_the_arm_spreads_them(tokens: Tokens) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    count = int(tokens.mask.sum())
    assert int((updates["sequence"].weights != 0).sum()) == len(tokens.mask)
    assert int((updates["group_ppo"].weights != 0).sum()) == round(updates["group_ppo"].density * count) < count
    assert int((updates["group_ppo_broadcast"].weights != 0).sum()) == count
    for update in updates.values():
        assert not update.weights[~tokens.mask].any()


def test_a_control_has_the_density_of_its_arm_on_the_same_batch(tokens: Tokens) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    half_a_token = 0.5 / int(tokens.mask.sum())
    for control in ("random", "entropy"):
        assert abs(updates[control].density - updates["group_ppo"].density) <= half_a_token + 1e-12
    assert abs(updates["stride"].density - updates["group_ppo"].density) > half_a_token


# ---- gradients and their directions


def noisy(expected: list[list[float]], own: float, shared: float, batches: int, seed: int = 0) -> np.ndarray:
    """Inner products of gradients with these expectations, noise of their own and noise all arms share in a batch."""
    generator = np.random.default_rng(seed)
    means = np.array(expected)[:, None, :]
    arms, _, size = means.shape
    noise = own * generator.normal(size=(arms, batches, size)) + shared * generator.normal(size=(1, batches, size))
    return inner_products(torch.from_numpy(means + noise))


def test_gradients_are_those_of_the_whole_loss_whatever_the_micro_batch(
    policy: Any, rollouts: Rollouts, tokens: Tokens
) -> None:
    """The clipped loss itself, at log-probabilities that are the parameters' own: ratio 1."""
    dense = dense_update(tokens, GAMMA, LAM)
    log_probs = response_log_probs(policy, rollouts, TEMPERATURE)
    advantages = -dense.weights * int(tokens.mask.sum())
    loss = policy_loss(log_probs, log_probs.detach(), advantages, LossMask(tokens.mask, tokens.mask))
    parameters = list(policy.parameters())
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
    for micro_batch in (1, 5, 64):
        (gradient,) = loss_gradients(policy, rollouts, [dense.weights], TEMPERATURE, micro_batch)
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    (shifted,) = loss_gradients(policy, rollouts, [dense.weights.roll(1, dims=1)], TEMPERATURE)
    assert not torch.allclose(shifted, expected, rtol=1e-2, atol=1e-5)


def test_several_losses_share_a_pass_without_touching_each_other(
    policy: Any, rollouts: Rollouts, tokens: Tokens
) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    weights = [updates[name].weights for name in ("group_ppo", "stride", "group_ppo", "singleton", "stride")]
    together = loss_gradients(policy, rollouts, weights, TEMPERATURE)
    alone = torch.cat([loss_gradients(policy, rollouts, [weight], TEMPERATURE) for weight in weights])
    assert torch.equal(together, alone)
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[1], together[3])


def test_inner_products_are_summed_over_all_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("groupppo.studies.shared.updates._COLUMNS", 4)
    inner = inner_products(gradients)
    assert inner.shape == (2, 3, 2, 3)
    for a, i, b, j in ((0, 0, 0, 0), (0, 1, 1, 2), (1, 2, 0, 0)):
        assert inner[a, i, b, j] == pytest.approx(float(gradients[a, i].double() @ gradients[b, j].double()))
    assert inner[0, 1, 1, 2] != pytest.approx(inner[0, 2, 1, 1])


def summary_of(inner: np.ndarray, *names: str) -> pd.DataFrame:
    arms = [{"arm": name, "title": name, "density": 0.2} for name in (DENSE, *names)]
    return direction_summary(inner, pd.DataFrame(arms)).set_index("arm")


def test_without_noise_every_cosine_is_that_of_the_expectations() -> None:
    row = summary_of(noisy([[3.0, 0.0], [2.0, 2.0]], own=0.0, shared=0.0, batches=6), "a").loc["a"]
    for name in ("cosine", "mean_cosine", "expected_cosine", "expected_cosine_low", "expected_cosine_high"):
        assert row[name] == pytest.approx(0.5**0.5)
    assert row["norm_ratio"] == pytest.approx(8**0.5 / 3)
    assert row["relative_variance"] == pytest.approx(0.0, abs=1e-12)


def test_noise_that_arms_share_makes_them_look_alike_but_not_in_expectation() -> None:
    """Expectations at a right angle, and shared noise three times as long in a batch."""
    directions = [[1.0, 0.0, *[0.0] * 18], [0.0, 1.0, *[0.0] * 18]]
    estimates, contaminated = [], []
    for seed in range(40):
        inner = noisy(directions, own=0.0, shared=0.7, batches=24, seed=seed)
        estimates.append(expected_cosine(inner, 1).value)
        contaminated.append(summary_of(inner, "a").loc["a", "mean_cosine"])
    assert np.nanmean(estimates) == pytest.approx(0.0, abs=0.06)
    assert np.mean(contaminated) > 0.2


def test_the_interval_of_the_expected_cosine_covers_the_true_one() -> None:
    directions = [[1.0, 0.0, *[0.0] * 8], [1.0, 1.0, *[0.0] * 8]]
    hits = 0
    for seed in range(60):
        low, high = expected_cosine(noisy(directions, own=0.2, shared=0.2, batches=12, seed=seed), 1)[1:]
        hits += low <= 0.5**0.5 <= high
    assert 46 <= hits <= 59


def test_relative_variance_is_the_trace_of_the_covariance_over_the_squared_expectation() -> None:
    inner = noisy([[2.0, *[0.0] * 9]], own=1.0, shared=0.0, batches=300)
    assert relative_variance(inner, 0).value == pytest.approx(10 / 4, rel=0.15)
    naive = np.diagonal(inner[0, :, 0, :]).mean() / 4
    assert naive == pytest.approx(14 / 4, rel=0.15)


def test_where_the_expectation_drowns_in_noise_there_is_no_estimate() -> None:
    for seed in range(20):
        inner = noisy([[0.0] * 20, [1.0] * 20], own=1.0, shared=0.0, batches=5, seed=seed)
        square = (inner[0, :, 0, :].sum() - np.trace(inner[0, :, 0, :])) / 20
        assert math.isnan(expected_cosine(inner, 1).value) == (square <= 0)
        assert math.isnan(relative_variance(inner, 0).value) == (square <= 0)


def test_the_summary_holds_every_arm_and_the_noise_floor() -> None:
    inner = noisy([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]], own=0.0, shared=0.1, batches=6)
    summary = summary_of(inner, "a", "b")
    assert {"arm", *summary.columns} == set(COLUMNS["direction_summary"])
    assert list(summary.index) == [DENSE, "a", "b", DENSE_OTHER]
    assert (summary.loc["a", "density"], summary.loc["a", "same_as"], summary.loc["b", "same_as"]) == (0.2, "", "a")
    assert summary.loc[DENSE, "cosine"] == pytest.approx(1.0)
    assert summary.loc["a", "cosine_low"] < summary.loc["a", "cosine"] < summary.loc["a", "cosine_high"] < 1.0
    floor = summary.loc[DENSE_OTHER]
    assert floor["cosine"] == pytest.approx(disjoint_cosines(inner).mean())
    assert pd.isna(floor["expected_cosine"])
    own = inner[0, :, 0, :]
    assert floor["mean_cosine"] == pytest.approx(own[:3, 3:].mean() / np.sqrt(own[:3, :3].mean() * own[3:, 3:].mean()))
