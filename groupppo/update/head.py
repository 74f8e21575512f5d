"""Log-probability and entropy of chosen tokens from hidden rows, without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_BYTES = 64 * 2**20
KEEP_BYTES = 128 * 2**20


def head_log_probs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: Tensor | float = 1.0,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    keep_bytes: int = KEEP_BYTES,
) -> tuple[Tensor, Tensor]:
    """Log-probability of one label per row, and entropy of the row's distribution, in nats.

    The head runs over chunks of rows. The first chunks keep their logits for the backward pass, up to `keep_bytes`; the
    others compute them again there. Where the weight is a leaf its gradient is added to `weight.grad` chunk by chunk:
    with tied embeddings autograd would hold a second copy of it through the whole backward pass.

    Args:
        hidden: (K, H). weight: (V, H), no bias. labels: (K,) int64.
        temperature: scalar or (K,); logits are divided by it.
        chunk_bytes: largest logits of one chunk, in float32 bytes. keep_bytes: largest logits kept in all.

    Returns:
        log-probabilities and entropies, (K,) each, float32 or float64 as the hidden rows allow.
    """
    scale = torch.as_tensor(temperature, dtype=_wide(hidden.dtype), device=hidden.device).expand(len(hidden))
    rows = max(1, chunk_bytes // (4 * weight.shape[0]))
    log_probs, entropies = _HeadLogProbs.apply(hidden, weight, labels, scale, rows, keep_bytes)
    return log_probs, entropies


class _HeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, scale: Tensor, rows: int, keep_bytes: int
    ) -> tuple[Tensor, Tensor]:
        log_probs, entropies, kept = [], [], []
        for chunk in _chunks(len(hidden), rows):
            log_pi = _log_pi(hidden[chunk], weight, scale[chunk])
            log_probs.append(log_pi.gather(1, labels[chunk, None]).squeeze(1))
            entropies.append(-(log_pi.exp() * log_pi).sum(dim=1))
            keep_bytes -= log_pi.nbytes
            if keep_bytes >= 0 and (hidden.requires_grad or weight.requires_grad):
                kept.append(log_pi)
        ctx.save_for_backward(hidden, weight, labels, scale, *kept)
        ctx.leaf = weight if weight.is_leaf else None
        ctx.rows = rows
        empty = hidden.new_zeros(0, dtype=_wide(hidden.dtype))
        return torch.cat([empty, *log_probs]), torch.cat([empty, *entropies])

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, scale, *kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        leaf = ctx.leaf if ctx.needs_input_grad[1] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight) if leaf is None or leaf.grad is None else leaf.grad
        for number, chunk in enumerate(_chunks(len(hidden), ctx.rows)):
            log_pi = kept[number] if number < len(kept) else _log_pi(hidden[chunk], weight, scale[chunk])
            pi = log_pi.exp()
            entropy = -(pi * log_pi).sum(dim=1, keepdim=True)
            # d log pi(y) / dz = 1_y - pi and dH / dz = -pi (log pi + H), both divided by the temperature.
            grad = -pi * (grad_log_probs[chunk, None] + grad_entropies[chunk, None] * (log_pi + entropy))
            grad.scatter_add_(1, labels[chunk, None], grad_log_probs[chunk, None].to(grad.dtype))
            grad = grad.div_(scale[chunk, None]).to(weight.dtype)
            grad_hidden[chunk] = (grad @ weight).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad.t(), hidden[chunk].to(weight.dtype))
        if leaf is not None:
            leaf.grad = grad_weight
            grad_weight = None
        return grad_hidden, grad_weight, None, None, None, None


def _log_pi(hidden: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(c, V) log-probabilities in the wide type; autocast would undo the caller's choice of types."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden.to(weight.dtype), weight)
        return torch.log_softmax(logits.to(_wide(logits.dtype)).div_(scale[:, None]), dim=1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _chunks(length: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]


class _EagerEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.leaf = weight
        ctx.save_for_backward(ids)
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        (ids,) = ctx.saved_tensors
        if ctx.leaf.grad is None:
            ctx.leaf.grad = torch.zeros_like(ctx.leaf)
        ctx.leaf.grad.index_add_(0, ids.flatten(), grad.flatten(0, -2).to(ctx.leaf.dtype))
        return None, None


def eager_embedding(weight: Tensor, ids: Tensor) -> Tensor:
    """Embed ids, (...) -> (..., H); the gradient goes to the rows of `weight.grad`, without a dense copy of its own."""
    if not (weight.is_leaf and weight.requires_grad and torch.is_grad_enabled()):
        return functional.embedding(ids, weight)
    return _EagerEmbedding.apply(weight, ids)
