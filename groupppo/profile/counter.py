"""Operations and saved bytes of a pass as it runs, on real tensors or on the meta device, which needs no memory.

    with count(on_meta=True) as counted:
        loss(find("gathered"), model, batch, None).backward()
    counted.flops, counted.saved_bytes

torch's counter has no formula for its flash attention on CPUs nor for products added in place, and on the meta device
attention falls apart into products whose backward pass has 4 of them instead of 5. All three are mended here, so that
one count holds for every device.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
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
def count(*, on_meta: bool = False) -> Iterator[Counted]:
    """Count what runs inside; the result is complete after the block.

    Args:
        on_meta: the model is on the meta device; ids, places and masks stay on the CPU, where their values are needed.
    """
    counted, saved = Counted(), _Saved()
    counter = FlopCounterMode(display=False, custom_mapping=_mapping())
    with ExitStack() as stack:
        if on_meta:
            stack.enter_context(_flash_on_meta())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack))
        stack.enter_context(counter)
        if on_meta:
            stack.enter_context(_MetaLikeCPU())
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


@contextmanager
def _flash_on_meta() -> Iterator[None]:
    """On the meta device, attention by the operator that a CPU would choose.

    The function is replaced and not overridden by a mode, for modes are off while a backward pass runs layers again.
    """
    stock = functional.scaled_dot_product_attention

    def chosen(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (_flash if query.is_meta else stock)(query, *args, **kwargs)

    functional.scaled_dot_product_attention = chosen
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = stock


def _flash(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    # The operator takes fewer heads of keys than of queries as they are, so enable_gqa changes nothing.
    output: Tensor = _FLASH(query, keys, values, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return output


class _MetaLikeCPU(TorchDispatchMode):
    """Moves the CPU's tensors to the meta device where an operator mixes them; masks as indices, for their length."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is _FLASH:
            # The CPU's output lies by tokens, the meta device's by heads, which would cost a copy.
            _, normalizer = func(*args, **kwargs)
            output = torch.empty_permuted(args[0].shape, (0, 2, 1, 3), dtype=args[0].dtype, device="meta")
            return output, normalizer
        tensors: list[Tensor] = []
        tree_map_only(Tensor, tensors.append, (args, kwargs))
        if len({tensor.device.type for tensor in tensors}) < 2:
            return func(*args, **kwargs)
        if func.overloadpacket in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._unsafe_index):
            args = (args[0], [part for index in args[1] for part in _as_indices(index)], *args[2:])
        return func(*tree_map_only(Tensor, _to_meta, args), **tree_map_only(Tensor, _to_meta, kwargs))


def _as_indices(index: Tensor | None) -> tuple[Tensor | None, ...]:
    if index is not None and index.dtype == torch.bool and not index.is_meta:
        return index.nonzero(as_tuple=True)
    return (index,)


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")
