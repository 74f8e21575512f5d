"""What an update costs, counted from shapes: floating-point operations, bytes, and the bounds on any speed-up.

A multiply-add is two operations. Attention is counted over all S^2 pairs, as its kernels are by torch's counter; norms,
rotations and softmaxes are left out, which is below 1 % at the shapes of language models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODES = ("dense", "masked", "fused", "gathered_head", "gathered", "streamed", "streamed_reuse")


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, in channels, layers, heads and vocabulary entries.

    `tied`: the head's weights are the embedding's. `query_key_norm`: queries and keys are normalised, as in Qwen3.
    """

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    query_key_norm: bool = False

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
            query_key_norm=config.model_type.startswith("qwen3"),
        )

    def as_config(self) -> dict[str, Any]:
        """What a Hugging Face config of these families says of the sizes, by its keys."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
        }

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

    `checkpointing` runs layers a second time. `live` tokens flow in the streamed modes, the K among them. `kept` tokens
    are left by `gathered` when it cuts behind the last endpoint; all unless given. In `gathered` the prompt is computed
    once for `sharers` responses, each of which bears its part; 0 where prompts are not looked for.
    """

    tokens: int
    response: int
    endpoints: int
    checkpointing: bool = False
    live: int = 0
    kept: int = 0
    sharers: int = 0


@dataclass(frozen=True)
class _Passes:
    """How often a product runs: forward, forward again under checkpointing, backward (in units of a forward pass)."""

    layer: float
    down: float
    attention: float
    head: float

    @classmethod
    def update(cls, checkpointing: bool) -> "_Passes":
        again = 1 if checkpointing else 0
        # The second forward pass stops at the last tensor that the backward pass needs, before the down projection.
        # Attention's backward pass has five products for two, for it computes the scores again.
        return cls(layer=3 + again, down=3, attention=3.5 + again, head=3)


_FORWARD = _Passes(layer=1, down=1, attention=1, head=1)


def update_flops(shape: Shape, work: Work, mode: str) -> dict[str, float]:
    """Operations of one forward and backward pass for one sequence, by part.

    dense, masked: everything, logits of all S tokens. fused: logits of the R response tokens, computed again in the
    backward pass. gathered_head: the head at K tokens. gathered: also the last layer's queries, output projection and
    MLP. streamed: a forward pass without gradients for keys and values, then only live tokens; `streamed_reuse` has
    them already.

    Returns:
        operations under "layers", "attention", "head" and "keys_values" (the pass without gradients).

    Raises:
        ValueError: the mode is unknown.
    """
    return _flops(shape, work, mode, _Passes.update(work.checkpointing))


def forward_flops(shape: Shape, work: Work, mode: str) -> dict[str, float]:
    """Operations of one pass for log-probabilities, by part as `update_flops`; not for the streamed modes.

    Raises:
        ValueError: the mode is unknown, or streams: its first pass is a full one.
    """
    if mode.startswith("streamed"):
        raise ValueError(
            f"mode {mode!r}: write dense, for a streamed update takes its keys and values from a full pass"
        )
    return _flops(shape, work, mode, _FORWARD)


def _flops(shape: Shape, work: Work, mode: str, passes: _Passes) -> dict[str, float]:
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: write one of {', '.join(MODES)}")
    rows, down = work.endpoints, shape.hidden * shape.intermediate
    tokens = work.kept or work.tokens if mode == "gathered" else work.tokens
    flowing: float = max(work.live, rows) if mode.startswith("streamed") else tokens
    last = rows if mode.startswith(("gathered", "streamed")) and mode != "gathered_head" else flowing
    full = shape.layers - 1
    queries = flowing * tokens  # pairs of a query and a key in a layer
    if work.sharers and mode == "gathered":
        prompt, response = work.tokens - work.response, tokens - (work.tokens - work.response)
        flowing = response + prompt / work.sharers
        queries = response * tokens + prompt * prompt / work.sharers
    rest = 2 * shape.query + shape.mlp - down  # what a token needs next to its keys and values
    pair = 4 * shape.heads * shape.head_dim  # operations of one query with one key, forward
    headed = {"dense": tokens, "masked": tokens, "fused": work.response}.get(mode, rows)
    constants = 0.0
    if mode == "streamed":
        constants = 2 * (shape.layer * full + shape.keys_values) * tokens + pair * tokens * tokens * full
    layers = passes.layer * (shape.keys_values * flowing * shape.layers + rest * (flowing * full + last))
    return {
        "layers": 2 * (layers + passes.down * down * (flowing * full + last)),
        "attention": passes.attention * pair * (queries * full + last * tokens),
        "head": 2 * shape.head * headed * (passes.head + (1 if mode == "fused" and passes.head > 1 else 0)),
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
    """Largest speed-up of an exact update over dense: head and last layer at endpoints, prompts once for `sharers`."""
    return speedup(shape, work, "gathered")


def speedup(shape: Shape, work: Work, mode: str) -> float:
    """Operations of a dense update over those of the mode."""
    dense, other = (sum(update_flops(shape, work, name).values()) for name in ("dense", mode))
    return dense / other


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


def needed_generation(speedup: float, rest: float) -> float | None:
    """Largest share g of generation at which a whole step still gets `speedup` when its rest gets `rest`, or None.

    Solves 1 / (g + (1 - g) / rest) = speedup; there is no such g when the rest itself is slower than that.
    """
    if rest < speedup:
        return None
    return (1.0 / speedup - 1.0 / rest) / (1.0 - 1.0 / rest)


def needed_head_share(speedup: float, density: float) -> float | None:
    """Share eta of the head at which `head_bound` is `speedup` for K/S = density, or None: eta cannot exceed 1."""
    eta = (1.0 - 1.0 / speedup) / (1.0 - density) if density < 1.0 else float("inf")
    return eta if eta <= 1.0 + 1e-12 else None


def needed_speedup(speedup: float, generation: float) -> float | None:
    """Speed-up of all but generation at which a whole step gets `speedup`, or None: generation alone takes longer."""
    left = 1.0 / speedup - generation
    return (1.0 - generation) / left if left > 0.0 else None
