"""What an update costs, counted from shapes: floating-point operations, bytes, and the bounds on any speed-up.

A multiply-add is two operations. Attention is counted over all S^2 pairs, as its kernels are by torch's counter; norms,
rotations and softmaxes are left out, which is below 1 % at the shapes of language models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODES = ("dense", "masked", "fused", "gathered", "streamed", "streamed_reuse")


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, in channels, layers, heads and vocabulary entries."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """From a Hugging Face config of the Qwen2, Qwen3 or Llama family."""
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @property
    def query(self) -> int:
        """Weights of the query projection."""
        return self.hidden * self.heads * self.head_dim

    @property
    def keys_values(self) -> int:
        return 2 * self.hidden * self.kv_heads * self.head_dim

    @property
    def mlp(self) -> int:
        return 3 * self.hidden * self.intermediate

    @property
    def layer(self) -> int:
        """Weights of one layer's projections; the output projection has as many as the query's."""
        return 2 * self.query + self.keys_values + self.mlp

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """Weights of all matrices, the embedding included."""
        return self.layers * self.layer + self.head * (1 if self.tied else 2)


@dataclass(frozen=True)
class Work:
    """One sequence in one update: S tokens in the network, of which R belong to the response and K are endpoints.

    `checkpointing` runs every layer a second time. `live` tokens flow in the streamed modes, the K among them.
    """

    tokens: int
    response: int
    endpoints: int
    checkpointing: bool = False
    live: int = 0


def update_flops(shape: Shape, work: Work, mode: str) -> dict[str, float]:
    """Operations of one forward and backward pass for one sequence, by part.

    dense, masked: everything, logits of all S tokens. fused: logits of the R response tokens, computed again in the
    backward pass. gathered: the last layer's queries, output projection and MLP, and the head, at K tokens. streamed: a
    forward pass without gradients for keys and values, then only live tokens; `streamed_reuse` has them already.

    Returns:
        operations under "layers", "attention", "head" and "keys_values" (the pass without gradients).

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: write one of {', '.join(MODES)}")
    passes = 4 if work.checkpointing else 3  # forward, twice that backward, and the forward again
    attention_passes = 2.5 + (2 if work.checkpointing else 1)  # its backward pass has five products for two
    tokens, rows = work.tokens, work.endpoints
    pair = 4 * shape.heads * shape.head_dim  # operations per query and key, forward
    if mode in ("dense", "masked", "fused"):
        head = 3 * 2 * shape.head * tokens if mode != "fused" else 4 * 2 * shape.head * work.response
        return {
            "layers": passes * 2 * shape.layer * shape.layers * tokens,
            "attention": attention_passes * pair * tokens**2 * shape.layers,
            "head": head,
            "keys_values": 0,
        }
    head = 3 * 2 * shape.head * rows
    rest = 2 * shape.query + shape.mlp  # what a token needs next to its keys and values
    if mode == "gathered":
        last = shape.keys_values * tokens + rest * rows
        return {
            "layers": passes * 2 * (shape.layer * (shape.layers - 1) * tokens + last),
            "attention": attention_passes * pair * tokens * (tokens * (shape.layers - 1) + rows),
            "head": head,
            "keys_values": 0,
        }
    live = max(work.live, rows)
    layers = passes * 2 * (shape.layer * live * (shape.layers - 1) + shape.keys_values * live + rest * rows)
    constants = 0.0
    if mode == "streamed":
        body = 2 * (shape.layer * (shape.layers - 1) + shape.keys_values) * tokens
        constants = body + pair * tokens**2 * (shape.layers - 1)
    return {
        "layers": layers,
        "attention": attention_passes * pair * tokens * (live * (shape.layers - 1) + rows),
        "head": head,
        "keys_values": constants,
    }


def head_share(shape: Shape, work: Work) -> float:
    """eta: the language-model head's share of a dense update's operations."""
    parts = update_flops(shape, work, "dense")
    return parts["head"] / sum(parts.values())


def head_bound(shape: Shape, work: Work) -> float:
    """1 / (1 - eta (1 - K/S)): the largest speed-up over dense from a head at endpoints only."""
    return 1.0 / (1.0 - head_share(shape, work) * (1.0 - work.endpoints / work.tokens))


def update_bound(shape: Shape, work: Work) -> float:
    """Largest speed-up of an exact update over dense: head and last layer at endpoints, all else unchanged."""
    dense, gathered = (sum(update_flops(shape, work, mode).values()) for mode in ("dense", "gathered"))
    return dense / gathered


def step_bound(generation: float, shares: Mapping[str, float], speedups: Mapping[str, float]) -> float:
    """Speed-up of a whole step, 1 / (g + (1 - g) sum_i w_i / s_i) (Amdahl, 1967).

    Args:
        generation: g, the share of the step that grouping leaves alone, in [0, 1].
        shares: w, the rest of the step by stage; they sum to 1. speedups: s of the same stages.

    Raises:
        ValueError: the shares do not sum to 1, or the two mappings name different stages.
    """
    if shares.keys() != speedups.keys() or abs(sum(shares.values()) - 1.0) > 1e-9:
        raise ValueError(f"shares {dict(shares)} must sum to 1 and name the stages of {dict(speedups)}")
    return 1.0 / (generation + (1.0 - generation) * sum(w / speedups[stage] for stage, w in shares.items()))


def update_bytes(shape: Shape, work: Work, mode: str, *, element: int = 2, chunk: int = 2**26) -> dict[str, float]:
    """Memory of one update for one sequence, by cause, in bytes; a model, to be compared with measured peaks.

    Args:
        element: bytes of a weight or activation. chunk: largest float32 logits held by a head that works in chunks.

    Returns:
        bytes under "activations" (saved for the backward pass), "logits" (values, probabilities and gradients of the
        head), "head_gradient" (a second copy with tied embeddings where autograd holds it) and "keys_values".
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: write one of {', '.join(MODES)}")
    width = shape.heads * shape.head_dim
    kv = 2 * shape.kv_heads * shape.head_dim
    # Saved per token and layer: norms and residuals, queries, keys and values, attention output, four MLP products.
    saved = element * (4 * shape.hidden + 2 * width + kv + 4 * shape.intermediate) + 8 * shape.hidden
    tokens, rows, live = work.tokens, work.endpoints, max(work.live, work.endpoints)
    layer_input = element * shape.hidden
    wide = {"dense": tokens, "masked": tokens}.get(mode)
    logits: float = 14 * wide * shape.vocabulary if wide else 3 * min(chunk, 4 * shape.vocabulary * max(rows, 1))
    if mode == "fused":
        logits = 3 * chunk
    constants = element * kv * tokens * shape.layers if mode.startswith("streamed") else 0
    flowing = live if mode.startswith("streamed") else tokens
    if work.checkpointing:
        activations = flowing * (shape.layers * layer_input + saved)
    else:
        activations = flowing * saved * (shape.layers - 1) + saved * (tokens if mode in MODES[:3] else rows)
    held = element * shape.head if shape.tied and mode in ("dense", "masked") else 0
    return {"activations": activations, "logits": logits, "head_gradient": held, "keys_values": constants}
