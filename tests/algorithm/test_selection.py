"""Selection as an axis: rules that choose token by token, weights without bias, and what makes no sense together."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_gae_advantage_return, compute_grpo_outcome_advantage

from groupppo.algorithm import GroupParams, Tokens, group_tokens
from groupppo.algorithm.grouping import horvitz_thompson
from groupppo.algorithm.loss import LossMask, group_batch, masked_mean, policy_loss
from groupppo.algorithm.metrics import effective_tokens, gini
from groupppo.algorithm.params import StepValues
from groupppo.algorithm.rules import bernoulli, prefix_cut
from groupppo.errors import BadInput
from tests.algorithm.strategies import fixed_batch, valid_tokens

DRAWS = 2000


def stock(**keys: object) -> GroupParams:
    return GroupParams.from_config(keys, stock=True)


def stock_batch(estimator: str) -> Tokens:
    """A batch with the advantages of one of verl's estimators."""
    tokens = fixed_batch()
    mask = tokens.mask.long()
    if estimator == "gae":
        advantages, returns = compute_gae_advantage_return(tokens.rewards, tokens.values, mask, 1.0, 0.95)
    else:
        index = torch.tensor([0, 0, 1, 1]).numpy()
        advantages, returns = compute_grpo_outcome_advantage(tokens.rewards * mask, mask, index)
    return replace(tokens, advantages=advantages, returns=returns)


@pytest.mark.parametrize("estimator", ["gae", "grpo"])
@pytest.mark.parametrize("weights", ["none", "horvitz_thompson"])
def test_bernoulli_with_p_1_is_dense_to_the_bit(estimator: str, weights: str) -> None:
    tokens = stock_batch(estimator)
    params = stock(rule="bernoulli", density=1.0, weights=weights, loss_normalizer="tokens")
    batch = group_batch(tokens, group_tokens(tokens, params), params, 1.0, 0.95)
    dense = LossMask(tokens.mask, tokens.mask)
    assert torch.equal(batch.advantages, tokens.get("advantages"))
    assert torch.equal(batch.returns, tokens.get("returns"))
    old = tokens.get("log_probs")
    moved = old + 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1))
    for found in (batch.policy, batch.value):
        assert found.equals(dense)
        chosen, every = (policy_loss(moved, old, batch.advantages, mask) for mask in (found, dense))
        assert torch.equal(chosen, every)


def test_bernoulli_below_1_is_not_dense() -> None:
    tokens = stock_batch("grpo")
    params = stock(rule="bernoulli", density=0.9)
    batch = group_batch(tokens, group_tokens(tokens, params), params, 1.0, 0.95)
    assert not batch.policy.equals(LossMask(tokens.mask, tokens.mask))


# 3 + 2 valid tokens, one of them after a hole.
SHORT = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]]).bool()


def every_coin(p: float) -> Iterator[tuple[float, Tensor]]:
    """Every selection that `bernoulli` may make of SHORT, with its probability."""
    places = SHORT.nonzero().tolist()
    for coins in product([False, True], repeat=len(places)):
        chosen = torch.zeros_like(SHORT)
        for (row, column), coin in zip(places, coins, strict=True):
            chosen[row, column] = coin
        yield p ** sum(coins) * (1 - p) ** (len(coins) - sum(coins)), chosen


def every_cut(shortest: int) -> Iterator[tuple[float, Tensor]]:
    """Every selection that `prefix_cut` may make of SHORT, with its probability."""
    number = SHORT.long().cumsum(dim=1)
    lengths = SHORT.sum(dim=1).tolist()
    choices = [range(min(shortest, length), length + 1) for length in lengths]
    for cuts in product(*choices):
        probability = 1.0
        for choice in choices:
            probability /= len(choice)
        yield probability, SHORT & (number <= torch.tensor(cuts)[:, None])


RULES: list[tuple[str, dict[str, object], Callable[[], Iterator[tuple[float, Tensor]]]]] = [
    ("bernoulli", {"density": 0.3}, lambda: every_coin(0.3)),
    ("prefix_cut", {}, lambda: every_cut(1)),
    ("prefix_cut", {"prefix_min": 2}, lambda: every_cut(2)),
]
EVERY_RULE = pytest.mark.parametrize(("rule", "keys", "selections"), RULES, ids=["bernoulli", "cut", "cut from 2"])


def inclusion_of(params: GroupParams, mask: Tensor) -> Tensor:
    assert params.definition.inclusion is not None
    return params.definition.inclusion(mask, params, StepValues(1.0, params.density))


def losses_and_gradient(mask: LossMask) -> tuple[Tensor, Tensor]:
    """Policy and value loss of SHORT, and their gradient in six parameters that every token's terms depend on."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(*SHORT.shape, 6, generator=generator, dtype=torch.float64)
    old, advantages, targets = (torch.randn(SHORT.shape, generator=generator, dtype=torch.float64) for _ in range(3))
    parameters = torch.full((6,), 0.2, dtype=torch.float64, requires_grad=True)
    outputs = features @ parameters
    policy = policy_loss(old + outputs, old, advantages, mask)
    value = masked_mean((outputs - targets) ** 2, mask)
    (gradient,) = torch.autograd.grad(policy + value, parameters)
    return torch.stack([policy, value]).detach(), gradient


def expectation(params: GroupParams, selections: Iterator[tuple[float, Tensor]], weighted: bool) -> list[Tensor]:
    inclusion = inclusion_of(params, SHORT)
    total, sums = 0.0, [torch.zeros(2, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)]
    for probability, chosen in selections:
        mask = LossMask(chosen, SHORT, horvitz_thompson(chosen, inclusion) if weighted else None)
        for place, part in enumerate(losses_and_gradient(mask)):
            sums[place] = sums[place] + probability * part
        total += probability
    assert total == pytest.approx(1.0, abs=1e-12)
    return sums


@EVERY_RULE
def test_the_weighted_loss_and_its_gradient_have_the_dense_ones_as_expectation(
    rule: str, keys: dict, selections: Callable[[], Iterator[tuple[float, Tensor]]]
) -> None:
    params = stock(rule=rule, weights="horvitz_thompson", loss_normalizer="tokens", **keys)
    dense = losses_and_gradient(LossMask(SHORT, SHORT))
    for found, wanted in zip(expectation(params, selections(), weighted=True), dense, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-13)
    for wrong, wanted in zip(expectation(params, selections(), weighted=False), dense, strict=True):
        assert not torch.allclose(wrong, wanted, rtol=0, atol=1e-3)


@EVERY_RULE
def test_a_rule_draws_with_the_probabilities_that_it_states(
    rule: str, keys: dict, selections: Callable[[], Iterator[tuple[float, Tensor]]]
) -> None:
    params = stock(rule=rule, **keys)
    probability = inclusion_of(params, SHORT)
    counts = torch.zeros(SHORT.shape)
    for draw in range(DRAWS):
        counts += group_tokens(Tokens(SHORT, seeds=torch.tensor([2 * draw, 2 * draw + 1])), params).endpoints
    allowed = {tuple(chosen.flatten().tolist()) for _, chosen in selections()}
    assert (
        tuple(group_tokens(Tokens(SHORT, seeds=torch.tensor([3, 9])), params).endpoints.flatten().tolist()) in allowed
    )
    deviation = (counts / DRAWS - probability)[SHORT].abs()
    # 4.5 standard deviations of the binomial law at most; the seeds are fixed.
    assert (deviation <= 4.5 * (probability * (1 - probability) / DRAWS).sqrt()[SHORT] + 1e-12).all()


def test_the_weights_of_a_batch_are_those_of_its_rule() -> None:
    tokens = fixed_batch()
    params = stock(rule="prefix_cut", weights="horvitz_thompson", loss_normalizer="tokens")
    groups = group_tokens(tokens, params)
    expected = 1.0 / prefix_cut.inclusion(tokens.mask, params, StepValues(1.0))
    assert groups.weights is not None
    assert torch.equal(groups.weights, torch.where(groups.endpoints, expected, 0.0))
    assert group_tokens(tokens, stock(rule="prefix_cut")).weights is None


def test_an_estimator_over_groups_gets_the_last_token_and_one_of_verls_does_not() -> None:
    tokens = fixed_batch()
    last = [valid_tokens(tokens.mask, row)[-1] for row in range(3)]
    keys: dict[str, dict[str, object]] = {"bernoulli": {"density": 0.01}, "gap": {"gap_low": 4.9}, "low_prob": {}}
    keys["low_prob"] = {"probability_cutoff": 0.01}
    for rule, own in keys.items():
        over_groups = group_tokens(tokens, GroupParams(rule=rule, **own)).endpoints
        assert over_groups[range(3), last].all()
        assert not group_tokens(tokens, stock(rule=rule, **own)).endpoints.any()


def test_entropy_over_a_response_takes_the_same_share_of_each() -> None:
    tokens = fixed_batch()
    entropies = tokens.get("entropies").clone()
    entropies[0] += 10.0  # over the batch, the first response would be chosen first
    tokens = replace(tokens, entropies=entropies)
    lengths = tokens.mask.sum(dim=1)
    each = group_tokens(tokens, stock(rule="entropy", density=0.2, entropy_over="response")).endpoints
    assert each.sum(dim=1).tolist() == [int(0.2 * int(length) + 0.5) for length in lengths]
    batch = group_tokens(tokens, stock(rule="entropy", density=0.2)).endpoints
    assert int(batch.sum()) == int(0.2 * int(lengths.sum()) + 0.5)
    assert int(batch[1:].sum()) == 0 < int(each[1:].sum())


@pytest.mark.parametrize("side", ["top", "bottom"])
def test_abs_advantage_takes_the_largest_or_the_smallest_in_size(side: str) -> None:
    tokens = fixed_batch()
    chosen = group_tokens(tokens, stock(rule="abs_advantage", density=0.25, side=side)).endpoints
    size = tokens.get("advantages").abs()
    inside, outside = size[chosen], size[tokens.mask & ~chosen]
    assert (inside.min() > outside.max()) if side == "top" else (inside.max() < outside.min())


def test_gap_keeps_the_tokens_whose_ratio_is_inside_the_bounds_bounds_included() -> None:
    ratio = torch.tensor([[0.25, 0.5, 1.0, 2.0, 4.0]], dtype=torch.float64)
    tokens = Tokens(torch.ones(1, 5).bool(), log_probs=ratio.log(), rollout_log_probs=torch.zeros(1, 5))
    chosen = group_tokens(tokens, stock(rule="gap", gap_low=0.5, gap_high=2.0)).endpoints
    assert chosen.tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ({"rule": "entropy", "density": 0.2, "weights": "horvitz_thompson"}, "weights", "bernoulli, prefix_cut"),
        ({"rule": "bernoulli", "density": 0.2, "weights": "horvitz_thompson"}, "loss_normalizer", "write tokens"),
        ({"rule": "bernoulli", "density": 0.0}, "density", "above 0"),
        ({"rule": "bernoulli", "density": 1.5}, "density", "at most 1"),
        ({"rule": "bernoulli"}, "density", "needs either density"),
        ({"rule": "stride", "spread": "group"}, "spread", "nothing to share"),
        ({"rule": "stride", "advantage": "segment_gae"}, "advantage", "write stock"),
        ({"rule": "gap", "gap_low": 6.0}, "gap_low", "at most 5.0"),
        ({"rule": "stride", "side": "bottom"}, "side", "does not use it"),
    ],
)
def test_what_makes_no_sense_with_an_estimator_of_verls_is_refused_with_the_reason(
    keys: dict, key: str, says: str
) -> None:
    with pytest.raises(BadInput, match=says) as error:
        GroupParams.from_config(keys, stock=True)
    assert error.value.key == key


def test_weights_and_stock_advantages_are_refused_with_an_estimator_over_groups() -> None:
    keys = {"rule": "bernoulli", "density": 0.2, "weights": "horvitz_thompson", "loss_normalizer": "tokens"}
    with pytest.raises(BadInput, match="depends on which others are chosen"):
        GroupParams.from_config(keys)
    with pytest.raises(BadInput, match=r"algorithm\.adv_estimator"):
        GroupParams.from_config({"advantage": "stock"})
    assert stock(**keys).weights == "horvitz_thompson"


def test_effective_tokens_and_gini_of_known_weights() -> None:
    assert effective_tokens(torch.tensor([2.0, 2.0, 2.0])) == 3.0
    assert effective_tokens(torch.tensor([3.0, 1.0])) == pytest.approx(1.6)
    assert gini(torch.tensor([2.0, 2.0, 2.0])) == 0.0
    assert gini(torch.tensor([0.0, 0.0, 0.0, 5.0])) == pytest.approx(0.75)
    assert (effective_tokens(torch.tensor([])), gini(torch.tensor([]))) == (0.0, 0.0)


def test_the_inclusion_of_bernoulli_is_its_density() -> None:
    params = stock(rule="bernoulli", density=0.3)
    assert (bernoulli.inclusion(SHORT, params, StepValues(1.0, 0.3)) == 0.3).all()
