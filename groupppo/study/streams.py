"""How far the streamed update's gradient is from the exact one, on real rollouts, and what each way of streaming costs.

The streamed pass has the exact values but drops what flows through other tokens' keys and values. That is a bias, not
noise: it does not average out over batches. More live tokens lower it and cost more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groupppo.study.arms import Update
from groupppo.study.rollouts import Rollouts
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layers import KeysValues
from groupppo.update.layout import Layout
from groupppo.update.network import collect, run_inside
from groupppo.update.plan import Plan, policy_pass
from groupppo.update.streamed import LiveRows

ALL = "all"
# A parameter belongs to the first group whose word its name has.
PARAMETER_GROUPS: Mapping[str, tuple[str, ...]] = {
    "keys and values": ("k_proj", "v_proj", "k_norm"),
    "queries and outputs": ("q_proj", "o_proj", "q_norm"),
    "mlp": ("mlp",),
    "norms": ("norm",),
    "embedding and head": ("embed_tokens", "lm_head"),
}


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of a batch of rollouts and the derivative of the policy loss in each one's log-probability.

    Attributes:
        layout: the rollouts without padding. rows: (K,) the states before the endpoints, increasing.
        weights: (K,) derivatives.
    """

    layout: Layout
    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rollouts: Rollouts, update: Update) -> "Endpoints":
        """The tokens whose weight is not zero, with their places in the stream of all sequences."""
        lengths = rollouts.prompt_lengths + rollouts.mask.sum(1)
        inside = torch.arange(rollouts.ids.shape[1]) < lengths[:, None]
        layout = Layout(rollouts.ids[inside], lengths, packed=False)
        chosen = rollouts.mask & (update.weights != 0)
        places = layout.starts[:, None] + rollouts.states
        return cls(layout, places[chosen], update.weights[chosen])

    @property
    def labels(self) -> Tensor:
        return self.layout.input_ids[self.rows + 1]


def bias_rows(
    model: Any,
    endpoints: Sequence[Endpoints],
    ways: Sequence[LiveRows],
    temperature: float,
    kept: Sequence[list[KeysValues]] | None = None,
) -> Iterator[dict[str, float | str]]:
    """Cosine and norm ratio of the streamed gradient against the exact one, batch by batch.

    Args:
        model: the policy, in evaluation mode. endpoints: one item per batch. ways: what flows next to the endpoints.
        kept: keys and values of each batch from an earlier pass, perhaps of other weights; fresh ones unless given.

    Yields:
        one row per batch, way and parameter group (and `all`): batch, window, share, live share of the tokens,
        operations of a dense update over the streamed one's (keys and values at hand), group, cosine, norm_ratio.
    """
    shape = Shape.of(model.config)
    for number, batch in enumerate(endpoints):
        exact = _gradient(model, batch, Plan("gathered"), temperature, None)
        cached = run_inside(model, _collected(batch.layout)) if kept is None else kept[number]
        for way in ways:
            live = way.places(batch.layout, batch.rows, seed=number)
            found = _gradient(model, batch, Plan("streamed", live=way, seed=number), temperature, cached)
            shared: dict[str, float | str] = {
                "batch": number,
                "window": way.window,
                "share": way.share,
                "live": len(live) / len(batch.layout.input_ids),
                "speedup": _speedup(shape, batch, len(live)),
            }
            for name in (ALL, *PARAMETER_GROUPS):
                one, other = _flat(found, name), _flat(exact, name)
                yield shared | {
                    "group": name,
                    "cosine": float(one @ other / (one.norm() * other.norm())),
                    "norm_ratio": float(one.norm() / other.norm()),
                }


def keys_values_of(model: Any, batch: Endpoints) -> list[KeysValues]:
    """Keys and values of a batch at the model's present weights, to be used later."""
    kept: list[KeysValues] = run_inside(model, _collected(batch.layout))
    return kept


def _collected(layout: Layout) -> Any:
    return lambda model, **_: collect(model, layout)[1]


def _gradient(
    model: Any, batch: Endpoints, plan: Plan, temperature: float, cached: list[KeysValues] | None
) -> dict[str, Tensor]:
    model.zero_grad()
    log_probs, _ = run_inside(model, policy_pass(batch.layout, batch.rows, batch.labels, temperature, plan, cached))
    (batch.weights.to(log_probs.dtype) * log_probs).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def _flat(gradients: dict[str, Tensor], group: str) -> Tensor:
    return torch.cat([part.flatten().double() for name, part in gradients.items() if group in (ALL, group_of(name))])


def group_of(parameter: str) -> str:
    """The parameter group that a parameter's name belongs to.

    Raises:
        KeyError: it belongs to none.
    """
    for group, words in PARAMETER_GROUPS.items():
        if any(word in parameter for word in words):
            return group
    raise KeyError(f"parameter {parameter} belongs to no group of {', '.join(PARAMETER_GROUPS)}")


def _speedup(shape: Shape, batch: Endpoints, live: int) -> float:
    """Operations of a dense update over those of the streamed one, for the batch's mean sequence."""
    count = len(batch.layout.lengths)
    tokens = len(batch.layout.input_ids) / count
    work = Work(
        tokens=round(tokens), response=round(tokens), endpoints=round(len(batch.rows) / count), live=round(live / count)
    )
    dense, streamed = (sum(update_flops(shape, work, mode).values()) for mode in ("dense", "streamed_reuse"))
    return dense / streamed
