"""The exact score vectors: their Gram matrix against one gradient at a time, and the rule on it against the kernels."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, kernels
from groupppo.studies.shared.rollouts import Rollouts, response_log_probs
from groupppo.studies.shared.rules import exact_split, off_diagonal_cosines, token_gram
from tests.studies.conftest import TEMPERATURE

ADVANTAGE = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5]), st.floats(-8, 8, allow_subnormal=False))
# Few bits, so that sums and products are exact in every order.
DYADIC = st.integers(-32, 32).map(lambda number: number / 8)
SETTINGS = {
    "tau": st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    "epsilon": st.sampled_from([0.0, 1e-6]),
    "cap": st.integers(1, 7),
}


def brute_force(model: Any, response: Rollouts) -> Tensor:
    """One backward pass for each token, every parameter's gradient kept, the tied ones once."""
    parameters = dict(model.named_parameters())
    assert "lm_head.weight" not in parameters
    gradients = []
    for t in range(int(response.mask.sum())):
        chosen = response_log_probs(model, response, TEMPERATURE)[response.mask][t]
        found = torch.autograd.grad(chosen, list(parameters.values()))
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    stacked = torch.stack(gradients)
    assert stacked.shape[1] == model.num_parameters()
    return stacked @ stacked.T


def test_the_gram_matrix_is_that_of_one_gradient_for_each_token(exact_policy: Any, rollouts: Rollouts) -> None:
    longest = rollouts.mask.sum(1).argsort(descending=True)[:2]
    for row in longest:
        response = rollouts.rows(row[None])
        gram = token_gram(exact_policy, response, TEMPERATURE)
        expected = brute_force(exact_policy, response)
        assert torch.allclose(gram, expected, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(gram, expected.roll((1, 1), (0, 1)), rtol=1e-3)


def test_cosines_are_taken_once_for_each_pair_and_never_of_a_vector_of_length_zero() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0], [0.0, -3.0]], dtype=torch.float64)
    cosines = off_diagonal_cosines(vectors @ vectors.T)
    half = 0.5**0.5
    assert torch.allclose(cosines, torch.tensor([half, 0.0, -half], dtype=torch.float64))


@settings(max_examples=200)
@given(advantages=st.lists(ADVANTAGE, min_size=1, max_size=24), **SETTINGS)
def test_with_an_identity_gram_the_exact_rule_is_the_rule_with_unit_scores(
    advantages: list[float], tau: float, epsilon: float, cap: int
) -> None:
    exact = exact_split(
        torch.eye(len(advantages), dtype=torch.float64), torch.tensor(advantages), **_named(tau, epsilon, cap)
    )
    a = torch.tensor([advantages])
    params = GroupParams(group_variance_threshold=tau, group_epsilon=epsilon, group_max_size=cap)
    groups = group_tokens(Tokens(torch.ones_like(a, dtype=torch.bool), advantages=a), params)
    assert torch.equal(exact, groups.cause[0])


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(DYADIC, DYADIC), min_size=1, max_size=16),
    tau=st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    cap=st.integers(1, 7),
)
def test_with_parallel_vectors_the_exact_rule_is_the_rule_with_signed_scores(
    rows: list[tuple[float, float]], tau: float, cap: int
) -> None:
    advantages, scalars = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    exact = exact_split(torch.outer(scalars, scalars), advantages, tau=tau, epsilon=0.0, cap=cap)
    assert torch.equal(exact, _kernel(advantages, scalars, tau, 0.0, cap, orthogonal=False))


def test_a_rule_that_closes_at_the_token_or_knows_no_inner_products_differs() -> None:
    advantages = torch.tensor([1.0, 2.0, 1.0, 0.5])
    before = exact_split(torch.eye(4, dtype=torch.float64), advantages, tau=1.0, epsilon=0.0, cap=9)
    assert before.tolist() == [Cause.CRITERION, Cause.NONE, Cause.NONE, Cause.END]
    assert before.roll(1).tolist() != before.tolist()
    # Opposite vectors cancel: |g_1 + g_2| = 0 can never pass the threshold.
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert exact_split(opposite, advantages[:2], tau=1.0, epsilon=0.0, cap=9).tolist() == [Cause.NONE, Cause.END]
    assert exact_split(torch.eye(2), advantages[:2], tau=1.0, epsilon=0.0, cap=9).tolist() == [
        Cause.CRITERION,
        Cause.END,
    ]


@pytest.mark.parametrize("cap", [1, 3])
def test_a_group_that_is_full_at_the_last_token_counts_as_closed_by_the_cap(cap: int) -> None:
    cause = exact_split(torch.eye(3, dtype=torch.float64), torch.ones(3), tau=1.0, epsilon=0.0, cap=cap)
    assert cause[-1] == Cause.CAP


def _named(tau: float, epsilon: float, cap: int) -> dict[str, Any]:
    return {"tau": tau, "epsilon": epsilon, "cap": cap}


def _kernel(advantages: Tensor, scores: Tensor, tau: float, epsilon: float, cap: int, *, orthogonal: bool) -> Tensor:
    mask = torch.ones(1, len(advantages), dtype=torch.bool)
    settings = {"orthogonal": orthogonal, **_named(tau, epsilon, cap)}
    return kernels.variance_split(advantages[None], scores[None], mask, **settings)[0]
