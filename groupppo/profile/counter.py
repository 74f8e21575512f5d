"""Operations and saved bytes of a pass as it runs.

    with count() as counted:
        loss(find("gathered"), model, batch, None).backward()
    counted.flops, counted.saved_bytes

torch's counter has no formula for its flash attention on CPUs nor for products added in place; both are added here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

_ATEN = torch.ops.aten
_FLASH = _ATEN._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass
class Counted:
    """What a pass did.

    Attributes:
        flops: a multiply-add is two; matrix products and attention, the latter over all pairs of queries and keys.
        saved_bytes: the largest size at any moment of what autograd kept for the backward pass, parameters left out.
    """

    flops: int = 0
    saved_bytes: int = 0


@contextmanager
def count() -> Iterator[Counted]:
    """Count what runs inside; the result is complete after the block."""
    counted, saved = Counted(), _Saved()
    counter = FlopCounterMode(display=False, custom_mapping=_mapping())
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack), counter:
        yield counted
    counted.flops, counted.saved_bytes = counter.get_total_flops(), saved.largest


def _mapping() -> dict[Any, Any]:
    return {_FLASH: _flash_flops, _FLASH_BACKWARD: _flash_backward_flops, _ATEN.addmm_: _addmm_flops}


def _addmm_flops(_sum: torch.Size, left: torch.Size, right: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _flash_flops(query: torch.Size, keys: torch.Size, *_: Any, **__: Any) -> int:
    """Two products over (b, h, s_q, s_k, d)."""
    batch, heads, queries, width = query
    return 4 * batch * heads * queries * keys[-2] * width


def _flash_backward_flops(_grad: torch.Size, query: torch.Size, keys: torch.Size, *_: Any, **__: Any) -> int:
    """Five products: the scores again, and the gradients of values, weights, queries and keys."""
    return 5 * _flash_flops(query, keys) // 2


class _Saved:
    """Sizes of the storages that autograd holds, each counted once however often it is saved."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.now = self.largest = 0

    def pack(self, tensor: Tensor) -> "_Held":
        return _Held(tensor, self)

    def unpack(self, held: "_Held") -> Tensor:
        return held.tensor


class _Held:
    """One saved tensor; its storage counts from the first such object to the last."""

    def __init__(self, tensor: Tensor, saved: _Saved):
        self.tensor, self.saved = tensor, saved
        storage = tensor.untyped_storage()
        self.key, self.size = storage._cdata, 0 if _is_parameter(tensor) else storage.nbytes()
        if saved.held.setdefault(self.key, 0) == 0:
            saved.now += self.size
            saved.largest = max(saved.largest, saved.now)
        saved.held[self.key] += 1

    def __del__(self) -> None:
        self.saved.held[self.key] -= 1
        if self.saved.held[self.key] == 0:
            self.saved.now -= self.size


def _is_parameter(tensor: Tensor) -> bool:
    base = tensor._base if tensor._base is not None else tensor
    return base.is_leaf and base.requires_grad
