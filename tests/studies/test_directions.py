"""Update directions: gradients against autograd on the whole loss, and statistics against known expectations."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from groupppo.studies.shared.arms import dense_update, group_arms, group_updates
from groupppo.studies.shared.directions import (
    Compared,
    batch_cosines,
    direction_summary,
    disjoint_cosines,
    expected_cosine,
    inner_products,
    loss_gradients,
    mean_cosine,
    norm_ratios,
    relative_variance,
)

from groupppo.algorithm import Tokens
from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.config import REPOSITORY, load_arm
from groupppo.studies.grouping import COLUMNS
from groupppo.studies.shared.rollouts import Rollouts, response_log_probs
from groupppo.studies.shared.study import DENSE, DENSE_OTHER
from tests.studies.conftest import GAMMA, LAM, TEMPERATURE

SHIPPED = [load_arm(file) for file in sorted((REPOSITORY / "benchmarks" / "arms").glob("*.yaml"))]


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
    monkeypatch.setattr("groupppo.studies.shared.directions._COLUMNS", 4)
    inner = inner_products(gradients)
    assert inner.shape == (2, 3, 2, 3)
    for a, i, b, j in ((0, 0, 0, 0), (0, 1, 1, 2), (1, 2, 0, 0)):
        assert inner[a, i, b, j] == pytest.approx(float(gradients[a, i].double() @ gradients[b, j].double()))
    assert inner[0, 1, 1, 2] != pytest.approx(inner[0, 2, 1, 1])


def test_without_noise_every_cosine_is_that_of_the_expectations() -> None:
    inner = noisy([[3.0, 0.0], [2.0, 2.0]], own=0.0, shared=0.0, batches=6)
    r = 0.5**0.5
    assert batch_cosines(inner, 1, 0) == pytest.approx([r] * 6)
    assert norm_ratios(inner, 1, 0) == pytest.approx([8**0.5 / 3] * 6)
    assert mean_cosine(inner, 1, 0) == pytest.approx(r)
    assert expected_cosine(inner, 1, 0) == pytest.approx((r, r, r))
    assert relative_variance(inner, 1) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    assert disjoint_cosines(inner, 0) == pytest.approx([1.0] * 3)


def test_noise_that_arms_share_makes_them_look_alike_but_not_in_expectation() -> None:
    """Expectations at a right angle, and shared noise three times as long in a batch."""
    directions = [[1.0, 0.0, *[0.0] * 18], [0.0, 1.0, *[0.0] * 18]]
    estimates, contaminated = [], []
    for seed in range(40):
        inner = noisy(directions, own=0.0, shared=0.7, batches=24, seed=seed)
        estimates.append(expected_cosine(inner, 1, 0).value)
        contaminated.append(mean_cosine(inner, 1, 0))
        assert batch_cosines(inner, 1, 0).mean() > 0.6
    assert np.nanmean(estimates) == pytest.approx(0.0, abs=0.06)
    assert np.mean(contaminated) > 0.2


def test_the_interval_of_the_expected_cosine_covers_the_true_one() -> None:
    directions = [[1.0, 0.0, *[0.0] * 8], [1.0, 1.0, *[0.0] * 8]]
    hits = 0
    for seed in range(100):
        low, high = expected_cosine(noisy(directions, own=0.2, shared=0.2, batches=12, seed=seed), 1, 0)[1:]
        hits += low <= 0.5**0.5 <= high
    assert 80 <= hits <= 99


def test_relative_variance_is_the_trace_of_the_covariance_over_the_squared_expectation() -> None:
    inner = noisy([[2.0, *[0.0] * 9]], own=1.0, shared=0.0, batches=300)
    assert relative_variance(inner, 0).value == pytest.approx(10 / 4, rel=0.15)
    naive = np.diagonal(inner[0, :, 0, :]).mean() / 4
    assert naive == pytest.approx(14 / 4, rel=0.15)


def test_where_the_expectation_drowns_in_noise_there_is_no_estimate() -> None:
    for seed in range(20):
        inner = noisy([[0.0] * 20, [1.0] * 20], own=1.0, shared=0.0, batches=5, seed=seed)
        square = (inner[0, :, 0, :].sum() - np.trace(inner[0, :, 0, :])) / 20
        assert math.isnan(expected_cosine(inner, 1, 0).value) == (square <= 0)
        assert math.isnan(relative_variance(inner, 0).value) == (square <= 0)


def test_the_summary_holds_every_arm_and_the_noise_floor() -> None:
    inner = noisy([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]], own=0.0, shared=0.1, batches=6)
    summary = direction_summary(inner, [Compared(DENSE, "PPO", 1.0), Compared("a", "a", 0.2), Compared("b", "b", 0.2)])
    assert set(summary.columns) == set(COLUMNS["direction_summary"])
    assert summary["arm"].tolist() == [DENSE, "a", "b", DENSE_OTHER]
    by_arm = summary.set_index("arm")
    assert by_arm.loc["a", "density"] == pytest.approx(0.2)
    assert by_arm.loc["b", "same_as"] == "a"
    assert by_arm.loc["a", "same_as"] == ""
    assert by_arm.loc[DENSE, "cosine"] == pytest.approx(1.0)
    assert by_arm.loc["a", "cosine_low"] < by_arm.loc["a", "cosine"] < by_arm.loc["a", "cosine_high"] < 1.0
    floor = disjoint_cosines(inner, 0)
    assert by_arm.loc[DENSE_OTHER, "cosine"] == pytest.approx(floor.mean())
    assert pd.isna(by_arm.loc[DENSE_OTHER, "expected_cosine"])
    half = mean_of_halves(inner)
    assert by_arm.loc[DENSE_OTHER, "mean_cosine"] == pytest.approx(half)


def mean_of_halves(inner: np.ndarray) -> float:
    first, second = slice(0, 3), slice(3, 6)
    cross = inner[0, first, 0, second].mean()
    return float(cross / np.sqrt(inner[0, first, 0, first].mean() * inner[0, second, 0, second].mean()))
