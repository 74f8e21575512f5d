"""The variance ratio of closed groups."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import GroupParams, Tokens, group_tokens
from groupppo.algorithm.ratio import variance_ratios
from groupppo.algorithm.scores import SCORES, Score
from tests.algorithm.strategies import EVERY_SCORE, batches, fixed_batch

# Groups of two: [1, 2], [2, 1], [0, 0], and a hole in the last one.
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 1]]).bool()
ADVANTAGES = torch.tensor([[1.0, 2.0, 2.0, 1.0, 0.0, 9.0, 0.0]])
PAIRS = group_tokens(Tokens(MASK), GroupParams(rule="stride", group_max_size=2))


def test_hand_worked_ratios_of_orthogonal_scores() -> None:
    weights = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0, 9.0, 1.0]], dtype=torch.float64)
    # [1, 2]: r_grpo = (1 + 3) 4 = 16, r_ppo = 1 + 3 * 4 = 13. [2, 1]: 4 * 1 = 4 and 4 + 3 = 7. [0, 0]: 0 / 0 is 1.
    ratios = variance_ratios(PAIRS, ADVANTAGES, Score(weights, orthogonal=True))
    assert ratios.tolist() == [16 / 13, 4 / 7, 1.0]


def test_hand_worked_ratios_of_signed_scores() -> None:
    signed = torch.tensor([[1.0, 3.0, 1.0, -2.0, 1.0, 9.0, 1.0]], dtype=torch.float64)
    # [1, 2]: r_grpo = (1 + 3)^2 4 = 64, r_ppo = (1 + 6)^2 = 49. [2, 1]: (1 - 2)^2 = 1 and (2 - 2)^2 = 0: infinite.
    ratios = variance_ratios(PAIRS, ADVANTAGES, Score(signed, orthogonal=False))
    assert ratios.tolist() == [64 / 49, math.inf, 1.0]
    other = variance_ratios(PAIRS, ADVANTAGES, Score(signed.abs(), orthogonal=True))
    assert ratios.tolist() != other.tolist()


# float64, because products of float32 numbers are exact in it and then every order of operations gives the same.
LONG = st.floats(-5, 5).filter(lambda a: abs(a) > 1e-50 or a == 0.0)


@EVERY_SCORE
@settings(max_examples=30)
@given(tokens=batches(), data=st.data())
def test_a_group_of_one_token_has_the_ratio_one_to_the_bit(score: str, tokens: Tokens, data: st.DataObject) -> None:
    size = tokens.mask.numel()
    drawn = torch.tensor(data.draw(st.lists(LONG, min_size=size, max_size=size)), dtype=torch.float64)
    groups = group_tokens(tokens, GroupParams(rule="singleton"))
    ratios = variance_ratios(groups, drawn.reshape(tokens.mask.shape), SCORES[score](tokens))
    assert ratios.tolist() == [1.0] * int(tokens.mask.sum())


def test_in_another_order_of_operations_it_would_not_be_one() -> None:
    a, g = 0.1, 0.7
    assert (a * g) * (a * g) != (g * g) * (a * a)
    tokens = Tokens(torch.ones(1, 1, dtype=torch.bool))
    groups = group_tokens(tokens, GroupParams(rule="singleton"))
    advantages, gap = torch.tensor([[a]], dtype=torch.float64), torch.tensor([[g]], dtype=torch.float64)
    assert variance_ratios(groups, advantages, Score(gap, orthogonal=False)).tolist() == [1.0]


@EVERY_SCORE
@settings(max_examples=30)
@given(tokens=batches())
def test_no_group_of_variance_split_passes_its_threshold(score: str, tokens: Tokens) -> None:
    groups = group_tokens(tokens, GroupParams(score=score, group_epsilon=0.0))
    assert (variance_ratios(groups, tokens.get("advantages"), SCORES[score](tokens)) <= 1.0).all()


@EVERY_SCORE
def test_groups_of_another_rule_do_pass_it(score: str) -> None:
    tokens = fixed_batch()
    groups = group_tokens(tokens, GroupParams(rule="stride", group_max_size=4))
    assert (variance_ratios(groups, tokens.get("advantages"), SCORES[score](tokens)) > 1.0).any()
