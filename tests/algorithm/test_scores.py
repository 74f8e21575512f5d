"""Scores: what stands for the gradient of a token's log-probability."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import Tokens
from groupppo.algorithm.grouping import SCORE_NEEDS, SCORES, log_ratio, logit_norm, unit
from groupppo.errors import BadInput
from tests.algorithm.strategies import EVERY_SCORE, fixed_batch

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=6)


@settings(max_examples=30)
@given(logits=LOGITS, data=st.data())
def test_logit_norm_is_the_squared_norm_of_the_gradient_in_the_logits(logits: list[float], data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, len(logits) - 1))
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    log_probs = leaf.log_softmax(0)
    (gradient,) = torch.autograd.grad(log_probs[chosen], leaf)
    log_probs = log_probs.detach()
    tokens = Tokens(
        torch.ones(1, 1, dtype=torch.bool),
        log_probs=log_probs[chosen].reshape(1, 1),
        sum_pi_squared=(2 * log_probs).exp().sum().reshape(1, 1),
    )
    assert float(logit_norm(tokens).values) == pytest.approx(float(gradient.square().sum()), abs=1e-12)


def test_logit_norm_without_the_chosen_tokens_probability_would_be_another_number() -> None:
    # Two equal logits: gradient (1/2, -1/2), squared norm 1/2; 1 + sum pi^2 alone is 3/2.
    half = torch.tensor([[0.5]])
    score = logit_norm(Tokens(torch.ones(1, 1, dtype=torch.bool), log_probs=half.log(), sum_pi_squared=half))
    assert float(score.values) == pytest.approx(0.5)


def test_a_norm_that_rounds_below_zero_is_zero() -> None:
    tokens = Tokens(
        torch.ones(1, 1, dtype=torch.bool), log_probs=torch.zeros(1, 1), sum_pi_squared=torch.tensor([[1 - 1e-7]])
    )
    assert float(logit_norm(tokens).values) == 0.0


def test_log_ratio_is_rollout_minus_trainer_and_signed() -> None:
    tokens = Tokens(
        torch.ones(1, 2, dtype=torch.bool),
        log_probs=torch.tensor([[-1.0, -2.0]]),
        rollout_log_probs=torch.tensor([[-1.5, -1.0]]),
    )
    score = log_ratio(tokens)
    assert score.values.tolist() == [[-0.5, 1.0]]
    assert not score.orthogonal


def test_unit_is_one_everywhere_and_orthogonal() -> None:
    score = unit(fixed_batch())
    assert (score.values == 1.0).all()
    assert score.orthogonal


@EVERY_SCORE
def test_scores_are_float64_and_read_exactly_what_they_say(score: str) -> None:
    tokens = fixed_batch()
    enough = Tokens(tokens.mask, **{name: tokens.get(name) for name in SCORE_NEEDS[score]})
    assert SCORES[score](enough).values.dtype == torch.float64
    assert torch.equal(SCORES[score](enough).values, SCORES[score](tokens).values)
    for missing in SCORE_NEEDS[score]:
        with pytest.raises(BadInput) as error:
            SCORES[score](Tokens(tokens.mask, **{n: tokens.get(n) for n in SCORE_NEEDS[score] if n != missing}))
        assert error.value.key == missing
