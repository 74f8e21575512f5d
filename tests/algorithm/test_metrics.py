"""Scores, variance ratios, and statistics of a grouping: hand-worked cases and identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import GroupParams, Tokens, group_tokens, known_rules
from groupppo.algorithm.grouping import SCORE_NEEDS, SCORES, Score, log_ratio, logit_norm
from groupppo.algorithm.metrics import (
    critic_metrics,
    dense_metrics,
    group_metrics,
    group_sizes,
    log_prob_gap,
    variance_ratios,
)
from groupppo.errors import BadInput
from tests.algorithm.strategies import EVERY_READING, EVERY_SCORE, batches, fixed_batch


@EVERY_READING
@settings(max_examples=8)
@given(tokens=batches(least=1))
def test_the_origins_metrics_are_identities_of_the_density_and_causes_are_shares(
    params: GroupParams, tokens: Tokens
) -> None:
    groups = group_tokens(tokens, params)
    metrics = group_metrics(groups, tokens, params, 1.0)
    density = int(groups.endpoints.sum()) / int(tokens.mask.sum())
    assert metrics["group/density"] == density
    assert metrics["group/total_tokens"] == int(tokens.mask.sum())
    assert metrics["group/total_endpoints"] == int(groups.endpoints.sum())
    assert metrics["group/compression_ratio"] == pytest.approx(1 - density)
    assert metrics["group/efficiency_gain"] == pytest.approx(1 / density)
    assert metrics["group/algorithm_effectiveness"] == pytest.approx(max(0.0, 0.9 - density) / 0.9)
    assert metrics["group/size/mean"] == pytest.approx(1 / density)
    shares = [metrics[f"group/closed_by/{cause}"] for cause in ("criterion", "cap", "end")]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_the_claim_is_one_number_under_three_names() -> None:
    """8192 tokens and 512 endpoints: 93.75 %, 16.0x, and from these the 75 % as 0.8 of the first."""
    tokens = Tokens(torch.ones(8, 1024, dtype=torch.bool))
    params = GroupParams(rule="stride", group_max_size=16)
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, 1.0)
    assert (metrics["group/total_tokens"], metrics["group/total_endpoints"]) == (8192, 512)
    assert (metrics["group/compression_ratio"], metrics["group/efficiency_gain"]) == (0.9375, 16.0)
    assert 0.8 * metrics["group/compression_ratio"] == 0.75
    assert metrics["group/update_density"] == 1.0  # and nothing was saved
    params = GroupParams(rule="stride", group_max_size=8)
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, 1.0)
    assert (metrics["group/compression_ratio"], metrics["group/efficiency_gain"]) == (0.875, 8.0)


# Row 0: token 1 splits off token 0, then [1, 2] meets the cap, then [3] the end. Row 1: [0, 1] meets the cap. Row 2 is
# empty.
ADVANTAGES = torch.tensor([[0.0, 5.0, 1.0, 2.0], [1.0, 2.0, 9.0, 9.0], [9.0] * 4])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
SPLIT = GroupParams(group_max_size=2, group_variance_threshold=1.7)


def test_metrics_of_a_hand_worked_batch() -> None:
    tokens = Tokens(MASK, advantages=ADVANTAGES)
    groups = group_tokens(tokens, SPLIT)
    assert group_sizes(groups).tolist() == [1, 2, 1, 2]
    metrics = group_metrics(groups, tokens, SPLIT, threshold=1.7)
    assert metrics == {
        "group/total_tokens": 6,
        "group/total_endpoints": 4,
        "group/density": 4 / 6,
        "group/update_density": 1.0,
        "group/fallbacks": 0,
        "group/compression_ratio": 1 - 4 / 6,
        "group/efficiency_gain": 6 / 4,
        "group/algorithm_effectiveness": (1 - 4 / 6 - 0.1) / 0.9,
        "group/closed_by/criterion": 1 / 4,
        "group/closed_by/cap": 2 / 4,
        "group/closed_by/end": 1 / 4,
        "group/size/mean": 1.5,
        "group/size/p10": 1.0,
        "group/size/p50": 1.0,
        "group/size/p90": 2.0,
        "group/endpoints_per_response/mean": 2.0,  # of the two responses that have tokens
        "group/threshold": 1.7,
        # [0]: 0/0 is 1. [5, 1]: 2 * 1 / 26. [2]: 1. [1, 2]: 2 * 4 / 5. The lower median is the second of four.
        "group/r_ratio/p50": 1.0,
    }


@pytest.mark.parametrize("name", list(known_rules()))
def test_thresholds_and_ratios_are_left_out_where_there_are_none(name: str) -> None:
    tokens = fixed_batch()
    params = GroupParams(rule=name, density=0.5 if "density" in known_rules()[name].uses else None)
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, 1.0)
    assert ("group/threshold" in metrics) == (name == "variance_split")
    assert ("group/r_ratio/p50" in metrics) == (name in ("variance_split", "literal", "published"))
    assert all(math.isfinite(value) for key, value in metrics.items() if key != "group/r_ratio/p50")


def test_quantiles_are_the_smallest_value_that_so_many_do_not_exceed() -> None:
    # Groups of 1 to 10 tokens, one a response: 10 % are at most 1, 50 % at most 5, 90 % at most 9.
    tokens = Tokens(torch.arange(10) < torch.arange(1, 11)[:, None])
    params = GroupParams(rule="sequence")
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, 1.0)
    assert [metrics[f"group/size/p{share}"] for share in (10, 50, 90)] == [1.0, 5.0, 9.0]
    # One response more, of 10 tokens: the ranks are those of 1.1, 5.5 and 9.9 rounded up.
    tokens = Tokens(torch.cat([tokens.mask, tokens.mask[-1:]]))
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, 1.0)
    assert [metrics[f"group/size/p{share}"] for share in (10, 50, 90)] == [2.0, 6.0, 10.0]


def test_the_critic_is_measured_over_every_valid_token() -> None:
    values, returns = (
        torch.tensor([[0.0, 0.75, 9.0], [0.0, 0.25, 0.0]]),
        torch.tensor([[1.0, 1.0, 5.0], [0.0, 0.0, 0.0]]),
    )
    mask, last = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool(), torch.tensor([[0, 1, 0], [0, 1, 0]]).bool()
    metrics = critic_metrics(values, returns, mask)
    # Returns 1, 1, 0, 0 have the variance 1/3, the errors 1, 1/4, 0 and -1/4 have 7/24.
    assert metrics == {
        "critic/vf_explained_var/all_tokens": pytest.approx(1 / 8, abs=1e-4),
        "critic/values/mean/all_tokens": 0.25,
        "critic/values/max/all_tokens": 0.75,
        "critic/values/min/all_tokens": 0.0,
        "critic/returns/mean/all_tokens": 0.5,
        "critic/returns/max/all_tokens": 1.0,
        "critic/returns/min/all_tokens": 0.0,
    }
    assert critic_metrics(values, returns, last)["critic/vf_explained_var/all_tokens"] == pytest.approx(3 / 4, abs=1e-4)


def test_the_gap_of_log_probs_is_absolute_and_over_valid_tokens() -> None:
    gaps = torch.arange(1, 202, dtype=torch.float64)[None] / 8
    signs = torch.where(torch.arange(201) % 2 == 0, 1.0, -1.0)
    mask = torch.ones(1, 201, dtype=torch.bool)
    mask[0, 200] = False
    log_probs = torch.full((1, 201), -30.0, dtype=torch.float64)
    metrics = log_prob_gap(log_probs + signs * gaps, log_probs, mask)
    # 200 gaps of 1/8 to 25: the 198th is the smallest that 99 % do not exceed.
    assert metrics == {"rollout/logp_gap/mean": 100.5 / 8, "rollout/logp_gap/p99": 198 / 8}
    counted = log_prob_gap(log_probs + signs * gaps, log_probs, torch.ones_like(mask))
    assert counted != metrics
    assert log_prob_gap(log_probs, log_probs, mask) == {"rollout/logp_gap/mean": 0.0, "rollout/logp_gap/p99": 0.0}


def test_a_step_on_every_token_has_the_counts_of_singletons() -> None:
    tokens, params = fixed_batch(), GroupParams(rule="singleton")
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, 1.0)
    dense = dense_metrics(int(tokens.mask.sum()))
    assert {key: metrics[key] for key in dense} == dense
    assert dense != dense_metrics(1)


# Groups of two: [1, 2], [2, 1], [0, 0], and a hole in the last one.
PAIRED_MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 1]]).bool()
PAIRED = torch.tensor([[1.0, 2.0, 2.0, 1.0, 0.0, 9.0, 0.0]])
PAIRS = group_tokens(Tokens(PAIRED_MASK), GroupParams(rule="stride", group_max_size=2))


def test_hand_worked_ratios_of_orthogonal_scores() -> None:
    weights = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0, 9.0, 1.0]], dtype=torch.float64)
    # [1, 2]: r_grpo = (1 + 3) 4 = 16, r_ppo = 1 + 3 * 4 = 13. [2, 1]: 4 * 1 = 4 and 4 + 3 = 7. [0, 0]: 0 / 0 is 1.
    ratios = variance_ratios(PAIRS, PAIRED, Score(weights, orthogonal=True))
    assert ratios.tolist() == [16 / 13, 4 / 7, 1.0]


def test_hand_worked_ratios_of_signed_scores() -> None:
    signed = torch.tensor([[1.0, 3.0, 1.0, -2.0, 1.0, 9.0, 1.0]], dtype=torch.float64)
    # [1, 2]: r_grpo = (1 + 3)^2 4 = 64, r_ppo = (1 + 6)^2 = 49. [2, 1]: (1 - 2)^2 = 1 and (2 - 2)^2 = 0: infinite.
    ratios = variance_ratios(PAIRS, PAIRED, Score(signed, orthogonal=False))
    assert ratios.tolist() == [64 / 49, math.inf, 1.0]
    other = variance_ratios(PAIRS, PAIRED, Score(signed.abs(), orthogonal=True))
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
