"""Decoder layers at chosen rows: queries, attention output and MLP there, keys and values of whole sequences."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from groupppo.errors import BadInput
from groupppo.update.layout import Rows

# Per layer, keys after rotation and values of every token of a stream: (N, kv heads, head dim) each.
KeysValues = tuple[Tensor, Tensor]


def check_architecture(model: Any) -> None:
    """Refuse a model whose layers are not laid out like those of Qwen2, Qwen3 and Llama.

    Raises:
        BadInput: a part is missing, or a layer attends to a sliding window.
    """
    name = type(model).__name__
    base = getattr(model, model.base_model_prefix, None)
    for part in ("embed_tokens", "layers", "norm", "rotary_emb"):
        if not hasattr(base, part):
            raise BadInput("model", f"{name}.{part}", None, "use update: masked; gathered and streamed need this part.")
    assert base is not None
    for number, layer in enumerate(base.layers):
        for path in ("input_layernorm", "post_attention_layernorm", "mlp", "self_attn.q_proj", "self_attn.o_proj"):
            if not _has(layer, path):
                hint = "use update: masked; the layer is not laid out like those of Qwen2, Qwen3 and Llama."
                raise BadInput("model", f"{name}.layers.{number}.{path}", None, hint)
        if getattr(layer.self_attn, "sliding_window", None) is not None:
            hint = "use update: masked; sliding windows are not written for rows."
            raise BadInput("model", f"{name}.layers.{number}.sliding_window", layer.self_attn.sliding_window, hint)


def _has(module: Any, path: str) -> bool:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module is not None


def layer_at_rows(layer: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor], places: Tensor, rows: Rows) -> Tensor:
    """One decoder layer's output at K rows, exact: (N, H) -> (K, H).

    Args:
        hidden: (N, H) the layer's input for the whole stream. rotation: cos and sin, (N, head dim) each.
        places: (K,) the rows' places in the stream. rows: index of the same rows.
    """
    normed = layer.input_layernorm(hidden)
    keys, values = keys_values(layer.self_attn, normed, rotation)
    query = _query(layer.self_attn, normed[places], (rotation[0][places], rotation[1][places]))
    return _finish(layer, hidden[places], _attend(layer.self_attn, query, keys, values, rows))


def layer_of_stream(
    layer: Any,
    hidden: Tensor,
    rotation: tuple[Tensor, Tensor],
    places: Tensor,
    live: Rows,
    cached: KeysValues,
    queries: tuple[Tensor, Rows] | None = None,
) -> Tensor:
    """One decoder layer of L live rows among constant keys and values of all other tokens: (L, H) -> (L, H).

    Args:
        hidden: (L, H) input at the live rows. rotation: cos and sin there, (L, head dim) each.
        places: (L,) their places in the stream. live: index of the live rows.
        cached: keys and values of the stream; those of the live rows are replaced by their own, through which the
            gradient flows.
        queries: numbers of the live rows whose output is wanted and their index, for the last layer; all unless given.

    Returns:
        (L, H), or (K, H) at `queries`.
    """
    normed = layer.input_layernorm(hidden)
    own_keys, own_values = keys_values(layer.self_attn, normed, rotation)
    keys = cached[0].to(own_keys.dtype).index_copy(0, places, own_keys)
    values = cached[1].to(own_values.dtype).index_copy(0, places, own_values)
    index = live
    if queries is not None:
        wanted, index = queries
        hidden, normed, rotation = hidden[wanted], normed[wanted], (rotation[0][wanted], rotation[1][wanted])
    query = _query(layer.self_attn, normed, rotation)
    return _finish(layer, hidden, _attend(layer.self_attn, query, keys, values, index))


def keys_values(attention: Any, normed: Tensor, rotation: tuple[Tensor, Tensor]) -> KeysValues:
    """Rotated keys and values, (N, H) -> (N, kv heads, head dim) each."""
    keys = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim))
    if hasattr(attention, "k_norm"):
        keys = attention.k_norm(keys)
    values = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
    return _rotate(keys, rotation), values


def _query(attention: Any, normed: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    query = attention.q_proj(normed).unflatten(-1, (-1, attention.head_dim))
    if hasattr(attention, "q_norm"):
        query = attention.q_norm(query)
    return _rotate(query, rotation)


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of (N, heads, head dim), halves rotated against each other."""
    cos, sin = (part[:, None].to(heads.dtype) for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def _attend(attention: Any, query: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> Tensor:
    """Causal attention of K rows, (K, heads, head dim) -> (K, heads * head dim); keys are those of the whole stream."""
    output = functional.scaled_dot_product_attention(
        query[rows.table].transpose(1, 2),
        keys[rows.keys].transpose(1, 2),
        values[rows.keys].transpose(1, 2),
        attn_mask=rows.mask,
        scale=attention.scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return output.transpose(1, 2)[rows.real].flatten(1)


def _finish(layer: Any, residual: Tensor, attended: Tensor) -> Tensor:
    hidden = residual + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
