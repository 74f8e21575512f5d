"""One pass of a policy or a critic at its endpoints, from a plan: which mode, and how its approximations are set.

    log_probs, entropies = run_inside(model, policy_pass(layout, rows, labels, temperature, Plan("gathered")))

A pass is a function of the model that runs as the model's own forward. `gathered` is exact. In `streamed` only live
rows flow; keys and values of all other tokens are constants. Values are exact as long as the constants come from the
same weights; gradients miss what would flow through other tokens' keys and values, which is a bias. More live rows
(`LiveRows`) buy some of it back.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from groupppo.errors import BadInput
from groupppo.update.head import head_log_probs
from groupppo.update.layout import Layout, Rows
from groupppo.update.network import KeysValues, base_of, collect, embed, group_of, hidden_at_rows, layer_at_rows

MODES = ("gathered", "streamed")


@dataclass(frozen=True)
class LiveRows:
    """Which tokens flow next to the endpoints' own rows.

    Attributes:
        window: so many tokens before each row, inside its sequence.
        share: of the remaining tokens, drawn at random.
    """

    window: int = 0
    share: float = 0.0

    def places(self, layout: Layout, rows: Tensor, seed: int = 0) -> Tensor:
        """(L,) increasing places in the stream, the rows among them."""
        live = torch.zeros(len(layout.input_ids), dtype=torch.bool, device=rows.device)
        for back in range(self.window + 1):
            live[(rows - back)[layout.position[rows] >= back]] = True
        if self.share > 0.0:
            generator = torch.Generator().manual_seed(seed)
            live |= (torch.rand(len(live), generator=generator) < self.share).to(live.device)
        return live.nonzero().flatten()


@dataclass(frozen=True)
class Plan:
    """How rows are computed.

    Attributes:
        mode: `gathered`, exact, or `streamed`, approximate.
        live: what flows next to the rows in `streamed`.
        seed: of its random share.
        cut: drop what lies behind each sequence's last row; a part of `gathered` that can be left out to be measured.
        last_layer: run the last layer at the rows only; the other such part.
    """

    mode: str = "gathered"
    live: LiveRows = field(default_factory=LiveRows)
    seed: int = 0
    cut: bool = True
    last_layer: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r}: write one of {', '.join(MODES)}")


def policy_pass(
    layout: Layout,
    rows: Tensor,
    labels: Tensor,
    temperature: Tensor | float,
    plan: Plan,
    cached: list[KeysValues] | None = None,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Log-probabilities of one label per row and entropies of the rows, (K,) each, in nats, of a causal language model.

    Args:
        layout: the batch.
        rows: (K,) increasing places in its stream.
        labels: (K,) the tokens that follow.
        temperature: scalar or (K,).
        plan: mode and approximations.
        cached: keys and values of the whole stream for `streamed`; computed in the pass unless given.
    """

    def run(model: Any, **_: Any) -> tuple[Tensor, Tensor]:
        hidden = _hidden(model, layout, rows, plan, cached)
        return _head(model, hidden, labels, temperature)

    return run


def value_pass(layout: Layout, rows: Tensor, plan: Plan) -> Callable[..., Tensor]:
    """Values at K rows, (K,), of a critic: a token classifier with one label."""

    def run(model: Any, **_: Any) -> Tensor:
        hidden = _hidden(model, layout, rows, plan, None)
        values: Tensor = model.score(model.dropout(hidden)).squeeze(-1)
        return values

    return run


def caching_pass(
    layout: Layout, rows: Tensor, labels: Tensor, temperature: Tensor | float, keep: Callable[[list[KeysValues]], None]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The full pass without gradients: log-probabilities and entropies at the rows; `keep` gets keys and values."""

    def run(model: Any, **_: Any) -> tuple[Tensor, Tensor]:
        hidden, cached = collect(model, layout, output=True)
        assert hidden is not None
        keep(cached)
        return _head(model, hidden[rows], labels, temperature)

    return run


def _head(model: Any, hidden: Tensor, labels: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """The head as a call of its module, which may be a unit of FSDP with its own hooks."""

    def at_head(head: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        return head_log_probs(rows, head.weight, labels, temperature)

    log_probs, entropies = model.lm_head(hidden, instead=at_head)
    return log_probs, entropies


def _hidden(model: Any, layout: Layout, rows: Tensor, plan: Plan, cached: list[KeysValues] | None) -> Tensor:
    if plan.mode == "gathered":
        return hidden_at_rows(model, layout, rows, cut=plan.cut, last_layer=plan.last_layer)
    if cached is None:
        _, cached = collect(model, layout)
    live = plan.live.places(layout, rows, plan.seed)
    return _streamed(model, layout, rows, live, cached)


def _streamed(model: Any, layout: Layout, rows: Tensor, live: Tensor, cached: list[KeysValues]) -> Tensor:
    """Final hidden states at K rows, (K, H), among (L,) increasing live places, the rows among them."""
    base, position = base_of(model), layout.position[live]
    hidden = embed(model, layout.input_ids[live])
    turn = base.rotary_emb(hidden[None], position[None])
    shared = partial(layer_at_rows, rotation=(turn[0][0], turn[1][0]), places=live)
    group = group_of(base)
    index = [Rows.of(layout, live, group).additive(hidden.dtype)]
    for layer, constants in zip(base.layers[:-1], cached, strict=False):
        hidden = layer(hidden, instead=partial(shared, index=index, cached=constants))
    at = torch.searchsorted(live, rows)
    last = partial(shared, index=[Rows.of(layout, rows, group)], wanted=at, cached=cached[-1])
    return base.norm(base.layers[-1](hidden, instead=last))


class KeysValuesStore:
    """Keys and values kept from one pass over a batch for a later one, found by the ids of a sequence.

    They stay on the device that computed them, uncopied: there a step's rollout server sleeps until they are dropped.

    Args:
        budget_bytes: largest size of all that is kept.
    """

    def __init__(self, budget_bytes: int):
        self.budget_bytes = budget_bytes
        self._kept: dict[bytes, list[KeysValues]] = {}

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for layers in self._kept.values() for pair in layers for part in pair)

    def clear(self) -> None:
        self._kept.clear()

    def put(self, layout: Layout, layers: list[KeysValues]) -> None:
        """Keep every layer's keys and values of every sequence of the batch.

        Raises:
            BadInput: what is kept would be larger than the budget.
        """
        needed = self.nbytes + sum(part.nbytes for pair in layers for part in pair)
        if needed > self.budget_bytes:
            hint = f"{needed} bytes of keys and values to keep; allow more, or write kv: recompute."
            raise BadInput("algorithm.group_params", "kv_bytes", self.budget_bytes, hint)
        lengths = layout.lengths.tolist()
        split = [list(zip(keys.split(lengths), values.split(lengths), strict=True)) for keys, values in layers]
        for number, name in enumerate(_names(layout)):
            self._kept[name] = [layer[number] for layer in split]

    def get(self, layout: Layout) -> list[KeysValues]:
        """Every layer's keys and values for the batch's stream, (N, kv heads, head dim) each.

        Raises:
            BadInput: a sequence was not kept.
        """
        kept = []
        for name in _names(layout):
            if name not in self._kept:
                hint = "no log-probability pass of this step saw a sequence of the update; write kv: recompute."
                raise BadInput("algorithm.group_params", "kv", "reuse", hint)
            kept.append(self._kept[name])
        return [
            (torch.cat([keys for keys, _ in pairs]), torch.cat([values for _, values in pairs]))
            for pairs in zip(*kept, strict=True)
        ]


def _names(layout: Layout) -> list[bytes]:
    ids = layout.input_ids.cpu().numpy()
    return [
        hashlib.blake2b(ids[start : start + length].tobytes(), digest_size=16).digest()
        for start, length in zip(layout.starts.tolist(), layout.lengths.tolist(), strict=True)
    ]
