"""Responses sampled from a trained policy, and what a trainer would know about each of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from groupppo.algorithm import Tokens, last_valid
from groupppo.algorithm.estimators import gae
from groupppo.models.sampling import Request, decode, end_tokens
from groupppo.tasks.base import Example
from groupppo.tasks.reward import score
from groupppo.tasks.tokenizer import chat_ids


@dataclass(frozen=True)
class Rollouts:
    """B responses of at most T tokens, each behind its prompt in a row of L ids.

    Attributes:
        ids: (B, L) int64, prompt then response, padded on the right, where causal attention never looks back at it.
        prompt_lengths: (B,) int64.
        mask: (B, T) bool, the response's tokens, its end token included.
        rewards: (B, T) float32, the task's 0/1 reward at the last token, zero elsewhere.
        rollout_log_probs: (B, T) float32, as the sampler computed them.
        seeds: (B,) int64, the seed that each response was drawn with.
    """

    ids: Tensor
    prompt_lengths: Tensor
    mask: Tensor
    rewards: Tensor
    rollout_log_probs: Tensor
    seeds: Tensor

    @property
    def states(self) -> Tensor:
        """(B, T) int64: where in a row a model's output belongs to the state BEFORE each response token."""
        before = self.prompt_lengths[:, None] - 1 + torch.arange(self.mask.shape[1])
        return before.clamp(max=self.ids.shape[1] - 1)

    def rows(self, chosen: slice | Tensor) -> "Rollouts":
        """Some of the responses, without the padding that only the others needed."""
        parts = {field.name: getattr(self, field.name)[chosen] for field in fields(self)}
        kept = parts["mask"].sum(1)
        parts["ids"] = parts["ids"][:, : int((parts["prompt_lengths"] + kept).max())]
        for name in ("mask", "rewards", "rollout_log_probs"):
            parts[name] = parts[name][:, : int(kept.max())]
        return Rollouts(**parts)


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: this many for each prompt, of at most `max_tokens`, at this temperature (above 0)."""

    responses_per_prompt: int
    max_tokens: int
    temperature: float


def sample_rollouts(
    model: Any, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], sampling: Sampling, seed: int
) -> Rollouts:
    """Draw responses to every example and score them with the task's own reward.

    Args:
        model: a Hugging Face causal language model on the CPU, in evaluation mode, of any dtype.
        tokenizer: with chat template, end and pad token. examples: the prompts, each with its answer.
        seed: response i is drawn with seed + i.
    """
    prompts = [(chat_ids(tokenizer, example.prompt), example) for example in examples]
    asked = [pair for pair in prompts for _ in range(sampling.responses_per_prompt)]
    requests = [
        Request(ids, sampling.max_tokens, sampling.temperature, seed + number) for number, (ids, _) in enumerate(asked)
    ]
    responses = decode(model, requests, eos=end_tokens(model, tokenizer), pad=tokenizer.pad_token_id)
    texts = tokenizer.batch_decode([response.token_ids for response in responses], skip_special_tokens=True)
    lengths = torch.tensor([len(response.token_ids) for response in responses])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    scores = torch.tensor([score(text, example.answer) for text, (_, example) in zip(texts, asked, strict=True)])
    return Rollouts(
        ids=_padded(
            [prompt + response.token_ids for (prompt, _), response in zip(asked, responses, strict=True)],
            tokenizer.pad_token_id,
        ),
        prompt_lengths=torch.tensor([len(prompt) for prompt, _ in asked]),
        mask=mask,
        rewards=torch.where(last_valid(mask), scores[:, None].float(), 0.0),
        rollout_log_probs=_padded([response.log_probs for response in responses], 0.0),
        seeds=torch.tensor([request.seed for request in requests]),
    )


def response_log_probs(model: Any, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probability of every response token, as a trainer computes it: one forward pass, without cache.

    Returns:
        (B, T) in the model's dtype, zero outside the mask; differentiable in the model's parameters.
    """
    chosen = _chosen(_log_softmax(model, rollouts, temperature), rollouts)
    return torch.where(rollouts.mask, chosen, 0.0)


@torch.no_grad()
def trainer_tokens(
    policy: Any, critic: Any, rollouts: Rollouts, *, temperature: float, gamma: float, lam: float
) -> Tokens:
    """Everything a grouping rule may look at, (B, T) float32 each.

    Args:
        policy: the causal language model to be trained, float32.
        critic: token classifier with one label. V_t is its output at the position before token t.
        temperature: of the sampling. gamma, lam: discount and lambda of the dense advantages.
    """
    log_softmax = _log_softmax(policy, rollouts, temperature)
    probabilities = log_softmax.exp()
    values = response_values(critic, rollouts)
    mask = rollouts.mask
    return Tokens(
        mask,
        advantages=gae(rollouts.rewards, values, mask, gamma, lam),
        rewards=rollouts.rewards,
        values=values,
        log_probs=torch.where(mask, _chosen(log_softmax, rollouts), 0.0),
        rollout_log_probs=rollouts.rollout_log_probs,
        entropies=torch.where(mask, -(probabilities * log_softmax).sum(-1), 0.0),
        sum_pi_squared=torch.where(mask, probabilities.square().sum(-1), 0.0),
        seeds=rollouts.seeds,
    )


@torch.no_grad()
def response_values(critic: Any, rollouts: Rollouts) -> Tensor:
    """V_t of every response token, (B, T), zero outside the mask."""
    outputs = critic(input_ids=rollouts.ids).logits[..., 0]
    return torch.where(rollouts.mask, outputs.gather(1, rollouts.states), 0.0)


def _log_softmax(model: Any, rollouts: Rollouts, temperature: float) -> Tensor:
    """(B, T, V) log-probabilities of the next token in the state before each response token."""
    logits = model(input_ids=rollouts.ids, use_cache=False).logits
    rows = torch.arange(len(logits))[:, None]
    return torch.log_softmax(logits[rows, rollouts.states] / temperature, dim=-1)


def _chosen(log_softmax: Tensor, rollouts: Rollouts) -> Tensor:
    after = (rollouts.states + 1).clamp(max=rollouts.ids.shape[1] - 1)
    return log_softmax.gather(2, rollouts.ids.gather(1, after)[..., None]).squeeze(2)


def _padded(rows: Sequence[Sequence[float]], fill: float) -> Tensor:
    filled = torch.full((len(rows), max(map(len, rows))), fill)
    for line, row in enumerate(rows):
        filled[line, : len(row)] = torch.tensor(row, dtype=filled.dtype)
    return filled
