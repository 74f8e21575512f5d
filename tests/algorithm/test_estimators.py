"""Advantages over all tokens, over endpoints, shared in groups, and whitened."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_gae_advantage_return

from groupppo.algorithm import GroupParams, Groups, Tokens, group_tokens
from groupppo.algorithm.estimators import gae, published, segment_gae, share_in_group, token_gae, whiten
from tests.algorithm.strategies import batches, fixed_batch, members, valid_tokens

RATES = st.sampled_from([1.0, 0.99, 0.5, 0.0])
STRIDE = GroupParams(rule="stride", group_max_size=3)


@settings(max_examples=30)
@given(tokens=batches(least=2), gamma=RATES, lam=RATES)
def test_with_every_token_an_endpoint_segment_gae_is_verls_gae_to_the_last_bit(
    tokens: Tokens, gamma: float, lam: float
) -> None:
    mask = tokens.mask
    stock, stock_returns = compute_gae_advantage_return(tokens.rewards, tokens.values, mask.long(), gamma, lam)
    advantages, returns = segment_gae(tokens.rewards, tokens.values, mask, mask, gamma, lam)
    assert torch.equal(whiten(advantages, mask.long())[mask], stock[mask])
    assert torch.equal(returns[mask], stock_returns[mask])
    assert torch.equal(gae(tokens.rewards, tokens.values, mask, gamma, lam), advantages)


def test_values_shifted_by_one_token_do_not_give_verls_gae() -> None:
    tokens = fixed_batch()
    mask, rewards, values = tokens.mask, tokens.get("rewards"), tokens.get("values")
    stock, _ = compute_gae_advantage_return(rewards, values, mask.long(), 0.99, 0.95)
    for shift, same in ((0, True), (1, False)):
        advantages = gae(rewards, values.roll(shift, dims=1), mask, 0.99, 0.95)
        assert torch.equal(whiten(advantages, mask.long())[mask], stock[mask]) == same


def test_segment_gae_on_a_hand_worked_example() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.0, 2.0, 4.0]])
    values = torch.tensor([[9.0, 0.5, 9.0, 0.25, 1.0]])
    endpoints = torch.tensor([[0, 1, 0, 0, 1]]).bool()
    mask = torch.ones(1, 5).bool()
    advantages, returns = segment_gae(rewards, values, mask, endpoints, gamma=0.5, lam=0.5)
    last = 4.0 - 1.0  # its own reward, then the response ends
    first = (1.0 + 0.5 * 0.0 + 0.25 * 2.0) + 0.125 * 1.0 - 0.5 + 0.125 * 0.5 * last
    assert advantages[0].tolist() == [0.0, first, 0.0, 0.0, last]
    assert returns[0].tolist() == [0.0, first + 0.5, 0.0, 0.0, last + 1.0]


def future_reward(rewards: Tensor, row: int, positions: list[int], gamma: float) -> float:
    """Discounted once per entry of `positions`, from the first one on."""
    return sum(gamma**n * float(rewards[row, t]) for n, t in enumerate(positions))


@settings(max_examples=25)
@given(tokens=batches(), gamma=RATES, cap=st.integers(1, 4))
def test_with_lambda_one_returns_are_the_discounted_future_reward_counted_in_valid_tokens(
    tokens: Tokens, gamma: float, cap: int
) -> None:
    rewards, values = tokens.get("rewards").double(), tokens.get("values").double()
    endpoints = group_tokens(tokens, GroupParams(rule="stride", group_max_size=cap)).endpoints
    _, returns = segment_gae(rewards, values, tokens.mask, endpoints, gamma, lam=1.0)
    for row, t in endpoints.nonzero().tolist():
        rest = [n for n in valid_tokens(tokens.mask, row) if n >= t]
        assert float(returns[row, t]) == pytest.approx(future_reward(rewards, row, rest, gamma), abs=1e-12)


@settings(max_examples=25)
@given(tokens=batches(), cap=st.integers(1, 4))
def test_nothing_outside_the_mask_and_no_value_off_the_endpoints_is_read(tokens: Tokens, cap: int) -> None:
    endpoints = group_tokens(tokens, GroupParams(rule="stride", group_max_size=cap)).endpoints
    rewards, values = tokens.get("rewards"), tokens.get("values")
    expected = segment_gae(rewards, values, tokens.mask, endpoints, 0.99, 0.95)
    poisoned_rewards = torch.where(tokens.mask, rewards, torch.nan)
    poisoned_values = torch.where(endpoints, values, torch.nan)
    found = segment_gae(poisoned_rewards, poisoned_values, tokens.mask, endpoints, 0.99, 0.95)
    assert torch.equal(found.advantages, expected.advantages)
    assert torch.equal(found.returns, expected.returns)


@settings(max_examples=25)
@given(tokens=batches(), gamma=RATES, lam=RATES)
def test_token_gae_reads_dense_gae_at_the_endpoints(tokens: Tokens, gamma: float, lam: float) -> None:
    rewards, values = tokens.get("rewards"), tokens.get("values")
    endpoints = group_tokens(tokens, STRIDE).endpoints
    dense = gae(rewards, values, tokens.mask, gamma, lam)
    advantages, returns = token_gae(dense, values, endpoints)
    assert torch.equal(advantages[endpoints], dense[endpoints])
    assert torch.equal(returns[endpoints], (dense + values)[endpoints])
    assert not advantages[~endpoints].any()
    assert not returns[~endpoints].any()


# Groups [0, 1], [2, 4] around a hole, and [5]; the second response has one group of two.
MASK = torch.tensor([[1, 1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]]).bool()
GROUPS = group_tokens(Tokens(MASK), GroupParams(rule="stride", group_max_size=2))


def test_published_advantages_on_a_hand_worked_example() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 99.0, 8.0, 16.0, 99.0], [0.0, 1.0, 99.0, 99.0, 99.0, 99.0, 99.0]])
    values = torch.tensor([[9.0, 0.5, 9.0, 9.0, 0.25, 6.0, 9.0], [9.0, 2.0, 9.0, 9.0, 9.0, 9.0, 9.0]])
    advantages, returns = published(rewards, values, GROUPS)
    # 1 + 2 - 0.5; 4 + 8 - 0.25; 16 - 6; and 0 + 1 - 2. The return is the reward inside the group.
    assert advantages.tolist() == [[0.0, 2.5, 0.0, 0.0, 11.75, 10.0, 0.0], [0.0, -1.0, *[0.0] * 5]]
    assert returns.tolist() == [[0.0, 3.0, 0.0, 0.0, 12.0, 16.0, 0.0], [0.0, 1.0, *[0.0] * 5]]


def test_under_a_reward_at_the_last_token_published_learns_from_it_in_the_last_group_alone() -> None:
    values = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.0] * 7])
    outcome = torch.zeros(2, 7)
    outcome[0, 5] = 1.0
    with_reward, without = (published(rewards, values, GROUPS).advantages for rewards in (outcome, 0 * outcome))
    assert torch.equal(without, torch.where(GROUPS.endpoints, -values, 0.0))
    assert (with_reward != without).nonzero().tolist() == [[0, 5]]
    by_segment = segment_gae(outcome, values, MASK, GROUPS.endpoints, 1.0, 1.0).advantages
    baseline = segment_gae(0 * outcome, values, MASK, GROUPS.endpoints, 1.0, 1.0).advantages
    assert (by_segment != baseline).nonzero().tolist() == [[0, 1], [0, 4], [0, 5]]


@settings(max_examples=25)
@given(tokens=batches())
def test_all_tokens_of_a_group_share_the_advantage_of_its_endpoint(tokens: Tokens) -> None:
    groups = group_tokens(tokens, STRIDE)
    advantages = torch.where(groups.endpoints, tokens.get("advantages"), torch.nan)  # only endpoints carry one
    shared = share_in_group(advantages, groups)
    for row, group in members(groups):
        assert shared[row, group].tolist() == [float(advantages[row, group[-1]])] * len(group)
    assert not shared[~tokens.mask].any()


def origin_broadcast(advantages: Tensor, groups: Groups) -> Tensor:
    """The origin's sharing for responses to one prompt, in our words.

    It numbers the groups of each response 1, 2, ..., puts the endpoint advantages of all the prompt's responses into
    one list, response after response, and gives the tokens of group k the k-th entry of that list.
    """
    of_prompt = [float(advantages[row, t]) for row, t in groups.endpoints.nonzero().tolist()]
    shared = torch.zeros_like(advantages)
    for row, t in (groups.index >= 0).nonzero().tolist():
        number = int(groups.index[row, t]) + 1
        shared[row, t] = of_prompt[number - 1]
    return shared


TWO_ANSWERS = torch.tensor([[0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.0], [0.0, -5.0, 0.0, 0.0, 0.0, 0.0, 0.0]])


def test_in_the_origin_the_second_response_trains_on_the_advantages_of_the_first() -> None:
    origin, ours = origin_broadcast(TWO_ANSWERS, GROUPS), share_in_group(TWO_ANSWERS, GROUPS)
    assert ours.tolist() == [[1.0, 1.0, 2.0, 0.0, 2.0, 3.0, 0.0], [-5.0, -5.0, *[0.0] * 5]]
    assert torch.equal(origin[0], ours[0])
    assert origin[1].tolist() == [1.0, 1.0, *[0.0] * 5]


@pytest.mark.parametrize(("share", "mixes"), [(share_in_group, False), (origin_broadcast, True)])
def test_what_happens_in_one_response_reaches_the_other_only_in_the_origin(
    share: Callable[[Tensor, Groups], Tensor], mixes: bool
) -> None:
    changed = TWO_ANSWERS.clone()
    changed[0] *= 100.0
    assert torch.equal(share(changed, GROUPS)[1], share(TWO_ANSWERS, GROUPS)[1]) == (not mixes)


@pytest.mark.parametrize("poison", [0.0, 100.0, 1e30, float("inf"), float("nan")])
def test_whitening_is_over_the_carriers_whatever_stands_elsewhere(poison: float) -> None:
    whitened = whiten(torch.tensor([[1.0, poison, 3.0, -poison]]), torch.tensor([[1, 0, 1, 0]]))
    half = 0.5**0.5  # mean 2 and unbiased variance 2
    assert whitened[0].tolist() == pytest.approx([-half, 0.0, half, 0.0])


@pytest.mark.parametrize(("carriers", "count"), [([0, 1, 0], 1), ([0, 0, 0], 0)])
def test_whitening_fewer_than_two_carriers_is_an_error_that_counts_them(carriers: list[int], count: int) -> None:
    with pytest.raises(ValueError, match=f"found {count}"):
        whiten(torch.ones(1, 3), torch.tensor([carriers]))
