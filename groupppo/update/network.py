"""Running a decoder so that only chosen rows leave it: the exact passes, full and gathered.

The functions here run as the model's own forward (`run_inside`), layer by layer through `layer(...)`: the hooks of
FSDP, which fetch the weights, and gradient checkpointing, which runs a layer again, see ordinary calls.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from groupppo.update.head import eager_embedding
from groupppo.update.layers import KeysValues, check_architecture, keys_values, layer_at_rows
from groupppo.update.layout import Layout, Rows


def install(model: Any) -> None:
    """Teach a model and its layers the keyword `instead`, a function called in place of their forward; once per model.

    Raises:
        BadInput: its layers are not laid out like those of Qwen2, Qwen3 and Llama.
    """
    if getattr(model, "takes_instead", False):
        return
    check_architecture(model)
    for module in (model, *base_of(model).layers, *_head(model)):
        module.stock_forward = module.forward
        # A bound method, so that a copy of the model runs the copy's weights.
        module.forward = MethodType(_forward, module)
    model.takes_instead = True


def _forward(module: Any, *args: Any, instead: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    return module.stock_forward(*args, **kwargs) if instead is None else instead(module, *args, **kwargs)


def run_inside(model: Any, function: Callable[[Any], Any]) -> Any:
    """`function(model)`, run as the model's forward pass."""
    install(model)
    return model(instead=function)


def base_of(model: Any) -> Any:
    return getattr(model, model.base_model_prefix)


def _head(model: Any) -> list[Any]:
    return [model.lm_head] if hasattr(model, "lm_head") else []


class Collector:
    """Stands in for a cache of keys and values: keeps each layer's, (N, kv heads, head dim), and changes nothing."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.layers: list[KeysValues] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.layers.append((self._flat(keys), self._flat(values)))
        return keys, values

    def _flat(self, heads: Tensor) -> Tensor:
        return _flat(heads.detach().transpose(1, 2), self.layout)


def hidden_at_rows(model: Any, layout: Layout, rows: Tensor, *, cut: bool = True, last_layer: bool = True) -> Tensor:
    """Final hidden states at K rows, (K, H), exact.

    Args:
        model: a causal language model or token classifier; call through `run_inside`.
        layout: the batch. rows: (K,) increasing places in its stream.
        cut: drop what lies behind each sequence's last row.
        last_layer: run the last layer's queries, output projection and MLP at the rows only.
    """
    if cut:
        layout, rows = layout.cut(rows)
    base, (hidden, mask, positions, rotation) = base_of(model), _embed(model, layout)
    layers = base.layers[:-1] if last_layer else base.layers
    for layer in layers:
        hidden = layer(
            hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotation, use_cache=False
        )
    flat = _flat(hidden, layout)
    if not last_layer:
        return base.norm(flat[rows])
    turn = (_flat(rotation[0], layout), _flat(rotation[1], layout))
    index = Rows.of(layout, rows)
    at_rows = base.layers[-1](flat, instead=partial(_last_layer, rotation=turn, places=rows, rows=index))
    return base.norm(at_rows)


def _last_layer(layer: Any, hidden: Tensor, *, rotation: tuple[Tensor, Tensor], places: Tensor, rows: Rows) -> Tensor:
    return layer_at_rows(layer, hidden, rotation, places, rows)


def collect(model: Any, layout: Layout, *, output: bool = False) -> tuple[Tensor | None, list[KeysValues]]:
    """Keys and values of every layer for the whole stream, without gradients; call through `run_inside`.

    Args:
        output: also return the final hidden states, (N, H); without them the last layer stops at its keys and values.
    """
    base, collector = base_of(model), Collector(layout)
    with torch.no_grad():
        hidden, mask, positions, rotation = _embed(model, layout)
        for layer in base.layers:
            stop = layer is base.layers[-1] and not output
            instead = partial(_keys_values_only if stop else _collecting, collector=collector)
            hidden = layer(
                hidden, instead=instead, attention_mask=mask, position_ids=positions, position_embeddings=rotation
            )
        return (base.norm(_flat(hidden, layout)) if output else None), collector.layers


def _collecting(layer: Any, hidden: Tensor, *, collector: Collector, **kwargs: Any) -> Tensor:
    # Checkpointing takes a cache away from a layer in training; from inside the layer's call it cannot.
    return layer.stock_forward(hidden, past_key_values=collector, use_cache=True, **kwargs)


def _keys_values_only(
    layer: Any, hidden: Tensor, *, collector: Collector, position_embeddings: tuple[Tensor, Tensor], **_: Any
) -> Tensor:
    layout = collector.layout
    rotation = (_flat(position_embeddings[0], layout), _flat(position_embeddings[1], layout))
    collector.layers.append(keys_values(layer.self_attn, layer.input_layernorm(_flat(hidden, layout)), rotation))
    return hidden


def embed(model: Any, ids: Tensor) -> Tensor:
    """Embeddings of ids, (...) -> (..., H)."""
    table = base_of(model).embed_tokens
    tied = any(head.weight is table.weight for head in _head(model))
    return eager_embedding(table.weight, ids, table.padding_idx) if tied else table(ids)


def _embed(model: Any, layout: Layout) -> tuple[Tensor, Any, Tensor, tuple[Tensor, Tensor]]:
    """Embedded input, attention mask, position ids and rotation, as the layers take them."""
    base = base_of(model)
    ids, positions = layout.network_input()
    hidden = embed(model, ids)
    # Rows padded on the right need no mask: a causal query never sees what is behind it.
    mask: Any = None
    if layout.packed and not str(base.config._attn_implementation).startswith("flash"):
        mask = create_causal_mask(base.config, hidden, None, past_key_values=None, position_ids=positions)
    return hidden, mask, positions, base.rotary_emb(hidden, positions)


def _flat(values: Tensor, layout: Layout) -> Tensor:
    """(B, S, ...) or (1, N, ...) of the network -> (N, ...) of the stream; the rotation may have one row for all."""
    rows = 1 if layout.packed else len(layout.lengths)
    flat = values.expand(rows, *values.shape[1:]).flatten(0, 1)
    return flat if layout.packed else flat[layout.network_index()]
