"""Micro models of the three families in float64, and a batch with irregular endpoints."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from groupppo.update.layout import Layout

VOCABULARY = 97
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "attn_implementation": "sdpa",
    "pad_token_id": 3,  # also an ordinary token of the batch: Hugging Face gives its embedding no gradient
}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def norm_in_own_type(norm: Any, hidden: Tensor) -> Tensor:
    """Hugging Face computes norms in float32 whatever the model's type, which would round float64 away."""
    return norm.weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon))


def critic() -> Any:
    """A token classifier with the body of `micro` and one label."""
    policy = micro("qwen2")
    torch.manual_seed(3)
    policy.config.num_labels = 1
    model = Qwen2ForTokenClassification(policy.config).double().eval()
    model.model.load_state_dict(policy.model.state_dict())
    _mend_norms(model)
    return model


def _mend_norms(model: Any) -> None:
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = norm_in_own_type.__get__(module)


def micro(family: str, *, tied: bool = True, checkpointing: bool = False, dtype: torch.dtype = torch.float64) -> Any:
    config, model_class = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config(**_SIZES, tie_word_embeddings=tied)).to(dtype).train()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at 0 and 1, where errors could hide
            parameter.add_(0.05 * torch.randn_like(parameter))
    if dtype == torch.float64:
        _mend_norms(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


@dataclass(frozen=True)
class Batch:
    """Three sequences, and what is asked at their endpoints: sum of weights * log pi + entropy weights * entropy."""

    layout: Layout
    rows: Tensor
    weights: Tensor
    entropy_weights: Tensor
    temperature: float = 0.7

    @property
    def labels(self) -> Tensor:
        return self.layout.input_ids[self.rows + 1]

    def loss(self, log_probs: Tensor, entropies: Tensor) -> Tensor:
        return (self.weights * log_probs).sum() + (self.entropy_weights * entropies).sum()

    def one_row_later(self) -> "Batch":
        """The same question asked one token too late."""
        return Batch(self.layout, self.rows + 1, self.weights, self.entropy_weights, self.temperature)


def make_batch(density: str, *, packed: bool = False, lengths: tuple[int, ...] = (41, 19, 38)) -> Batch:
    """Responses follow prompts of 4 tokens; `density` is "1/16", "1/5", "irregular" or "singleton"."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor(lengths)
    ids = torch.randint(0, VOCABULARY, (int(sizes.sum()),), generator=generator)
    rows = []
    for start, length in zip((sizes.cumsum(0) - sizes).tolist(), lengths, strict=True):
        response = torch.arange(start + 3, start + length - 1)
        if density == "irregular":  # the last tokens of a response may be masked, so that a sequence can be cut
            chosen = response[torch.rand(len(response), generator=generator) < 0.3]
            rows.append(chosen if len(chosen) else response[:1])
        else:
            step = {"1/16": 16, "1/5": 5, "singleton": 1}[density]
            rows.append(torch.cat([response[step - 1 :: step], response[-1:]]).unique())
    places = torch.cat(rows)
    weights, entropy_weights = torch.randn(2, len(places), generator=generator, dtype=torch.float64)
    return Batch(Layout(ids, sizes, packed), places, weights, entropy_weights)


def dense(model: Any, batch: Batch) -> Tensor:
    """The loss from Hugging Face's own forward pass, sequence by sequence, with all logits."""
    log_probs, entropies = [], []
    for sequence, start in enumerate(batch.layout.starts.tolist()):
        length = int(batch.layout.lengths[sequence])
        logits = model(input_ids=batch.layout.input_ids[None, start : start + length]).logits[0]
        log_pi = torch.log_softmax(logits / batch.temperature, dim=-1)
        inside = (batch.rows >= start) & (batch.rows < start + length)
        rows = batch.rows[inside] - start
        log_probs.append(log_pi[rows, batch.labels[inside]])
        entropies.append(-(log_pi[rows].exp() * log_pi[rows]).sum(-1))
    return batch.loss(torch.cat(log_probs), torch.cat(entropies))


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of every parameter, from a clean start."""
    model.zero_grad()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative error of a parameter's gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


def flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([found[name].flatten() for name in sorted(found)])
