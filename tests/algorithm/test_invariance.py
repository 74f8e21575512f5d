"""What must not change the groups: padding, the order of the batch, and, for rules that say so, the scale of A."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import GroupParams, Groups, Tokens, group_tokens
from tests.algorithm.strategies import EIGHTHS, EVERY_READING, EVERY_SCORE, batches, padded, reordered

SHIFTS = st.integers(-20, 20).map(lambda power: 2.0**power)


def cut(groups: Groups, left: int, length: int) -> tuple[Tensor, ...]:
    return tuple(tensor[:, left : left + length] for tensor in (groups.endpoints, groups.index, groups.cause))


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@EVERY_READING
@settings(max_examples=10)
@given(tokens=batches(), left=st.integers(0, 3), right=st.integers(0, 3))
def test_padding_changes_nothing_and_is_never_read(params: GroupParams, tokens: Tokens, left: int, right: int) -> None:
    length = tokens.mask.shape[1]
    wide = group_tokens(padded(tokens, left, right), params)  # padding holds NaN
    assert same(cut(wide, left, length), cut(group_tokens(tokens, params), 0, length))
    assert int(wide.endpoints.sum()) == int(wide.endpoints[:, left : left + length].sum())


def test_padding_that_counted_as_a_token_would_change_the_groups() -> None:
    tokens = Tokens(torch.ones(1, 4, dtype=torch.bool))
    params = GroupParams(rule="stride", group_max_size=2)
    counted = Tokens(torch.ones(1, 5, dtype=torch.bool))
    assert not same(cut(group_tokens(counted, params), 1, 4), cut(group_tokens(tokens, params), 0, 4))


@EVERY_READING
@settings(max_examples=10)
@given(tokens=batches(), data=st.data())
def test_the_order_of_the_batch_changes_nothing(params: GroupParams, tokens: Tokens, data: st.DataObject) -> None:
    # Entropies without ties: among equal ones the first of the batch are taken, so that the number of endpoints is
    # exact, and which ones are the first is what the order decides.
    ranks = data.draw(st.permutations(range(tokens.mask.numel())))
    tokens = replace(tokens, entropies=torch.tensor(ranks).reshape(tokens.mask.shape) / 8)
    order = data.draw(st.permutations(range(len(tokens.mask))))
    groups, moved = group_tokens(tokens, params), group_tokens(reordered(tokens, order), params)
    assert same(tuple(tensor[order] for tensor in cut(groups, 0, 9)), cut(moved, 0, 9))


def test_among_equal_entropies_the_order_of_the_batch_does_decide() -> None:
    mask, entropies = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3)
    entropies[1, 0] = 0.5
    params = GroupParams(rule="entropy", density=0.5)  # three endpoints: both last tokens and one other
    endpoints = group_tokens(Tokens(mask, entropies=entropies), params).endpoints
    moved = group_tokens(Tokens(mask, entropies=entropies.flip(0)), params).endpoints
    assert not torch.equal(moved.flip(0), endpoints)


@EVERY_SCORE
@settings(max_examples=30)
@given(tokens=batches(), scale=SHIFTS, tau=st.sampled_from([0.1, 0.7, 1.0, 3.0]))
def test_without_epsilon_the_scale_of_the_advantages_does_not_matter_to_variance_split(
    score: str, tokens: Tokens, scale: float, tau: float
) -> None:
    # Powers of two scale every product and sum exactly; other factors round, and then a tie may be none any more.
    params = GroupParams(score=score, group_epsilon=0.0, group_max_size=4)
    scaled = replace(tokens, advantages=tokens.get("advantages").double() * scale)
    assert same(cut(group_tokens(scaled, params, tau), 0, 9), cut(group_tokens(tokens, params, tau), 0, 9))


def test_a_factor_that_rounds_breaks_a_tie() -> None:
    # Six equal advantages tie at tau = 1. The squares of 0.1 * 11 add up to a little less than six times one of them.
    advantages = torch.full((1, 6), 0.1, dtype=torch.float64)
    tokens, params = Tokens(torch.ones(1, 6, dtype=torch.bool), advantages=advantages), GroupParams(group_epsilon=0.0)
    assert group_tokens(tokens, params).endpoints[0].nonzero().flatten().tolist() == [5]
    scaled = replace(tokens, advantages=advantages * 11)
    assert group_tokens(scaled, params).endpoints[0].nonzero().flatten().tolist() == [4, 5]


def test_with_epsilon_small_advantages_are_never_split() -> None:
    # Two tokens with A = (0, a): r_grpo = 2 a^2 > r_ppo + epsilon = a^2 + 1e-6 exactly when a > 1e-3.
    mask = torch.ones(1, 2, dtype=torch.bool)
    for a, endpoints in ((2**-9, [True, True]), (2**-10, [False, True])):
        groups = group_tokens(Tokens(mask, advantages=torch.tensor([[0.0, a]])), GroupParams())
        assert groups.endpoints[0].tolist() == endpoints


@EVERY_SCORE
@settings(max_examples=15)
@given(tokens=batches(), scale=SHIFTS)
def test_literal_does_not_depend_on_the_scale_of_the_advantages(score: str, tokens: Tokens, scale: float) -> None:
    params = GroupParams(rule="literal", score=score)
    scaled = replace(tokens, advantages=tokens.get("advantages").double() * scale)
    assert same(cut(group_tokens(scaled, params), 0, 9), cut(group_tokens(tokens, params), 0, 9))


@settings(max_examples=50)
@given(tokens=batches(numbers=EIGHTHS), data=st.data(), power=st.integers(0, 10))
def test_behind_an_open_gate_the_scale_of_the_advantages_does_not_matter_to_published(
    tokens: Tokens, data: st.DataObject, power: int
) -> None:
    # On eighths the running sum of A g is a multiple of 1/64, so r_ppo is zero or at least (1/64)^2 / 7 > 1e-8: the
    # gate opens at the same tokens at every scale from 1 up, and the ratio scales exactly.
    gap = torch.tensor(data.draw(st.lists(EIGHTHS, min_size=tokens.mask.numel(), max_size=tokens.mask.numel())))
    tokens = replace(tokens, rollout_log_probs=gap.reshape(tokens.mask.shape), log_probs=torch.zeros(tokens.mask.shape))
    params, scale = GroupParams(rule="published"), 2.0**power
    scaled = replace(tokens, rewards=tokens.get("rewards") * scale, values=tokens.get("values") * scale)
    assert same(cut(group_tokens(scaled, params), 0, 9), cut(group_tokens(tokens, params), 0, 9))


def test_the_gate_of_published_makes_it_depend_on_the_scale_of_advantages_and_gaps() -> None:
    # Four tokens with A = 1 and a gap of 1e-3: each closes on its own (ratio 1) while r_ppo = 1e-6 / 4 > 1e-8.
    mask, ones = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 4)
    found = {}
    for name, a, gap in (("as is", 1.0, 1e-3), ("A / 1024", 1 / 1024, 1e-3), ("gap / 1024", 1.0, 1e-3 / 1024)):
        tokens = Tokens(mask, rewards=a * ones, values=0 * ones, log_probs=0 * ones, rollout_log_probs=gap * ones)
        found[name] = int(group_tokens(tokens, GroupParams(rule="published")).endpoints.sum())
    assert found == {"as is": 4, "A / 1024": 1, "gap / 1024": 1}
