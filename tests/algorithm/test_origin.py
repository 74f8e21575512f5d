"""`published` and `literal`: hand-worked, shown with rationals, and what their endpoints depend on."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, last_valid
from tests.algorithm.strategies import EVERY_SCORE, batches, closings, fixed_batch

PUBLISHED = GroupParams(rule="published")
U = 2.0**-13  # with N = 8, r_ppo = (k U)^2 / 8 passes 1e-8 from k = 3 on: 2 U gives 0.745e-8, 3 U gives 1.68e-8


def response(advantages: list[float], mask: list[int] | None = None) -> Tokens:
    """One response whose every gap is U, with A = r - V: rewards 0, but 1 at the last token."""
    a = torch.tensor([advantages])
    rewards = torch.zeros_like(a)
    rewards[0, -1] = 1.0
    inside = torch.ones_like(a, dtype=torch.bool) if mask is None else torch.tensor([mask]).bool()
    log_probs = torch.full_like(a, -0.5)
    return Tokens(inside, rewards=rewards, values=rewards - a, log_probs=log_probs, rollout_log_probs=log_probs + U)


# Worked by hand; cg = sum of A g and c = sum of g in units of U, all numbers exact in float32:
#  t   A  cg   c  gate |cg| >= 3  r_grpo/r_ppo = c^2 A^2 / cg^2
#  1   1   1   1  shut            -
#  2   8   9   2  open            4 * 64 / 81 = 3.16 > 2
#  3   1  10   3  open            9 / 100 <= 3: closes
#  4   1   1   1  shut            -
#  5   8   9   2  open            3.16 <= 5, the number of the token in the response: closes
#  6  -2  -2   1  shut            -
#  7   2   0   2  shut            -
#  8   2   2   3  shut            -, the last token
EXAMPLE = [1.0, 8.0, 1.0, 1.0, 8.0, -2.0, 2.0, 2.0]


def test_the_hand_worked_example() -> None:
    groups = group_tokens(response(EXAMPLE), PUBLISHED)
    assert closings(groups) == {2: Cause.CRITERION, 4: Cause.CRITERION, 7: Cause.END}


@settings(max_examples=30)
@given(tokens=batches())
def test_a_rollout_with_the_trainers_log_probs_gives_one_endpoint_per_response(tokens: Tokens) -> None:
    equal = replace(tokens, rollout_log_probs=tokens.log_probs)
    groups = group_tokens(equal, PUBLISHED)
    assert torch.equal(groups.endpoints, last_valid(tokens.mask))
    assert (groups.cause[groups.endpoints] == Cause.END).all()


def endpoints_at(gap: float) -> Tensor:
    tokens = fixed_batch()
    return group_tokens(replace(tokens, rollout_log_probs=tokens.get("log_probs") + gap), PUBLISHED).endpoints


def test_a_rollout_with_other_numerics_gives_many() -> None:
    counts = [int(endpoints_at(gap).sum()) for gap in (0.0, 1e-4, 1e-2)]
    assert counts[0] == 3  # one for each response that is not empty
    assert counts[0] < counts[1] < counts[2]


Vector = list[Fraction]
Closes = Callable[[int, Fraction, Fraction], bool]

RATIONALS = st.fractions(min_value=-9, max_value=9, max_denominator=12)
# Every finite float32 number.
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def squared_norm(vector: Vector) -> Fraction:
    return sum((entry * entry for entry in vector), Fraction(0))


def endpoints(advantages: list[Fraction], scores: list[Vector], closes: Closes) -> list[int]:
    """The printed loop: sums over the open group of N tokens, score vectors of any dimension.

    r_ppo = (1/N) |sum A_n g_n|^2, r_grpo = (1/N) |sum g_n|^2 A_t^2; close when N r_ppo >= r_grpo, which is
    N >= r_grpo / r_ppo where that exists.
    """
    found, open_group = [], []
    for t in range(len(advantages)):
        open_group.append(t)
        size, axes = len(open_group), range(len(scores[t]))
        weighted = [sum((advantages[k] * scores[k][axis] for k in open_group), Fraction(0)) for axis in axes]
        plain = [sum((scores[k][axis] for k in open_group), Fraction(0)) for axis in axes]
        r_ppo, r_grpo = squared_norm(weighted) / size, squared_norm(plain) * advantages[t] ** 2 / size
        if closes(size, r_ppo, r_grpo):
            found.append(t)
            open_group = []
    return found


def printed(size: int, r_ppo: Fraction, r_grpo: Fraction) -> bool:
    return size * r_ppo >= r_grpo


@settings(max_examples=50)
@given(dimension=st.integers(1, 3), data=st.data())
def test_in_exact_arithmetic_every_token_closes_a_group_whatever_advantages_and_scores(
    dimension: int, data: st.DataObject
) -> None:
    vectors = st.lists(RATIONALS, min_size=dimension, max_size=dimension)
    response = data.draw(st.lists(st.tuples(RATIONALS, vectors), max_size=8))
    advantages, scores = [a for a, _ in response], [g for _, g in response]
    assert endpoints(advantages, scores, printed) == list(range(len(response)))


def test_the_reason_is_that_a_group_of_one_has_a_ratio_of_exactly_one() -> None:
    advantages, scores = [Fraction(2), Fraction(3)], [[Fraction(1)], [Fraction(1)]]
    strict: Closes = lambda size, r_ppo, r_grpo: size * r_ppo > r_grpo  # noqa: E731
    from_two: Closes = lambda size, r_ppo, r_grpo: size >= 2 and printed(size, r_ppo, r_grpo)  # noqa: E731
    assert endpoints(advantages, scores, printed) == [0, 1]
    # N = 1 is a tie; N = 2: 2 * 25 / 2 > 4 * 9 / 2.
    assert endpoints(advantages, scores, strict) == [1]
    assert endpoints(advantages, scores, from_two) == [1]


@EVERY_SCORE
@settings(max_examples=50)
@given(tokens=batches(numbers=FINITE), data=st.data())
def test_the_rule_closes_on_every_token_for_all_finite_inputs(score: str, tokens: Tokens, data: st.DataObject) -> None:
    size = tokens.mask.numel()

    def grid(low: float) -> torch.Tensor:
        entries = st.floats(low, 0, width=32)
        return torch.tensor(data.draw(st.lists(entries, min_size=size, max_size=size))).reshape(tokens.mask.shape)

    tokens = replace(tokens, log_probs=grid(-(2.0**100)), rollout_log_probs=grid(-(2.0**100)))
    groups = group_tokens(tokens, GroupParams(rule="literal", score=score))
    assert torch.equal(groups.endpoints, tokens.mask)
    assert (groups.cause[tokens.mask] == Cause.CRITERION).all()
