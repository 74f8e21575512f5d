"""The model and the micro-batch of a measurement: random weights and tokens at a real shape."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from groupppo.update.flops import Shape
from groupppo.update.layout import Layout

CLIP_SAFE = 0.1
"""Nats: old and new log-probabilities differ by at most this much, so that no ratio meets the clip at 0.2."""


@dataclass(frozen=True)
class Batch:
    """One sequence of prompt and response with its endpoints.

    Attributes:
        layout: the sequence, S tokens. rows: (R,) the places that predict the response's tokens.
        endpoints: (K,) numbers of the response's tokens, increasing, the last token among them.
        old_log_probs, advantages: (R,) float32; set `old_log_probs` from a pass of the model before losses are taken.
    """

    layout: Layout
    rows: Tensor
    endpoints: Tensor
    old_log_probs: Tensor
    advantages: Tensor

    @property
    def labels(self) -> Tensor:
        """(R,) the response's tokens."""
        return self.layout.input_ids[self.rows + 1]

    @property
    def endpoint_rows(self) -> Tensor:
        """(K,) the places that predict the endpoints."""
        return self.rows[self.endpoints]

    def with_old(self, log_probs: Tensor, seed: int) -> "Batch":
        """The same batch, its old log-probabilities (R,) up to CLIP_SAFE away from the given ones."""
        generator = torch.Generator().manual_seed(seed)
        noise = (2 * torch.rand(len(log_probs), generator=generator) - 1) * CLIP_SAFE
        old = log_probs.detach().float() + noise.to(log_probs.device)
        return Batch(self.layout, self.rows, self.endpoints, old, self.advantages)


def random_batch(vocabulary: int, prompt: int, response: int, density: Fraction, seed: int, device: str) -> Batch:
    """Random tokens and advantages; every (1/density)-th token of the response and its last one are endpoints."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (prompt + response,), generator=generator)
    stride = density.denominator
    ends = torch.arange(stride - 1, response, stride)
    endpoints = torch.cat([ends, torch.tensor([response - 1])]).unique()
    advantages = torch.randn(response, generator=generator)
    layout = Layout(ids.to(device), torch.tensor([len(ids)], device=device), packed=False)
    rows = torch.arange(prompt - 1, prompt + response - 1, device=device)
    return Batch(layout, rows, endpoints.to(device), torch.zeros(response, device=device), advantages.to(device))


def build_model(family: str, shape: Shape, *, dtype: torch.dtype, checkpointing: bool, seed: int, device: str) -> Any:
    """A Hugging Face causal language model with random weights and gradients of zero, in training mode.

    Gradients are there before the first pass, as in every pass but the first of a training step: they are not part of
    what a pass needs.

    Args:
        family: "qwen2" (biases of queries, keys and values), "qwen3" (norms of queries and keys) or "llama".
        device: "cpu", "cuda", or "meta", where weights have shapes only.
    """
    config = AutoConfig.for_model(
        family,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
        use_cache=False,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()
    if checkpointing:
        # No layer of these models draws random numbers, so their state need not be kept.
        options = {"use_reentrant": False, "preserve_rng_state": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model
