"""Losses of a grouped batch: where they count, what divides them, and that they are verl's."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import (
    compute_gae_advantage_return,
    compute_policy_loss_vanilla,
)
from verl.workers.config import ActorConfig

from groupppo.algorithm import GroupParams, Groups, Tokens, group_tokens
from groupppo.algorithm.estimators import gae
from groupppo.algorithm.loss import LossMask, group_batch, loss_masks, policy_loss
from tests.algorithm.strategies import batches, fixed_batch

RATES = st.sampled_from([1.0, 0.99, 0.5])
SWITCHES = [(spread, normalizer) for spread in ("endpoint", "group") for normalizer in ("endpoints", "tokens")]
EVERY_SWITCH = pytest.mark.parametrize(("spread", "normalizer"), SWITCHES)
ESTIMATORS = ("segment_gae", "token_gae", "published")


def grouped(tokens: Tokens, **keys: object) -> tuple[GroupParams, Groups]:
    params = GroupParams.from_config({"rule": "stride", "group_max_size": 4} | keys)
    return params, group_tokens(tokens, params)


@EVERY_SWITCH
@pytest.mark.parametrize("advantage", ["segment_gae", "token_gae"])
@settings(max_examples=12)
@given(tokens=batches(least=2), gamma=RATES, lam=RATES, given_dense=st.booleans())
def test_singleton_is_dense_ppo_to_the_bit_in_every_switch(
    advantage: str, spread: str, normalizer: str, tokens: Tokens, gamma: float, lam: float, given_dense: bool
) -> None:
    mask = tokens.mask
    stock, stock_returns = compute_gae_advantage_return(tokens.rewards, tokens.values, mask.long(), gamma, lam)
    dense = gae(tokens.get("rewards"), tokens.get("values"), mask, gamma, lam) if given_dense else None
    tokens = replace(tokens, advantages=dense)
    params = GroupParams(rule="singleton", advantage=advantage, spread=spread, loss_normalizer=normalizer)
    batch = group_batch(tokens, group_tokens(tokens, params), params, gamma, lam)
    assert torch.equal(batch.advantages[mask], stock[mask])
    assert torch.equal(batch.returns[mask], stock_returns[mask])
    for loss_mask in (batch.policy, batch.value):
        assert torch.equal(loss_mask.counts, mask)
        assert torch.equal(loss_mask.divides, mask)


@EVERY_SWITCH
@pytest.mark.parametrize("advantage", ["segment_gae", "token_gae"])
def test_groups_of_more_than_one_token_are_not_dense_ppo(advantage: str, spread: str, normalizer: str) -> None:
    tokens = replace(fixed_batch(), advantages=None)
    stock, _ = compute_gae_advantage_return(tokens.rewards, tokens.values, tokens.mask.long(), 0.99, 0.95)
    params, groups = grouped(tokens, advantage=advantage, spread=spread, loss_normalizer=normalizer)
    batch = group_batch(tokens, groups, params, 0.99, 0.95)
    assert not torch.equal(batch.advantages[tokens.mask], stock[tokens.mask])


@EVERY_SWITCH
@pytest.mark.parametrize("advantage", ESTIMATORS)
@settings(max_examples=8)
@given(tokens=batches(least=6))
def test_poison_outside_the_mask_reaches_nothing(advantage: str, spread: str, normalizer: str, tokens: Tokens) -> None:
    tokens = replace(tokens, advantages=None)
    params, groups = grouped(tokens, advantage=advantage, spread=spread, loss_normalizer=normalizer)
    poisoned = replace(
        tokens,
        rewards=torch.where(tokens.mask, tokens.get("rewards"), torch.nan),
        values=torch.where(tokens.mask, tokens.get("values"), torch.inf),
    )
    clean, found = (group_batch(each, groups, params, 0.99, 0.95) for each in (tokens, poisoned))
    assert torch.equal(found.advantages, clean.advantages)
    assert torch.equal(found.returns, clean.returns)


@EVERY_SWITCH
def test_advantages_are_whitened_over_the_tokens_that_carry_one(spread: str, normalizer: str) -> None:
    tokens = fixed_batch()
    params, groups = grouped(tokens, spread=spread, loss_normalizer=normalizer)
    batch = group_batch(tokens, groups, params, 0.99, 0.95)
    carriers = tokens.mask if spread == "group" else groups.endpoints
    assert float(batch.advantages[carriers].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(batch.advantages[carriers].var()) == pytest.approx(1.0, abs=1e-5)
    assert not batch.advantages[~carriers].any()
    assert float(batch.advantages.var()) != pytest.approx(1.0, abs=1e-2)  # over the whole tensor it is not


def test_one_carrier_in_the_whole_batch_cannot_be_whitened() -> None:
    tokens = Tokens(torch.tensor([[1, 1, 0]]).bool(), rewards=torch.ones(1, 3), values=torch.zeros(1, 3))
    for rule, fails in (("sequence", True), ("singleton", False)):
        params = GroupParams(rule=rule)
        groups = group_tokens(tokens, params)
        if fails:
            with pytest.raises(ValueError, match="found 1"):
                group_batch(tokens, groups, params, 1.0, 1.0)
        else:
            assert group_batch(tokens, groups, params, 1.0, 1.0).advantages.isfinite().all()


@pytest.mark.parametrize(
    ("spread", "normalizer", "policy_counts", "policy_divides", "value_divides"),
    [
        ("endpoint", "endpoints", "endpoints", "endpoints", "endpoints"),
        ("endpoint", "tokens", "endpoints", "tokens", "tokens"),
        ("group", "endpoints", "tokens", "tokens", "endpoints"),
        ("group", "tokens", "tokens", "tokens", "tokens"),
    ],
)
def test_where_losses_count_and_what_divides_them(
    spread: str, normalizer: str, policy_counts: str, policy_divides: str, value_divides: str
) -> None:
    tokens = fixed_batch()
    params, groups = grouped(tokens, spread=spread, loss_normalizer=normalizer)
    which = {"tokens": tokens.mask, "endpoints": groups.endpoints}
    assert not torch.equal(which["tokens"], which["endpoints"])
    policy, value = loss_masks(tokens.mask, groups, params)
    assert policy.equals(LossMask(which[policy_counts], which[policy_divides]))
    assert value.equals(LossMask(which["endpoints"], which[value_divides]))


@pytest.mark.parametrize(
    ("drift", "clipped"),
    [(0.01, set()), (1.0, {"actor/pg_clipfrac"}), (5.0, {"actor/pg_clipfrac", "actor/pg_clipfrac_lower"})],
)
def test_the_policy_loss_is_verls_with_and_without_clipping(drift: float, clipped: set[str]) -> None:
    tokens = fixed_batch(rows=6)
    generator = torch.Generator().manual_seed(1)
    old, advantages = tokens.get("log_probs"), tokens.get("advantages")
    new = old + drift * (torch.rand(old.shape, generator=generator) - 0.5)
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=0.1,
        clip_ratio_high=0.3,
        clip_ratio_c=2.0,
    )
    stock, metrics = compute_policy_loss_vanilla(old, new, advantages, tokens.mask.long(), "token-mean", config)
    mask = LossMask(tokens.mask, tokens.mask)
    bounds = {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 2.0}
    assert torch.equal(policy_loss(new, old, advantages, mask, **bounds), stock)
    assert {name for name in metrics if "clipfrac" in name and metrics[name] > 0} == clipped
    wrong = {"clip_low": 0.3, "clip_high": 0.1, "dual_clip": 2.0}
    assert torch.equal(policy_loss(new, old, advantages, mask, **wrong), stock) == (not clipped)
    assert not torch.equal(policy_loss(old, new, advantages, mask, **bounds), stock)


def test_a_ratio_that_would_overflow_is_bounded_as_verls_is() -> None:
    advantages, old = torch.tensor([[0.0, -1.0, 1.0]]), torch.zeros(1, 3)
    new, mask = torch.full((1, 3), 200.0), torch.ones(1, 3, dtype=torch.bool)
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    stock, _ = compute_policy_loss_vanilla(old, new, advantages, mask.long(), "token-mean", config)
    assert torch.equal(policy_loss(new, old, advantages, LossMask(mask, mask)), stock)
    assert stock.isfinite()
    assert (advantages * (new - old).exp()).isnan().any()  # zero times infinity


@EVERY_SWITCH
def test_the_policy_loss_under_a_groups_mask_is_verls_under_the_same_one(spread: str, normalizer: str) -> None:
    tokens = fixed_batch(rows=6)
    params, groups = grouped(tokens, spread=spread, loss_normalizer=normalizer)
    batch = group_batch(tokens, groups, params, 0.99, 0.95)
    old, new = tokens.get("log_probs"), tokens.get("rollout_log_probs")
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    config.global_batch_info["batch_num_tokens"] = int(batch.policy.divides.sum())
    counts = batch.policy.counts.long()
    stock, _ = compute_policy_loss_vanilla(old, new, batch.advantages, counts, "token-mean", config)
    assert torch.equal(policy_loss(new, old, batch.advantages, batch.policy), stock)
    fewer = LossMask(batch.policy.counts, batch.policy.divides & (torch.arange(len(old)) > 0)[:, None])
    assert not torch.equal(policy_loss(new, old, batch.advantages, fewer), stock)
