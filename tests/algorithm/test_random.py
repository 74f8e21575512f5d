"""`random`: uniform over tokens, repeatable from its seeds, and a function of nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from groupppo.algorithm import GroupParams, Tokens, group_tokens, last_valid
from groupppo.algorithm.share import close_share

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


def rule(seeds: Tensor) -> Tensor:
    return group_tokens(Tokens(MASK, seeds=seeds), PARAMS).endpoints


def leaning(seeds: Tensor) -> Tensor:
    """Wrong: of uniform numbers, those of late positions are raised a little."""
    uniform = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(int(seeds[0])))
    return close_share(uniform + 0.02 * torch.arange(MASK.shape[1]), MASK, 0.4) != 0


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
    assert largest_deviation(rule, seeds) < 4.5


@pytest.mark.parametrize("wrong", [leaning, one_in_a_row])
def test_a_draw_that_is_not_uniform_would_be_found(wrong: Draw) -> None:
    assert largest_deviation(wrong, consecutive) > 4.5


def test_the_number_of_endpoints_is_the_same_in_every_draw() -> None:
    assert {int(rule(scattered(draw)).sum()) for draw in range(200)} == {10}


def test_the_same_seeds_repeat_and_other_seeds_differ() -> None:
    assert torch.equal(rule(scattered(1)), rule(scattered(1)))
    different = {tuple(rule(scattered(draw)).flatten().tolist()) for draw in range(50)}
    assert len(different) == 50


def test_a_responses_draw_follows_its_seed_through_the_batch() -> None:
    # At density 1/2 of equal rows, moving rows and seeds together moves the endpoints; moving the seeds alone does not.
    mask, seeds, order = torch.ones(4, 12, dtype=torch.bool), torch.tensor([5, 6, 7, 8]), torch.tensor([2, 0, 3, 1])
    endpoints = group_tokens(Tokens(mask, seeds=seeds), PARAMS).endpoints
    moved = group_tokens(Tokens(mask, seeds=seeds[order]), PARAMS).endpoints
    assert torch.equal(moved, endpoints[order])
    assert not torch.equal(moved, endpoints)
