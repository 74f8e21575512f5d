"""`variance_split`: its definition, the invariant of every closed group, the cap, ties and zeros."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens
from groupppo.algorithm.grouping import SCORES
from groupppo.algorithm.metrics import variance_ratios
from tests.algorithm.strategies import EIGHTHS, EVERY_SCORE, batches, closings, fixed_batch, members, valid_tokens

EPSILON = 2.0**-20


def definition(
    advantages: list[Fraction],
    scores: list[Fraction],
    orthogonal: bool,
    tau: Fraction,
    epsilon: Fraction,
    cap: int,
    close: str,
) -> dict[int, Cause]:
    """Where a response of valid tokens closes, in exact arithmetic and as the definition reads."""

    def passes(t: int, start: int) -> bool:
        span = range(start, t + 1)
        if orthogonal:
            r_ppo = sum(advantages[k] ** 2 * scores[k] for k in span)
            r_grpo = sum(scores[k] for k in span) * advantages[t] ** 2
        else:
            r_ppo = sum(advantages[k] * scores[k] for k in span) ** 2
            r_grpo = sum(scores[k] for k in span) ** 2 * advantages[t] ** 2
        return len(span) >= 2 and r_grpo > tau * (r_ppo + epsilon)

    closed, start = {}, 0
    for t in range(len(advantages)):
        if passes(t, start):
            closed[t if close == "at" else t - 1] = Cause.CRITERION
            start = t + 1 if close == "at" else t
        if t - start + 1 == cap:
            closed[t] = Cause.CAP
            start = t + 1
    if start < len(advantages):
        closed[len(advantages) - 1] = Cause.END
    return closed


@settings(max_examples=60)
@given(
    tokens=batches(numbers=EIGHTHS),
    data=st.data(),
    orthogonal=st.booleans(),
    tau=st.sampled_from([0.25, 1.0, 1.5, 2.0]),
    cap=st.integers(1, 6),
    close=st.sampled_from(["before", "at"]),
)
def test_it_is_its_definition(
    tokens: Tokens, data: st.DataObject, orthogonal: bool, tau: float, cap: int, close: str
) -> None:
    # On eighths float64 is exact, so that the rule has to agree with rationals on ties too.
    size = tokens.mask.numel()
    drawn = torch.tensor(data.draw(st.lists(EIGHTHS, min_size=size, max_size=size))).double().reshape(tokens.mask.shape)
    if orthogonal:  # 1 - 2p + sum pi^2 at p = 1/2
        score, scores = "logit_norm", drawn.abs()
        half = torch.full_like(drawn, 0.5)
        tokens = replace(tokens, log_probs=half.log(), sum_pi_squared=scores)
        scores = SCORES[score](tokens).values
    else:
        score, scores = "log_ratio", drawn
        tokens = replace(tokens, log_probs=torch.zeros_like(drawn), rollout_log_probs=drawn)
    params = GroupParams(score=score, group_max_size=cap, group_epsilon=EPSILON, close=close)
    groups = group_tokens(tokens, params, tau)
    for row in range(len(tokens.mask)):
        valid = valid_tokens(tokens.mask, row)
        a = [Fraction(float(tokens.get("advantages")[row, t])) for t in valid]
        s = [Fraction(float(scores[row, t])) for t in valid]
        expected = definition(a, s, orthogonal, Fraction(tau), Fraction(EPSILON), cap, close)
        assert closings(groups, row) == {valid[t]: cause for t, cause in expected.items()}


@pytest.mark.parametrize(("close", "first"), [("before", 0), ("at", 1)])
def test_it_splits_before_the_token_that_passes_the_threshold_or_at_it(close: str, first: int) -> None:
    advantages, mask = torch.tensor([[0.1, 5.0, 0.1, 0.1]]), torch.ones(1, 4, dtype=torch.bool)
    groups = group_tokens(Tokens(mask, advantages=advantages), GroupParams(close=close))
    # Tokens 0 and 1: r_grpo = 2 * 25 > r_ppo = 25.01.
    assert closings(groups) == {first: Cause.CRITERION, 3: Cause.END}


def test_it_compares_the_residuals_of_the_origin_where_asked() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[-0.1, -5.0, 0.9, 0.9]])
    tokens = Tokens(torch.ones(1, 4, dtype=torch.bool), rewards=rewards, values=values)
    residual = group_tokens(tokens, GroupParams(rule_advantage="residual"))
    as_advantages = group_tokens(replace(tokens, advantages=rewards - values), GroupParams())
    assert closings(residual) == closings(as_advantages) == {0: Cause.CRITERION, 3: Cause.END}


@pytest.mark.parametrize("rule", ["variance_split", "stride"])
@settings(max_examples=30)
@given(tokens=batches(), cap=st.integers(1, 5))
def test_no_group_is_above_the_cap_and_the_cap_closes_full_groups(rule: str, tokens: Tokens, cap: int) -> None:
    groups = group_tokens(tokens, GroupParams(rule=rule, group_max_size=cap))
    for row, group in members(groups):
        assert len(group) <= cap
        assert (int(groups.cause[row, group[-1]]) == Cause.CAP) == (len(group) == cap)


@settings(max_examples=30)
@given(value=st.floats(-1e6, 1e6, width=32), epsilon=st.sampled_from([0.0, 1e-6]), cap=st.integers(1, 32))
def test_constant_advantages_are_closed_by_the_cap_alone(value: float, epsilon: float, cap: int) -> None:
    # The square of a float32 number has 48 bits, so that float64 adds up to 32 of them exactly: the ratio is a tie.
    tokens = Tokens(torch.ones(2, 3 * cap, dtype=torch.bool), advantages=torch.full((2, 3 * cap), value))
    groups = group_tokens(tokens, GroupParams(group_max_size=cap, group_epsilon=epsilon))
    assert list(closings(groups, 1).items()) == [(k * cap - 1, Cause.CAP) for k in (1, 2, 3)]


@EVERY_SCORE
@settings(max_examples=15)
@given(tokens=batches(), cap=st.integers(1, 4))
def test_advantages_of_zero_are_closed_like_a_stride(score: str, tokens: Tokens, cap: int) -> None:
    nothing = replace(tokens, advantages=torch.zeros(tokens.mask.shape))
    params = GroupParams(score=score, group_max_size=cap, group_epsilon=0.0)
    stride = GroupParams(rule="stride", group_max_size=cap)
    assert torch.equal(group_tokens(nothing, params).cause, group_tokens(nothing, stride).cause)


@EVERY_SCORE
@settings(max_examples=40)
@given(tokens=batches(), cap=st.integers(1, 6))
def test_no_closed_group_passes_the_threshold_at_its_endpoint(score: str, tokens: Tokens, cap: int) -> None:
    groups = group_tokens(tokens, GroupParams(score=score, group_epsilon=0.0, group_max_size=cap))
    assert (variance_ratios(groups, tokens.get("advantages"), SCORES[score](tokens)) <= 1.0).all()


@EVERY_SCORE
def test_groups_of_another_rule_do_pass_it(score: str) -> None:
    tokens = fixed_batch()
    groups = group_tokens(tokens, GroupParams(rule="stride", group_max_size=4))
    assert (variance_ratios(groups, tokens.get("advantages"), SCORES[score](tokens)) > 1.0).any()
