"""`entropy` and what it shares with `random`: an exact number of endpoints, taken by priority."""

from dataclasses import replace
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, last_valid
from groupppo.algorithm.share import close_share
from groupppo.errors import BadInput
from tests.algorithm.strategies import batches, fixed_batch

DENSITIES = st.one_of(st.sampled_from([0.25, 0.5, 1.0]), st.floats(0.001, 1.0))
TAKES_A_DENSITY = pytest.mark.parametrize("rule", ["entropy", "random"])


@TAKES_A_DENSITY
@settings(max_examples=30)
@given(tokens=batches(), density=DENSITIES)
def test_the_number_of_endpoints_is_the_rounded_share_of_tokens_but_at_least_one_a_response(
    rule: str, tokens: Tokens, density: float
) -> None:
    endpoints = group_tokens(tokens, GroupParams(rule=rule, density=density)).endpoints
    rounded = floor(density * int(tokens.mask.sum()) + 0.5)  # halves up
    assert int(endpoints.sum()) == max(rounded, int(tokens.mask.any(dim=1).sum()))


@TAKES_A_DENSITY
def test_the_density_of_the_step_comes_before_that_of_the_parameters(rule: str) -> None:
    tokens, params = fixed_batch(), GroupParams(rule=rule, density=0.2)
    shares = [int(group_tokens(tokens, params, density=d).endpoints.sum()) for d in (None, 0.2, 0.6)]
    assert shares[0] == shares[1] < shares[2]


@TAKES_A_DENSITY
def test_a_step_without_a_density_is_an_error_that_says_what_to_give(rule: str) -> None:
    params = GroupParams(rule=rule, density_source="steps.jsonl")
    with pytest.raises(BadInput, match="give the density of this step") as error:
        group_tokens(fixed_batch(), params)
    assert error.value.key == "density"
    assert group_tokens(fixed_batch(), params, density=0.5).endpoints.any()


@settings(max_examples=30)
@given(tokens=batches(), density=DENSITIES, data=st.data())
def test_entropy_picks_exactly_the_most_uncertain_tokens_of_the_whole_batch(
    tokens: Tokens, density: float, data: st.DataObject
) -> None:
    ranks = torch.tensor(data.draw(st.permutations(range(tokens.mask.numel())))).reshape(tokens.mask.shape)
    groups = group_tokens(replace(tokens, entropies=ranks / 8), GroupParams(rule="entropy", density=density))
    last = last_valid(tokens.mask)
    others = sorted(ranks[tokens.mask & ~last].tolist(), reverse=True)
    chosen = sorted(ranks[groups.cause == Cause.CRITERION].tolist(), reverse=True)
    assert chosen == others[: len(chosen)]
    assert torch.equal(groups.cause == Cause.END, last)


def test_tokens_of_the_least_entropy_would_not_be_those() -> None:
    mask, entropies = torch.ones(1, 5, dtype=torch.bool), torch.tensor([[0.1, 0.9, 0.5, 0.3, 0.0]])
    most, least = close_share(entropies, mask, 0.6), close_share(-entropies, mask, 0.6)
    assert most[0].nonzero().flatten().tolist() == [1, 2, 4]
    assert least[0].nonzero().flatten().tolist() == [0, 3, 4]


def test_of_equal_priorities_the_first_are_taken() -> None:
    cause = close_share(torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool), 0.5)
    assert cause.nonzero().tolist() == [[0, 0], [0, 1], [0, 3], [1, 3]]
