"""A stand-in for flash-attn 2.8.3 on a CPU: what verl and transformers import of it, in plain torch.

`install` puts it into the process that calls it, and nowhere else; call it before verl is imported. As the kernels do,
attention refuses what is not in half precision, offsets that are not int32 or do not end with the stream, and a largest
length that is not the largest. It counts its calls, so that a test can say that it was used.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

HALF = (torch.float16, torch.bfloat16)
calls = {"attention": 0, "cross_entropy": 0}
_wide = False


def allow_float32(allowed: bool) -> None:
    """Whether attention takes float32, too, in which rounding hides no mistake."""
    global _wide
    _wide = allowed


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """Attention within each row of a batch, (B, S, heads, head dim)."""
    length = q.shape[1]
    offsets = torch.arange(0, len(q) * length + 1, length, dtype=torch.int32)
    flat = (part.flatten(0, 1) for part in (q, k, v))
    rest = dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes
    return flash_attn_varlen_func(*flat, offsets, offsets, length, length, *rest).view_as(q)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    """Attention within each sequence of a packed stream, (N, heads, head dim); sequences end at `cu_seqlens`."""
    given = dropout_p, window_size, softcap, alibi_slopes, return_attn_probs, block_table
    assert given == (0.0, (-1, -1), 0.0, None, False, None), f"not in the stand-in: {given}"
    for part, offsets, longest in ((q, cu_seqlens_q, max_seqlen_q), (k, cu_seqlens_k, max_seqlen_k)):
        if not (part.dtype in HALF or _wide):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        assert offsets.dtype == torch.int32
        assert int(offsets[-1]) == len(part)
        assert int(longest) == int(offsets.diff().max())
    assert q.dtype == k.dtype == v.dtype
    assert torch.equal(cu_seqlens_q, cu_seqlens_k), "not in the stand-in: queries and keys of other lengths"
    calls["attention"] += 1
    lengths = cu_seqlens_q.diff().tolist()
    sequences = zip(*(part.split(lengths) for part in (q, k, v)), strict=True)
    return torch.cat([_attention(*sequence, scale=softmax_scale, causal=causal) for sequence in sequences])


def _attention(query: Tensor, keys: Tensor, values: Tensor, *, scale: float | None, causal: bool) -> Tensor:
    heads = (part.transpose(0, 1)[None] for part in (query, keys, values))
    grouped = query.shape[1] != keys.shape[1]
    attended = functional.scaled_dot_product_attention(*heads, is_causal=causal, scale=scale, enable_gqa=grouped)
    return attended[0].transpose(0, 1)


def cross_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    precomputed_lse: Tensor | None = None,
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    lse_square_scale: float = 0.0,
    ignore_index: int = -100,
    inplace_backward: bool = False,
    process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """-log pi of the labels, (N,), in float32, and the share of `lse_square_scale` in it, which is none."""
    given = precomputed_lse, label_smoothing, logit_scale, lse_square_scale, process_group
    assert given == (None, 0.0, 1.0, 0.0, None), f"not in the stand-in: {given}"
    calls["cross_entropy"] += 1
    loss = functional.cross_entropy(logits.float(), labels, reduction="none")
    return loss, torch.zeros_like(loss)


def index_first_axis(values: Tensor, indices: Tensor) -> Tensor:
    return values[indices]


def unpad_input(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """The tokens of (B, S, ...) that a mask keeps, their places, the offsets of the rows, and the longest row."""
    lengths = mask.sum(-1, dtype=torch.int32)
    places = mask.flatten().nonzero().flatten()
    offsets = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden.flatten(0, 1)[places], places, offsets, int(lengths.max()), lengths


def pad_input(hidden: Tensor, places: Tensor, batch: int, length: int) -> Tensor:
    """The inverse: zeros where no token is."""
    padded = hidden.new_zeros((batch * length, *hidden.shape[1:]))
    return padded.index_put((places,), hidden).unflatten(0, (batch, length))


def install() -> None:
    from einops import rearrange

    modules = {
        "flash_attn": (flash_attn_func, flash_attn_varlen_func),
        "flash_attn.bert_padding": (index_first_axis, pad_input, unpad_input, rearrange),
        "flash_attn.ops": (),
        "flash_attn.ops.triton": (),
        "flash_attn.ops.triton.cross_entropy": (cross_entropy_loss,),
    }
    for name, functions in modules.items():
        module = sys.modules[name] = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
        vars(module).update({function.__name__: function for function in functions})
    sys.modules["flash_attn"].flash_attn_with_kvcache = None  # type: ignore[attr-defined]  of generation alone
    _persuade_transformers()


def _persuade_transformers() -> None:
    """transformers takes flash attention only where there is a GPU, and asks pip for its version."""
    import transformers.utils as utils

    for module in (utils, utils.import_utils):
        module.is_flash_attn_2_available = lambda: True
        module.is_flash_attn_4_available = lambda: False  # which has the same name
        module.is_flash_attn_greater_or_equal = lambda version: True
    from transformers import PreTrainedModel

    PreTrainedModel._flash_attn_can_dispatch = lambda self, *_, **__: True
