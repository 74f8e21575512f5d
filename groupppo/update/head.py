"""Log-probability and entropy of chosen tokens from hidden rows, without ever holding all logits."""

from contextlib import AbstractContextManager, nullcontext
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
        chunk_bytes: largest logits of one chunk, in float32 bytes.
        keep_bytes: largest logits kept in all, in the weight's type.

    Returns:
        log-probabilities and entropies, (K,) each, float32 or float64 as the hidden rows allow.
    """
    scale = torch.as_tensor(temperature, dtype=_wide(hidden.dtype), device=hidden.device).expand(len(hidden))
    rows = max(1, chunk_bytes // (4 * weight.shape[0]))
    with _in_own_types(hidden):
        log_probs, entropies = _HeadLogProbs.apply(hidden, weight, labels, scale, rows, keep_bytes)
    return log_probs, entropies


class _HeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, scale: Tensor, rows: int, keep_bytes: int
    ) -> tuple[Tensor, Tensor]:
        log_probs, entropies, kept = [], [], []
        for chunk in _chunks(len(hidden), rows):
            logits = _logits(hidden[chunk], weight)
            keep_bytes -= logits.nbytes
            if keep_bytes >= 0 and (hidden.requires_grad or weight.requires_grad):
                kept.append(logits)
            scaled = _scaled(logits, scale[chunk])
            del logits
            log_pi = torch.log_softmax(scaled, dim=1)
            del scaled
            log_probs.append(log_pi.gather(1, labels[chunk, None]).squeeze(1))
            entropies.append(-_dot(log_pi.exp(), log_pi))
            del log_pi
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, labels, scale, *kept)
        ctx.leaf = weight if weight.is_leaf else None
        ctx.rows = rows
        empty = hidden.new_zeros(0, dtype=_wide(hidden.dtype))
        return torch.cat([empty, *log_probs]), torch.cat([empty, *entropies])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with _in_own_types(ctx.saved_tensors[0]):
            return *_HeadLogProbs.gradients(ctx, *grads), None, None, None, None

    @staticmethod
    def gradients(
        ctx: Any, grad_log_probs: Tensor | None, grad_entropies: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        hidden, weight, labels, scale, *kept = ctx.saved_tensors
        if grad_log_probs is None:
            grad_log_probs = torch.zeros_like(scale)
        grad_hidden = torch.empty_like(hidden)
        leaf = ctx.leaf if ctx.needs_input_grad[1] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight) if leaf is None or leaf.grad is None else leaf.grad
        for number, chunk in enumerate(_chunks(len(hidden), ctx.rows)):
            logits = kept[number] if number < len(kept) else _logits(hidden[chunk], weight)
            scaled = _scaled(logits, scale[chunk])
            del logits
            upstream = grad_log_probs[chunk, None]
            grad = _through_softmax(scaled, upstream, None if grad_entropies is None else grad_entropies[chunk, None])
            del scaled
            grad = grad.scatter_add_(1, labels[chunk, None], upstream).div_(scale[chunk, None]).to(weight.dtype)
            grad_hidden[chunk] = (grad @ weight).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad.t(), hidden[chunk].to(weight.dtype))
            del grad
        if leaf is not None:
            leaf.grad = grad_weight
            grad_weight = None
        return grad_hidden, grad_weight


# Logits are by far the largest tensors of an update, so they are kept in the narrow type and freed as soon as may be.
def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """(c, V) in the weight's type."""
    return functional.linear(hidden.to(weight.dtype), weight)


def _scaled(logits: Tensor, scale: Tensor) -> Tensor:
    """(c, V) in the wide type, divided by the temperature; the logits stay as they are."""
    return logits.to(_wide(logits.dtype), copy=True).div_(scale[:, None])


def _through_softmax(scaled: Tensor, grad_log_probs: Tensor, grad_entropies: Tensor | None) -> Tensor:
    """(c, V) gradient at the scaled logits, but for the label's own share, which is grad_log_probs.

    d log pi(y) / dz = 1_y - pi and dH / dz = -pi (log pi + H).
    """
    if grad_entropies is None:
        return torch.softmax(scaled, dim=1).mul_(-grad_log_probs)
    log_pi = torch.log_softmax(scaled, dim=1)
    pi = log_pi.exp()
    entropies = -_dot(pi, log_pi)[:, None]
    return pi.mul_(log_pi.add_(entropies).mul_(grad_entropies).add_(grad_log_probs)).neg_()


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """(c, V), (c, V) -> (c,) without the product in between."""
    return torch.bmm(left[:, None], right[:, :, None]).flatten()


def _in_own_types(tensor: Tensor) -> AbstractContextManager[Any]:
    """Without autocast, which narrows every product, the entropies' too, whatever types the caller chose."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _chunks(length: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]


class _EagerEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.leaf, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        if ctx.padding is not None:
            grad = torch.where((ids == ctx.padding)[..., None], 0.0, grad)
        if ctx.leaf.grad is None:
            ctx.leaf.grad = torch.zeros_like(ctx.leaf)
        ctx.leaf.grad.index_add_(0, ids.flatten(), grad.flatten(0, -2).to(ctx.leaf.dtype))
        return None, None, None


def eager_embedding(weight: Tensor, ids: Tensor, padding: int | None = None) -> Tensor:
    """Embed ids, (...) -> (..., H); the gradient goes to the rows of `weight.grad`, without a dense copy of its own.

    Args:
        weight: (V, H). ids: int64. padding: an id whose row gets no gradient, as `torch.nn.Embedding` has it.
    """
    if not (weight.is_leaf and weight.requires_grad and torch.is_grad_enabled()):
        return functional.embedding(ids, weight)
    return _EagerEmbedding.apply(weight, ids, padding)
