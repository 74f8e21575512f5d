"""Batched sampling from a causal language model, with a KV cache and a seed per response; what ends a response."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """One response to sample. `temperature` 0 is greedy; `seed` fixes the draws of this request alone."""

    prompt_ids: list[int]
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Response:
    """Sampled ids, the end token included, and their log-probabilities at the request's temperature."""

    token_ids: list[int]
    log_probs: list[float]


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a response, as in vLLM: the tokenizer's end token and those of `generation_config.json`."""
    published = model.generation_config.eos_token_id
    published = published if isinstance(published, list) else [published]
    return sorted({tokenizer.eos_token_id, *published} - {None})


def decode_as_trained(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Take from the model's generation config all but the ids of its end and padding.

    verl asks its rollouts for the plain distribution. A published repetition penalty, beam, smallest length or list of
    forbidden words would act on `generate`, and so on evaluation, alone.
    """
    model.generation_config = GenerationConfig(
        eos_token_id=end_tokens(model, tokenizer), pad_token_id=tokenizer.pad_token_id
    )


@torch.no_grad()
def decode(model: Any, requests: Sequence[Request], *, eos: Collection[int], pad: int) -> list[Response]:
    """Decode all requests as one left-padded batch; each response ends at one of `eos` or after `max_tokens`.

    Each request draws its uniform numbers from a generator seeded by `request.seed`, so a response depends on its
    batch only through rounding.

    Args:
        model: a Hugging Face causal language model on the CPU, in evaluation mode.
        requests: what to sample, of any prompt lengths above 0.
        eos: ids that end a response; one of them is its last token.
        pad: id that fills the batch, never attended to.
    """
    batch, longest = len(requests), max(len(request.prompt_ids) for request in requests)
    length = max(request.max_tokens for request in requests)
    ids = torch.full((batch, longest), pad)
    attention = torch.zeros(batch, longest + length, dtype=torch.long)
    for row, request in enumerate(requests):
        ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        attention[row, longest - len(request.prompt_ids) :] = 1
    seeded = [torch.Generator().manual_seed(request.seed) for request in requests]
    uniform = torch.stack([torch.rand(length, generator=generator) for generator in seeded])
    temperature = torch.tensor([request.temperature for request in requests])
    limit = torch.tensor([request.max_tokens for request in requests])
    position = (attention[:, :longest].cumsum(1) - 1).clamp(min=0)
    tokens = torch.full((batch, length), pad)
    log_probs = torch.zeros(batch, length)
    done = torch.zeros(batch, dtype=torch.bool)
    ends = torch.tensor(sorted(eos))
    cache, inputs = None, ids
    for t in range(length):
        output = model(
            input_ids=inputs,
            attention_mask=attention[:, : longest + t],
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen, log_prob = _choose(output.logits[:, -1].float(), temperature, uniform[:, t])
        tokens[:, t] = torch.where(done, pad, chosen)
        log_probs[:, t] = torch.where(done, 0.0, log_prob)
        done = done | torch.isin(chosen, ends) | (limit <= t + 1)
        if done.all():
            break
        inputs, position = tokens[:, t : t + 1], position[:, -1:] + 1
    return [_cut(tokens[row], log_probs[row], ends, request.max_tokens) for row, request in enumerate(requests)]


def _choose(logits: Tensor, temperature: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sample per row, or the likeliest token where the temperature is 0; (B, V) -> (B,), (B,)."""
    greedy = temperature == 0
    log_prob = torch.log_softmax(logits / torch.where(greedy, 1.0, temperature).unsqueeze(1), dim=1)
    cumulative = log_prob.double().exp().cumsum(dim=1)
    target = uniform.double().unsqueeze(1) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
    chosen = torch.where(greedy, logits.argmax(dim=1), drawn)
    return chosen, log_prob.gather(1, chosen.unsqueeze(1)).squeeze(1)


def _cut(tokens: Tensor, log_probs: Tensor, ends: Tensor, max_tokens: int) -> Response:
    ended = torch.isin(tokens[:max_tokens], ends).nonzero()
    stop = int(ended[0]) + 1 if len(ended) else max_tokens
    return Response(tokens[:stop].tolist(), log_probs[:stop].tolist())
