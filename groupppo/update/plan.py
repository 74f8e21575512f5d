"""One pass of a policy or a critic at its endpoints, from a plan: which mode, and how its approximations are set.

    log_probs, entropies = run_inside(model, policy_pass(layout, rows, labels, temperature, Plan("gathered")))

A pass is a function of the model that runs as the model's own forward.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from groupppo.update.head import head_log_probs
from groupppo.update.layers import KeysValues
from groupppo.update.layout import Layout
from groupppo.update.network import collect, hidden_at_rows
from groupppo.update.streamed import LiveRows, streamed_hidden

MODES = ("gathered", "streamed")


@dataclass(frozen=True)
class Plan:
    """How rows are computed.

    Attributes:
        mode: `gathered`, exact, or `streamed`, approximate.
        live: what flows next to the rows in `streamed`. seed: of its random share.
        cut, last_layer: the parts of `gathered`, each of which can be left out to be measured.
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
        layout: the batch. rows: (K,) increasing places in its stream. labels: (K,) the tokens that follow.
        temperature: scalar or (K,).
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
    return streamed_hidden(model, layout, rows, live, cached)
