"""Advantages against verl's own code, a hand-worked example and the definition."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import compute_gae_advantage_return

from groupppo.advantage import gae, segment_gae, whiten
from groupppo.grouping import last_valid


def random_batch(seed: int, rows: int = 4, length: int = 9) -> tuple[torch.Tensor, ...]:
    """Rewards, values and a right-padded mask; (rows, length) each, the mask in verl's integers."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    rewards = torch.randn(rows, length, generator=generator) * mask
    return rewards, torch.randn(rows, length, generator=generator), mask


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.99, 0.5]), st.sampled_from([1.0, 0.95, 0.0]))
def test_singleton_groups_give_verls_gae_to_the_last_bit(seed: int, gamma: float, lam: float) -> None:
    rewards, values, mask = random_batch(seed)
    assume(mask.sum() >= 2)
    stock_advantages, stock_returns = compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    advantages, returns = segment_gae(rewards, values, mask.bool(), mask.bool(), gamma, lam)
    inside = mask.bool()
    assert torch.equal(whiten(advantages, mask)[inside], stock_advantages[inside])
    assert torch.equal(returns[inside], stock_returns[inside])


def test_gae_of_a_mask_with_holes_is_verls_too() -> None:
    rewards, values, _ = random_batch(3)
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 1, 0]] * 4)
    stock, _ = compute_gae_advantage_return(rewards, values, mask, 0.9, 0.8)
    advantages = gae(rewards, values, mask.bool(), 0.9, 0.8)
    assert torch.equal(whiten(advantages, mask)[mask.bool()], stock[mask.bool()])


def test_values_shifted_by_one_token_do_not_give_verls_gae() -> None:
    rewards, values, mask = random_batch(5)
    stock, _ = compute_gae_advantage_return(rewards, values, mask, 0.99, 0.95)
    shifted = gae(rewards, values.roll(1, dims=1), mask.bool(), 0.99, 0.95)
    assert not torch.equal(whiten(shifted, mask)[mask.bool()], stock[mask.bool()])


def test_segment_gae_on_a_hand_worked_example() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.0, 2.0, 4.0]])
    values = torch.tensor([[9.0, 0.5, 9.0, 0.25, 1.0]])
    endpoints = torch.tensor([[0, 1, 0, 0, 1]]).bool()
    mask = torch.ones(1, 5).bool()
    advantages, returns = segment_gae(rewards, values, mask, endpoints, gamma=0.5, lam=0.5)
    last = 4.0 - 1.0  # delta of the last endpoint: its own reward, then the response ends
    first = (1.0 + 0.5 * 0.0 + 0.25 * 2.0) + 0.125 * 1.0 - 0.5 + 0.125 * 0.5 * last
    assert advantages[0].tolist() == [0.0, first, 0.0, 0.0, last]
    assert returns[0].tolist() == [0.0, first + 0.5, 0.0, 0.0, last + 1.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.9]))
def test_with_lambda_one_returns_are_the_discounted_future_reward(seed: int, gamma: float) -> None:
    rewards, values, mask = random_batch(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = torch.rand(mask.shape, generator=generator) < 0.3
    endpoints = (chosen & mask.bool()) | last_valid(mask.bool())
    _, returns = segment_gae(rewards, values, mask.bool(), endpoints, gamma, lam=1.0)
    for row, t in endpoints.nonzero().tolist():
        future = sum(gamma**n * float(reward) for n, reward in enumerate(rewards[row, t : int(mask[row].sum())]))
        assert float(returns[row, t]) == pytest.approx(future, abs=1e-4)


def test_values_off_the_endpoints_are_never_read() -> None:
    rewards, values, mask = random_batch(11)
    endpoints = last_valid(mask.bool())
    endpoints[:, 0] = mask[:, 0].bool()
    poisoned = torch.where(endpoints, values, float("nan"))
    expected, _ = segment_gae(rewards, values, mask.bool(), endpoints, 0.99, 0.95)
    advantages, _ = segment_gae(rewards, poisoned, mask.bool(), endpoints, 0.99, 0.95)
    assert torch.equal(advantages, expected)


def test_whitening_is_over_the_carriers_only() -> None:
    advantages = torch.tensor([[1.0, 100.0, 3.0, -50.0]])
    carriers = torch.tensor([[1, 0, 1, 0]])
    whitened = whiten(advantages, carriers)
    assert whitened[0, [1, 3]].tolist() == [0.0, 0.0]
    assert float(whitened.sum()) == pytest.approx(0.0, abs=1e-6)
    assert float((whitened**2).sum()) == pytest.approx(1.0)  # unbiased variance 1 over two carriers


def test_whitening_one_carrier_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 1"):
        whiten(torch.ones(1, 3), torch.tensor([[0, 1, 0]]))
