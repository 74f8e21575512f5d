"""Rollouts hold what the sampler drew, and a trainer's numbers belong to the state before each token."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from groupppo.algorithm import Tokens, last_valid
from groupppo.models.sampling import Response
from groupppo.studies.shared import rollouts as module
from groupppo.studies.shared.rollouts import Rollouts, response_log_probs, response_values, sample_rollouts
from groupppo.tasks.base import Example
from tests.studies.conftest import TEMPERATURE


def each(rollouts: Rollouts) -> list[tuple[torch.Tensor, int, int]]:
    """Every response's own ids, without padding, its prompt's length and its own."""
    lengths = zip(rollouts.prompt_lengths.tolist(), rollouts.mask.sum(1).tolist(), strict=True)
    return [(row[: prompt + size], prompt, size) for row, (prompt, size) in zip(rollouts.ids, lengths, strict=True)]


def test_sampled_log_probs_are_those_that_a_trainer_recomputes(policy: Any, rollouts: Rollouts) -> None:
    with torch.no_grad():
        recomputed = response_log_probs(policy, rollouts, TEMPERATURE)
        cooler = response_log_probs(policy, rollouts, 1.0)
    assert torch.allclose(recomputed, rollouts.rollout_log_probs, atol=1e-5)
    assert not torch.allclose(cooler, rollouts.rollout_log_probs, atol=1e-3)
    late = replace(rollouts, prompt_lengths=rollouts.prompt_lengths + 1)
    with torch.no_grad():
        assert not torch.allclose(response_log_probs(policy, late, TEMPERATURE), rollouts.rollout_log_probs, atol=1e-3)


def test_values_are_the_critics_outputs_at_the_position_before_each_token(critic: Any, rollouts: Rollouts) -> None:
    values = response_values(critic, rollouts)
    for row, (ids, prompt, size) in enumerate(each(rollouts)):
        with torch.no_grad():
            outputs = critic(input_ids=ids[None]).logits[0, :, 0]
        before = outputs[prompt - 1 : prompt - 1 + size]
        at_the_token = outputs[prompt : prompt + size]
        assert torch.allclose(values[row, :size], before, atol=1e-6)
        assert not torch.allclose(values[row, :size], at_the_token, atol=1e-3)
    assert not values[~rollouts.mask].any()


def test_entropies_and_sums_of_squares_are_those_of_the_distribution_each_token_was_drawn_from(
    policy: Any, rollouts: Rollouts, tokens: Tokens
) -> None:
    for row, (ids, prompt, size) in enumerate(each(rollouts)):
        with torch.no_grad():
            logits = policy(input_ids=ids[None]).logits[0, prompt - 1 : prompt - 1 + size] / TEMPERATURE
        drawn_from = torch.distributions.Categorical(logits=logits)
        assert torch.allclose(tokens.get("entropies")[row, :size], drawn_from.entropy(), atol=1e-5)
        squares = drawn_from.probs.square().sum(-1)
        assert torch.allclose(tokens.get("sum_pi_squared")[row, :size], squares, atol=1e-6)
        assert torch.allclose(tokens.get("log_probs")[row, :size], drawn_from.log_prob(ids[prompt:]), atol=1e-5)
        assert not torch.allclose(tokens.get("sum_pi_squared")[row, :size], squares + 1e-3, atol=1e-6)


def test_the_reward_is_the_tasks_own_and_sits_at_the_last_token(
    monkeypatch: pytest.MonkeyPatch, policy_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    answers = ["#12", "#21", "12"]

    def answer(model: Any, requests: list, *, eos: list[int], pad: int) -> list[Response]:
        ids = [[*tokenizer.encode(text, add_special_tokens=False), *eos] for text in answers]
        return [Response(row, [-0.5] * len(row)) for row in ids]

    monkeypatch.setattr(module, "decode", answer)
    example = Example(prompt="21", demonstration="", answer="12", size=2)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    drawn = sample_rollouts(model, tokenizer, [example] * 3, 9, 1.0, seed=0)
    assert drawn.rewards.sum(1).tolist() == [1.0, 0.0, 0.0]
    assert torch.equal(drawn.rewards > 0, last_valid(drawn.mask) & torch.tensor([[True], [False], [False]]))
    assert drawn.mask.sum(1).tolist() == [4, 4, 3]
    assert drawn.seeds.tolist() == [0, 1, 2]


def test_some_rows_are_the_same_responses_without_the_padding_of_the_others(policy: Any, rollouts: Rollouts) -> None:
    shortest = rollouts.mask.sum(1).argsort()[:3]
    few = rollouts.rows(shortest)
    assert few.mask.shape[1] == int(few.mask.sum(1).max()) < rollouts.mask.shape[1]
    with torch.no_grad():
        all_of_them = response_log_probs(policy, rollouts, TEMPERATURE)[shortest]
        alone = response_log_probs(policy, few, TEMPERATURE)
    assert torch.allclose(alone, all_of_them[:, : few.mask.shape[1]], atol=1e-6)
    assert [ids.tolist() for ids, _, _ in each(few)] == [each(rollouts)[row][0].tolist() for row in shortest]
