"""How far the streamed update's gradient is from the exact one, on real rollouts, and what each way of streaming costs.

The streamed pass has the exact values but drops what flows through other tokens' keys and values. That is a bias, not
noise: it does not average out over batches. More live tokens lower it and cost more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor

from groupppo.studies.arms import Update
from groupppo.studies.names import ALL
from groupppo.studies.rollouts import Rollouts
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layout import Layout
from groupppo.update.network import KeysValues, collect, run_inside
from groupppo.update.passes import LiveRows, Plan, policy_pass

Row = dict[str, float | str]
Gradients = dict[str, Tensor]

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


@dataclass(frozen=True)
class Streamed:
    """One streamed gradient beside the exact one of the same batch.

    Attributes:
        batch: number of the batch. way: what flowed next to the endpoints. live: flowing tokens over all tokens.
        speedup: operations of a dense update over the streamed one's, keys and values at hand.
        speedup_recompute: the same when the update makes them itself.
        exact, found: gradients by parameter name.
    """

    batch: int
    way: LiveRows
    live: float
    speedup: float
    speedup_recompute: float
    exact: Gradients
    found: Gradients

    def rows(self) -> Iterator[Row]:
        """One for each parameter group, `all` first: what the batch and the way are, cosine and norm ratio."""
        shared: Row = {
            "batch": self.batch,
            "window": self.way.window,
            "share": self.way.share,
            "live": self.live,
            "speedup": self.speedup,
            "speedup_recompute": self.speedup_recompute,
        }
        for group in (ALL, *PARAMETER_GROUPS):
            one, other = flat(self.found, group), flat(self.exact, group)
            cosine, ratio = cosine_and_ratio(one, other)
            yield shared | {"group": group, "cosine": cosine, "norm_ratio": ratio}


def streamed_gradients(
    model: Any,
    endpoints: Sequence[Endpoints],
    ways: Sequence[LiveRows],
    temperature: float,
    kept: Sequence[list[KeysValues]] | None = None,
) -> Iterator[Streamed]:
    """The streamed gradient of every batch in every way, batch by batch.

    Args:
        model: the policy, in evaluation mode. endpoints: one item per batch. ways: what flows next to the endpoints.
        kept: keys and values of each batch from an earlier pass, perhaps of other weights; fresh ones unless given.
    """
    shape = Shape.of(model.config)
    for number, batch in enumerate(endpoints):
        exact = _gradient(model, batch, Plan("gathered"), temperature, None)
        cached = keys_values_of(model, batch) if kept is None else kept[number]
        for way in ways:
            live = way.places(batch.layout, batch.rows, seed=number)
            yield Streamed(
                batch=number,
                way=way,
                live=len(live) / len(batch.layout.input_ids),
                speedup=update_speedup(shape, batch, live, "streamed_reuse"),
                speedup_recompute=update_speedup(shape, batch, live, "streamed"),
                exact=exact,
                found=_gradient(model, batch, Plan("streamed", live=way, seed=number), temperature, cached),
            )


def bias_rows(
    model: Any,
    endpoints: Sequence[Endpoints],
    ways: Sequence[LiveRows],
    temperature: float,
    kept: Sequence[list[KeysValues]] | None = None,
) -> Iterator[Row]:
    """Cosine and norm ratio of the streamed gradient against the exact one, batch by batch; see `Streamed.rows`."""
    for streamed in streamed_gradients(model, endpoints, ways, temperature, kept):
        yield from streamed.rows()


def keys_values_of(model: Any, batch: Endpoints) -> list[KeysValues]:
    """Keys and values of a batch at the model's present weights, to be used later."""
    kept: list[KeysValues] = run_inside(model, _collected(batch.layout))
    return kept


def _collected(layout: Layout) -> Any:
    return lambda model, **_: collect(model, layout)[1]


def _gradient(
    model: Any, batch: Endpoints, plan: Plan, temperature: float, cached: list[KeysValues] | None
) -> Gradients:
    model.zero_grad()
    log_probs, _ = run_inside(model, policy_pass(batch.layout, batch.rows, batch.labels, temperature, plan, cached))
    (batch.weights.to(log_probs.dtype) * log_probs).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def cosine_and_ratio(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Cosine of two flat gradients and the first one's norm over the second's; NaN where one of them is zero."""
    norms = one.norm() * other.norm()
    return (float(one @ other / norms), float(one.norm() / other.norm())) if norms > 0 else (nan, nan)


def flat(gradients: Gradients, group: str = ALL) -> Tensor:
    """One float64 vector of the gradients in a parameter group."""
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


def update_speedup(shape: Shape, batch: Endpoints, live: Tensor, mode: str) -> float:
    """Operations of a dense update of the batch over those of a mode, summed over its sequences.

    Args:
        shape: of the model. live: (L,) increasing places of the tokens that flow, in the streamed modes.
    """
    layout, count = batch.layout, len(batch.layout.lengths)
    sequences, positions = layout.sequence, layout.position
    endpoints = torch.bincount(sequences[batch.rows], minlength=count).tolist()
    flowing = torch.bincount(sequences[live], minlength=count).tolist()
    kept = torch.zeros(count, dtype=torch.long)
    kept.scatter_reduce_(0, sequences[batch.rows], positions[batch.rows] + 1, reduce="amax")
    dense = other = 0.0
    for tokens, rows, moving, needed in zip(layout.lengths.tolist(), endpoints, flowing, kept.tolist(), strict=True):
        work = Work(tokens=tokens, response=tokens, endpoints=rows, live=moving, kept=needed)
        dense += sum(update_flops(shape, work, "dense").values())
        # A sequence without endpoints is dropped by the exact update.
        other += sum(update_flops(shape, work, mode).values()) if needed or mode != "gathered" else 0.0
    return dense / other
