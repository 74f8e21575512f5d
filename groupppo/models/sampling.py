"""Batched sampling from a causal language model, for the short evaluations of a warm start."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    eos_token_id: int,
    pad_token_id: int,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """One response for each prompt, with left padding and a key-value cache.

    Args:
        model: in evaluation mode; its full distribution is sampled (no top-k, no top-p).
        prompts: token ids, of any lengths above 0.
        max_new_tokens: length at which a response is cut.
        temperature: 0 takes the likeliest token.
        eos_token_id: ends a response and is its last token.
        pad_token_id: fills the batch; never seen by attention.
        generator: random state of the sampling; its own device must be the model's.

    Returns:
        Token ids of each response, at most `max_new_tokens` each, in the order of the prompts.
    """
    longest = max(len(prompt) for prompt in prompts)
    device = model.device
    tokens = torch.tensor(
        [[pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device
    )
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache, columns = None, []
    for _ in range(max_new_tokens):
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen = _choose(output.logits[:, -1], temperature, generator).masked_fill(ended, pad_token_id)
        columns.append(torch.where(ended, -1, chosen))
        ended = ended | (chosen == eos_token_id)
        if ended.all():
            break
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        position = position[:, -1:] + 1
    return [[token for token in row if token >= 0] for row in torch.stack(columns, dim=1).tolist()]


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    """Next token of each row of logits (batch, vocabulary); shape (batch,)."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
