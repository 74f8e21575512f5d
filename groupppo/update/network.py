"""Running a decoder so that only chosen rows leave it: the exact passes, full and gathered, and a layer at rows.

The functions here run as the model's own forward (`run_inside`), layer by layer through `layer(...)`: the hooks of
FSDP, which fetch the weights, and gradient checkpointing, which runs a layer again, see ordinary calls.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.masking_utils import create_causal_mask

from groupppo.errors import BadInput
from groupppo.update.head import eager_embedding
from groupppo.update.layout import Layout, Rows

# Per layer, keys after rotation and values of every token of a stream: (N, kv heads, head dim) each.
KeysValues = tuple[Tensor, Tensor]
# cos and sin at the tokens of a layer's input, (N, head dim) each.
Rotation = tuple[Tensor, Tensor]


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
            try:
                attrgetter(path)(layer)
            except AttributeError as error:
                hint = "use update: masked; the layer is not laid out like those of Qwen2, Qwen3 and Llama."
                raise BadInput("model", f"{name}.layers.{number}.{path}", None, hint) from error
        if getattr(layer.self_attn, "sliding_window", None) is not None:
            hint = "use update: masked; sliding windows are not written for rows."
            raise BadInput("model", f"{name}.layers.{number}.sliding_window", layer.self_attn.sliding_window, hint)


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
        layout: the batch; with `prompts`, those that are equal are computed once.
        rows: (K,) increasing places in its stream.
        cut: drop what lies behind each sequence's last row.
        last_layer: run the last layer's queries, output projection and MLP at the rows only.
    """
    if cut:
        layout, rows = layout.cut(rows)
    if layout.prompts is not None:
        return _hidden_sharing(model, layout, rows, last_layer=last_layer)
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
    last = partial(layer_at_rows, rotation=turn, index=[Rows.of(layout, rows, group_of(base))], wanted=rows)
    return base.norm(base.layers[-1](flat, instead=last))


def _hidden_sharing(model: Any, layout: Layout, rows: Tensor, *, last_layer: bool) -> Tensor:
    """As `hidden_at_rows`, equal prompts once: two attentions a layer, of their tokens and of all responses'."""
    assert layout.prompts is not None
    base, (kept, where) = base_of(model), layout.sharing()
    hidden = embed(model, layout.input_ids[kept])
    turn = base.rotary_emb(hidden[None], layout.position[kept][None])
    shared = partial(layer_at_rows, rotation=(turn[0][0], turn[1][0]))
    in_prompt = (layout.position < layout.prompts[layout.sequence])[kept]
    every = [
        Rows.of(layout, kept[numbers], group_of(base)).among(numbers, where).additive(hidden.dtype)
        for numbers in (in_prompt.nonzero().flatten(), (~in_prompt).nonzero().flatten())
        if len(numbers)
    ]
    for layer in base.layers[:-1] if last_layer else base.layers:
        hidden = layer(hidden, instead=partial(shared, index=every))
    wanted, back = where[rows].unique(return_inverse=True)  # the last token of a prompt has a row of every response
    if not last_layer:
        return base.norm(hidden[wanted])[back]
    last = [Rows.of(layout, kept[wanted], group_of(base)).among(torch.arange(len(wanted), device=wanted.device), where)]
    return base.norm(base.layers[-1](hidden, instead=partial(shared, index=last, wanted=wanted)))[back]


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
    layer: Any, hidden: Tensor, *, collector: Collector, position_embeddings: Rotation, **_: Any
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


def _embed(model: Any, layout: Layout) -> tuple[Tensor, Any, Tensor, Rotation]:
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


def layer_at_rows(
    layer: Any,
    hidden: Tensor,
    *,
    rotation: Rotation,
    index: Sequence[Rows],
    wanted: Tensor | None = None,
    places: Tensor | None = None,
    cached: KeysValues | None = None,
) -> Tensor:
    """One decoder layer's output at K of the N tokens of its input, (N, H) -> (K, H).

    Exact where the input is the whole stream. Where only some places of the stream flow, the keys and values of all
    other tokens are constants, and the gradient flows through those of the input's tokens alone.

    Args:
        hidden: (N, H) the layer's input.
        rotation: at the same tokens.
        index: of the K rows, each in one of them.
        wanted: (K,) numbers of the input's tokens whose output is wanted; all unless given.
        places: (N,) the input's places in the stream, with `cached`.
        cached: keys and values of the whole stream, if the input is only a part of it.
    """
    normed = layer.input_layernorm(hidden)
    keys, values = keys_values(layer.self_attn, normed, rotation)
    if cached is not None and places is not None:
        keys = cached[0].to(keys.dtype).index_copy(0, places, keys)
        values = cached[1].to(values.dtype).index_copy(0, places, values)
    if wanted is not None:
        hidden, normed, rotation = hidden[wanted], normed[wanted], (rotation[0][wanted], rotation[1][wanted])
    query = layer.self_attn.q_proj(normed).unflatten(-1, (-1, layer.self_attn.head_dim))
    if hasattr(layer.self_attn, "q_norm"):
        query = layer.self_attn.q_norm(query)
    attended = _attend(layer.self_attn, _rotate(query, rotation), keys, values, index)
    hidden = hidden + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def keys_values(attention: Any, normed: Tensor, rotation: Rotation) -> KeysValues:
    """Rotated keys and values, (N, H) -> (N, kv heads, head dim) each."""
    keys = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim))
    if hasattr(attention, "k_norm"):
        keys = attention.k_norm(keys)
    values = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
    return _rotate(keys, rotation), values


def _rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of (N, heads, head dim), halves rotated against each other."""
    cos, sin = (part[:, None].to(heads.dtype) for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def group_of(base: Any) -> int:
    """Query heads that attend as rows of one head: 1 on a CPU, whose kernel takes grouped heads beside a mask."""
    if base.embed_tokens.weight.device.type == "cpu":
        return 1
    return int(base.config.num_attention_heads // base.config.num_key_value_heads)


def as_attended(query: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What torch's attention gets for K rows, (K, heads, head dim); keys and values are those of the whole stream.

    Returns:
        query (B, kv heads, GQ, head dim), keys and values (B, kv heads, S, head dim), and the mask.
    """
    apart = query[rows.table].unflatten(2, (-1, rows.group))  # (B, Q, kv heads, G, head dim)
    together = apart.permute(0, 2, 3, 1, 4).flatten(2, 3)
    return together, keys[rows.keys].transpose(1, 2), values[rows.keys].transpose(1, 2), rows.mask


def _attend(attention: Any, query: Tensor, keys: Tensor, values: Tensor, index: Sequence[Rows]) -> Tensor:
    """Causal attention of K rows, (K, heads, head dim) -> (K, heads * head dim)."""
    attended = torch.cat([_attend_in(attention, query, keys, values, rows) for rows in index])
    if len(index) == 1:
        return attended
    return attended[torch.cat([rows.table[rows.real] for rows in index]).argsort()]


def _attend_in(attention: Any, query: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> Tensor:
    query, keys, values, mask = as_attended(query, keys, values, rows)
    grouped = query.shape[1] != keys.shape[1]
    output = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=attention.scaling, enable_gqa=grouped
    )
    apart = output.unflatten(2, (rows.group, -1))  # (B, kv heads, G, Q, head dim)
    return apart.permute(0, 3, 1, 2, 4)[rows.real].flatten(1)
