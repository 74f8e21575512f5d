"""What every rule returns, and what must not change it: padding, the order of the batch, the scale of advantages."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groupppo.algorithm import Cause, GroupParams, Groups, Tokens, group_tokens
from groupppo.algorithm.loss import group_batch
from groupppo.algorithm.metrics import group_metrics, log_prob_gap
from tests.algorithm.strategies import (
    EIGHTHS,
    EVERY_READING,
    EVERY_SCORE,
    batches,
    fixed_batch,
    padded,
    reordered,
    valid_tokens,
)


def faults(groups: Groups, mask: Tensor) -> list[str]:
    """What is wrong with groups, token by token in plain Python."""
    found = []
    if bool((groups.endpoints & ~mask).any()):
        found.append("an endpoint outside the mask")
    if not torch.equal(groups.cause != Cause.NONE, groups.endpoints):
        found.append("an endpoint without a cause, or a cause without an endpoint")
    if bool((groups.index[~mask] != -1).any()):
        found.append("a token outside the mask in a group")
    for row in range(len(mask)):
        valid, number = valid_tokens(mask, row), 0
        if valid and not bool(groups.endpoints[row, valid[-1]]):
            found.append("a last valid token that is no endpoint")
        for t in valid:
            if int(groups.index[row, t]) != number:
                found.append("a token in the wrong group")
            number += int(groups.endpoints[row, t])
    return found


@EVERY_READING
@settings(max_examples=15)
@given(tokens=batches())
def test_endpoints_index_and_cause_agree_and_the_last_valid_token_is_an_endpoint(
    params: GroupParams, tokens: Tokens
) -> None:
    groups = group_tokens(tokens, params)
    assert faults(groups, tokens.mask) == []
    assert (groups.endpoints.dtype, groups.index.dtype, groups.cause.dtype) == (torch.bool, torch.int64, torch.int8)


MASK = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
SOUND = Groups(
    endpoints=torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool(),
    index=torch.tensor([[0, 0, -1, 1, 1, -1], [-1] * 6]),
    cause=torch.tensor([[0, 1, 0, 0, 3, 0], [0] * 6], dtype=torch.int8),
)


def changed(groups: Groups, name: str, t: int, value: int) -> Groups:
    tensor = getattr(groups, name).clone()
    tensor[0, t] = value
    return replace(groups, **{name: tensor})


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (changed(SOUND, "endpoints", 2, 1), "an endpoint outside the mask"),
        (changed(SOUND, "endpoints", 4, 0), "a last valid token that is no endpoint"),
        (changed(SOUND, "cause", 1, 0), "an endpoint without a cause, or a cause without an endpoint"),
        (changed(SOUND, "cause", 0, 2), "an endpoint without a cause, or a cause without an endpoint"),
        (changed(SOUND, "index", 2, 0), "a token outside the mask in a group"),
        (changed(SOUND, "index", 1, 1), "a token in the wrong group"),  # the endpoint counted into the next group
    ],
)
def test_a_wrong_grouping_would_be_found(wrong: Groups, fault: str) -> None:
    assert faults(SOUND, MASK) == []
    assert fault in faults(wrong, MASK)


def test_groups_from_causes_are_the_hand_made_ones() -> None:
    noisy = SOUND.cause.clone()
    noisy[0, 2] = Cause.CAP  # a cause outside the mask closes nothing
    built = Groups.from_cause(noisy, MASK)
    for name in ("endpoints", "index", "cause"):
        assert torch.equal(getattr(built, name), getattr(SOUND, name))


@EVERY_READING
def test_a_batch_of_empty_responses_has_no_endpoint(params: GroupParams) -> None:
    tokens = fixed_batch()
    nothing = replace(tokens, mask=torch.zeros_like(tokens.mask))
    assert not group_tokens(nothing, params).endpoints.any()
    assert group_tokens(tokens, params).endpoints.any()


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


ROWS, LENGTH = 3, 50


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@EVERY_READING
def test_nothing_larger_than_the_batch_is_made(params: GroupParams) -> None:
    tokens = fixed_batch(rows=ROWS, length=LENGTH)
    with LargestTensor() as largest:
        groups = group_tokens(tokens, params)
        for advantage in ("segment_gae", "token_gae", "published"):
            for spread in ("endpoint", "group"):
                chosen = replace(params, advantage=advantage, spread=spread)
                group_batch(replace(tokens, advantages=None), groups, chosen, 0.9, 0.8)
        group_metrics(groups, tokens, params, 1.0)
        log_prob_gap(tokens.get("rollout_log_probs"), tokens.get("log_probs"), tokens.mask)
    assert largest.elements == ROWS * LENGTH


def test_a_comparison_of_every_token_with_every_other_would_be_seen() -> None:
    index = torch.zeros(ROWS, LENGTH)
    with LargestTensor() as largest:
        (index[:, :, None] == index[:, None, :]).sum(dim=2)
    assert largest.elements == ROWS * LENGTH * LENGTH
