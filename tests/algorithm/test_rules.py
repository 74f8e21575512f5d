"""One file is one rule, honest about what it reads; the rules without a recursion."""

from collections.abc import Callable
from dataclasses import replace
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, known_rules, last_valid
from groupppo.algorithm import params as registry
from groupppo.algorithm.grouping import share_of_highest
from groupppo.algorithm.metrics import group_sizes
from groupppo.algorithm.params import StepValues
from groupppo.errors import BadInput
from tests.algorithm.strategies import EVERY_READING, batches, closings, fixed_batch, valid_tokens

RULES = {
    "abs_advantage",
    "bernoulli",
    "entropy",
    "gap",
    "literal",
    "low_prob",
    "prefix_cut",
    "published",
    "random",
    "sequence",
    "singleton",
    "stride",
    "variance_split",
}


def test_the_rules_are_found() -> None:
    assert set(known_rules()) == RULES


def test_a_second_rule_of_one_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    def stride(tokens: Tokens, params: GroupParams, step: StepValues) -> torch.Tensor:
        return torch.zeros_like(tokens.mask, dtype=torch.int8)

    with pytest.raises(ValueError, match=r"rule stride of .* is already in groupppo\.algorithm\.rules\.stride"):
        registry.rule()(stride)


@pytest.mark.parametrize("name", sorted(RULES))
def test_those_rules_and_no_others_work_from_mask_and_seeds_alone(name: str) -> None:
    tokens = fixed_batch()
    bare = Tokens(tokens.mask, seeds=tokens.seeds)
    params = GroupParams(rule=name, density=0.5 if "density" in known_rules()[name].uses else None)
    early = known_rules()[name].known_before_update
    assert early == (name in ("bernoulli", "prefix_cut", "stride", "random", "sequence", "singleton"))
    if early:
        assert torch.equal(group_tokens(bare, params).endpoints, group_tokens(tokens, params).endpoints)
    else:
        with pytest.raises(BadInput, match="the grouping rule or its score needs this tensor"):
            group_tokens(bare, params)


@EVERY_READING
def test_a_rule_reads_exactly_what_it_says_it_needs(params: GroupParams) -> None:
    tokens = fixed_batch()
    needed = {name: tokens.get(name) for name in params.needs}
    enough = group_tokens(Tokens(tokens.mask, **needed), params)
    assert torch.equal(enough.cause, group_tokens(tokens, params).cause)
    for missing in needed:
        with pytest.raises(BadInput) as error:
            group_tokens(Tokens(tokens.mask, **{name: needed[name] for name in needed if name != missing}), params)
        assert error.value.key == missing


@settings(max_examples=25)
@given(tokens=batches(), cap=st.integers(1, 5))
def test_stride_closes_at_every_nth_valid_token_and_at_the_last_one(tokens: Tokens, cap: int) -> None:
    groups = group_tokens(tokens, GroupParams(rule="stride", group_max_size=cap))
    for row in range(len(tokens.mask)):
        valid = valid_tokens(tokens.mask, row)
        expected = {valid[-1]: Cause.END} if valid else {}
        expected |= dict.fromkeys(valid[cap - 1 :: cap], Cause.CAP)
        assert closings(groups, row) == expected


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


DENSITIES = st.one_of(st.sampled_from([0.25, 0.5, 1.0]), st.floats(0.001, 1.0))
TAKES_A_DENSITY = pytest.mark.parametrize("rule", ["abs_advantage", "entropy", "random"])


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


PARAMS = GroupParams(rule="random", density=0.4)
DRAWS = 1000

# 5 + 8 + 1 + 0 + 12 = 26 valid tokens, 4 of them last ones; with holes and padding on both sides.
MASK = torch.zeros(5, 14, dtype=torch.bool)
MASK[0, :5] = True
MASK[1, [1, 2, 3, 6, 7, 8, 9, 12]] = True
MASK[2, 4] = True
MASK[4, 2:] = True
FREE = MASK & ~last_valid(MASK)
WANTED = 10 - 4  # round(0.4 * 26), less the last tokens

Draw = Callable[[Tensor], Tensor]


def consecutive(draw: int) -> Tensor:
    return torch.arange(5) + 5 * draw


def scattered(draw: int) -> Tensor:
    return torch.randint(0, 2**63 - 1, (5,), generator=torch.Generator().manual_seed(draw))


def drawn(seeds: Tensor) -> Tensor:
    return group_tokens(Tokens(MASK, seeds=seeds), PARAMS).endpoints


def leaning(seeds: Tensor) -> Tensor:
    """Wrong: of uniform numbers, those of late positions are raised a little."""
    uniform = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(int(seeds[0])))
    return share_of_highest(uniform + 0.02 * torch.arange(MASK.shape[1]), MASK, 0.4, ends=True) != 0


def one_in_a_row(seeds: Tensor) -> Tensor:
    """Wrong: the same count for every response, so that tokens of short ones are taken more often."""
    uniform = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(int(seeds[0])))
    best = torch.where(FREE, uniform, -1.0).topk(2, dim=1).indices
    return (torch.zeros_like(MASK).scatter_(1, best, True) & FREE) | last_valid(MASK)


def largest_deviation(draw: Draw, seeds: Callable[[int], Tensor]) -> float:
    """Of any free token's inclusion frequency from the uniform one, in standard deviations of the binomial law."""
    counts = sum(draw(seeds(number)).long() for number in range(DRAWS))
    share = WANTED / int(FREE.sum())
    deviations = (counts[FREE] - DRAWS * share).abs() / (DRAWS * share * (1 - share)) ** 0.5
    return float(deviations.max())


@pytest.mark.parametrize("seeds", [consecutive, scattered])
def test_every_token_but_the_last_is_taken_equally_often(seeds: Callable[[int], Tensor]) -> None:
    # For 22 uniform tokens a deviation above 4.5 has a probability below 22 * 7e-6; the seeds are fixed.
    assert largest_deviation(drawn, seeds) < 4.5


@pytest.mark.parametrize("wrong", [leaning, one_in_a_row])
def test_a_draw_that_is_not_uniform_would_be_found(wrong: Draw) -> None:
    assert largest_deviation(wrong, consecutive) > 4.5


def test_the_same_seeds_repeat_and_other_seeds_differ() -> None:
    assert torch.equal(drawn(scattered(1)), drawn(scattered(1)))
    different = {tuple(drawn(scattered(draw)).flatten().tolist()) for draw in range(50)}
    assert len(different) == 50
