"""The rules without a recursion: `stride`, `low_prob`, `singleton` and `sequence`."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, last_valid
from groupppo.algorithm.metrics import group_sizes
from tests.algorithm.strategies import batches, closings, valid_tokens


@settings(max_examples=25)
@given(tokens=batches(), cap=st.integers(1, 5))
def test_stride_closes_at_every_nth_valid_token_and_at_the_last_one(tokens: Tokens, cap: int) -> None:
    groups = group_tokens(tokens, GroupParams(rule="stride", group_max_size=cap))
    for row in range(len(tokens.mask)):
        valid = valid_tokens(tokens.mask, row)
        expected = {valid[-1]: Cause.END} if valid else {}
        expected |= dict.fromkeys(valid[cap - 1 :: cap], Cause.CAP)
        assert closings(groups, row) == expected


def test_stride_counts_valid_tokens_and_not_positions() -> None:
    tokens = Tokens(torch.tensor([[1, 0, 1, 1, 1]]).bool())
    groups = group_tokens(tokens, GroupParams(rule="stride", group_max_size=2))
    assert closings(groups) == {2: Cause.CAP, 4: Cause.CAP}  # by position it would be 1, 3 and 4


@settings(max_examples=25)
@given(tokens=batches(), cutoff=st.floats(0.01, 1.0))
def test_low_prob_closes_exactly_at_tokens_below_the_cut_off_and_at_the_last_one(tokens: Tokens, cutoff: float) -> None:
    groups = group_tokens(tokens, GroupParams(rule="low_prob", probability_cutoff=cutoff))
    below = tokens.mask & (tokens.get("log_probs").double().exp() < cutoff)
    assert torch.equal(groups.endpoints, below | last_valid(tokens.mask))
    assert torch.equal(groups.cause == Cause.CRITERION, below)


def test_a_token_at_the_cut_off_is_not_below_it() -> None:
    log_probs = torch.tensor([[0.25, 0.5, 0.75, 1.0]], dtype=torch.float64).log()
    tokens = Tokens(torch.ones(1, 4, dtype=torch.bool), log_probs=log_probs)
    for cutoff, closed in ((0.5, {0: Cause.CRITERION}), (0.51, {0: Cause.CRITERION, 1: Cause.CRITERION})):
        groups = group_tokens(tokens, GroupParams(rule="low_prob", probability_cutoff=cutoff))
        assert closings(groups) == closed | {3: Cause.END}


@settings(max_examples=25)
@given(tokens=batches())
def test_singleton_makes_every_token_a_group_of_its_own(tokens: Tokens) -> None:
    groups = group_tokens(tokens, GroupParams(rule="singleton"))
    assert torch.equal(groups.endpoints, tokens.mask)
    assert (groups.cause[tokens.mask] == Cause.CAP).all()
    if tokens.mask.any():
        assert group_sizes(groups).tolist() == [1] * int(tokens.mask.sum())


@settings(max_examples=25)
@given(tokens=batches())
def test_sequence_has_one_endpoint_for_each_response_that_is_not_empty(tokens: Tokens) -> None:
    groups = group_tokens(tokens, GroupParams(rule="sequence"))
    assert groups.endpoints.sum(dim=1).tolist() == tokens.mask.any(dim=1).long().tolist()
    assert torch.equal(groups.endpoints, last_valid(tokens.mask))
    assert (groups.cause[groups.endpoints] == Cause.END).all()


def test_singleton_and_sequence_differ_as_soon_as_a_response_has_two_tokens() -> None:
    for mask, same in (([[1, 0], [0, 1]], True), ([[1, 1], [0, 1]], False)):
        tokens = Tokens(torch.tensor(mask).bool())
        causes = [group_tokens(tokens, GroupParams(rule=rule)).endpoints for rule in ("singleton", "sequence")]
        assert torch.equal(*causes) == same
