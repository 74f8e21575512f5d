"""What every rule returns: endpoints, group of each token and cause of closing, that agree with each other."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Groups, Tokens, group_tokens, last_valid
from tests.algorithm.strategies import EVERY_READING, batches, fixed_batch, valid_tokens


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


def test_the_last_valid_token_is_found_behind_holes_and_padding() -> None:
    assert last_valid(MASK).nonzero().tolist() == [[0, 4]]
    assert last_valid(torch.tensor([[0, 0, 1], [1, 0, 0]]).bool()).nonzero().tolist() == [[0, 2], [1, 0]]


@EVERY_READING
def test_a_batch_of_empty_responses_has_no_endpoint(params: GroupParams) -> None:
    tokens = fixed_batch()
    nothing = replace(tokens, mask=torch.zeros_like(tokens.mask))
    assert not group_tokens(nothing, params).endpoints.any()
    assert group_tokens(tokens, params).endpoints.any()
