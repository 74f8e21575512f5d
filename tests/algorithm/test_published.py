"""`published`, the public code: a hand-worked example, and what its endpoints depend on."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, last_valid
from tests.algorithm.strategies import batches, closings, fixed_batch

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
