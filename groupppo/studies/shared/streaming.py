"""How far the streamed update's gradient is from the exact one, on real rollouts, and what each way of streaming costs.

The streamed pass has the exact values but drops what flows through other tokens' keys and values: a bias, which does
not average out over batches. Keys and values are made once, before a step's first update, so that with several epochs
or mini-batches the later updates use them under other weights, and even the streamed values are wrong.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.studies.shared.rollouts import Rollouts
from groupppo.studies.shared.study import ALL, ENDPOINTS, GATHERED, RECOMPUTE, REUSE, SHARE, WINDOW
from groupppo.studies.shared.updates import Update, columns, mean_of
from groupppo.update.flops import Shape, Work, update_flops
from groupppo.update.layout import Layout
from groupppo.update.network import KeysValues, collect, run_inside
from groupppo.update.passes import LiveRows, Plan, policy_pass

Row = dict[str, Any]
Gradients = dict[str, Tensor]

# A parameter belongs to the first group whose word its name has.
PARAMETER_GROUPS: Mapping[str, tuple[str, ...]] = {
    "keys and values": ("k_proj", "v_proj", "k_norm"),
    "queries and outputs": ("q_proj", "o_proj", "q_norm"),
    "mlp": ("mlp",),
    "norms": ("norm",),
    "embedding and head": ("embed_tokens", "lm_head"),
}
EXACT, STREAMED = Plan("gathered"), Plan("streamed")
# verl's defaults of the actor's optimizer, which no benchmark changes.
_WEIGHT_DECAY, _BETAS, _CLIP_GRAD = 0.01, (0.9, 0.999), 1.0
_CASE = ["checkpoint", "arm", "title"]


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of a batch of rollouts and the derivative of the policy loss in each one's log-probability.

    Attributes:
        layout: the rollouts without padding.
        rows: (K,) the states before the endpoints, increasing.
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


def keys_values_of(model: Any, batch: Endpoints) -> list[KeysValues]:
    """Keys and values of a batch at the model's present weights, to be used later."""
    kept: list[KeysValues] = run_inside(model, lambda model, **_: collect(model, batch.layout)[1])
    return kept


def loss_gradient(
    model: Any,
    batch: Endpoints,
    plan: Plan,
    temperature: float,
    cached: list[KeysValues] | None = None,
    old: Tensor | None = None,
) -> tuple[Gradients, Tensor]:
    """Gradient of PPO's clipped loss by parameter name, and the (K,) log-probabilities that the plan computes.

    `cached` are keys and values for a streamed plan, `old` the (K,) log-probabilities of the policy that sampled; those
    of `model` unless given, where the ratio is 1.
    """
    model.zero_grad()
    labels = batch.layout.input_ids[batch.rows + 1]
    log_probs, _ = run_inside(model, policy_pass(batch.layout, batch.rows, labels, temperature, plan, cached))
    # At ratio 1 a weight is minus the advantage over what divides the loss, which is then 1.
    mask = LossMask(torch.ones_like(log_probs, dtype=torch.bool), torch.ones(1))
    before = log_probs.detach() if old is None else old
    policy_loss(log_probs, before, -batch.weights.to(log_probs.dtype), mask).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found, log_probs.detach()


def cosine_and_ratio(one: Gradients, other: Gradients, group: str = ALL) -> dict[str, float]:
    """`cosine` of two gradients in a parameter group and `norm_ratio` of their norms; NaN where one of them is zero."""
    left, right = flat(one, group), flat(other, group)
    norms = left.norm() * right.norm()
    if norms == 0:
        return {"cosine": nan, "norm_ratio": nan}
    return {"cosine": float(left @ right / norms), "norm_ratio": float(left.norm() / right.norm())}


def flat(gradients: Gradients, group: str = ALL) -> Tensor:
    """One float64 vector of the gradients in a parameter group."""
    return torch.cat([part.flatten().double() for name, part in gradients.items() if group in (ALL, group_of(name))])


def group_of(parameter: str) -> str:
    """The parameter group that a parameter's name belongs to; KeyError for none."""
    for group, words in PARAMETER_GROUPS.items():
        if any(word in parameter for word in words):
            return group
    raise KeyError(f"parameter {parameter} belongs to no group of {', '.join(PARAMETER_GROUPS)}")


def update_speedup(shape: Shape, batch: Endpoints, live: Tensor, mode: str) -> float:
    """Operations of a dense update of the batch over those of a mode of `groupppo.update.flops`.

    `live` are the (L,) increasing places of the tokens that flow, in the streamed modes.
    """
    sequences, count = batch.layout.sequence, len(batch.layout.lengths)
    endpoints, flowing = (torch.bincount(sequences[rows], minlength=count).tolist() for rows in (batch.rows, live))
    kept = torch.zeros(count, dtype=torch.long)
    kept.scatter_reduce_(0, sequences[batch.rows], batch.layout.position[batch.rows] + 1, reduce="amax")
    dense = other = 0.0
    for tokens, rows, moving, needed in zip(
        batch.layout.lengths.tolist(), endpoints, flowing, kept.tolist(), strict=True
    ):
        work = Work(tokens=tokens, response=tokens, endpoints=rows, live=moving, kept=needed)
        dense += sum(update_flops(shape, work, "dense").values())
        # A sequence without endpoints is dropped by the exact update.
        other += sum(update_flops(shape, work, mode).values()) if needed or mode != "gathered" else 0.0
    return dense / other


# ---- bias against cost


def kind_of(way: LiveRows) -> tuple[str, float]:
    """What flows next to the endpoints, and how much of it."""
    if way.share > 0.0:
        return SHARE, way.share
    return (WINDOW, float(way.window)) if way.window else (ENDPOINTS, 0.0)


def measure_curve(
    model: Any, endpoints: Sequence[Endpoints], ways: Sequence[LiveRows], temperature: float
) -> tuple[pd.DataFrame, list[Gradients]]:
    """Every way of streaming on every batch, beside the exact update, which is one of the ways, `gathered`.

    Returns:
        a row for every batch, way and parameter group, and the exact gradients of every batch.
    """
    shape, rows, gradients = Shape.of(model.config), list[Row](), list[Gradients]()
    for number, batch in enumerate(endpoints):
        exact, _ = loss_gradient(model, batch, EXACT, temperature)
        cached = keys_values_of(model, batch)
        gradients.append(exact)
        for way in ways:
            live = way.places(batch.layout, batch.rows, seed=number)
            found, _ = loss_gradient(model, batch, Plan("streamed", live=way, seed=number), temperature, cached)
            point: Row = {
                **dict(zip(("kind", "size"), kind_of(way), strict=True)),
                "batch": number,
                "live": len(live) / len(batch.layout.input_ids),
                "speedup": update_speedup(shape, batch, live, "streamed_reuse"),
                "speedup_recompute": update_speedup(shape, batch, live, "streamed"),
            }
            rows += [point | {"group": one} | cosine_and_ratio(found, exact, one) for one in (ALL, *PARAMETER_GROUPS)]
        speed = update_speedup(shape, batch, batch.rows, "gathered")
        same: Row = {"kind": GATHERED, "size": 0.0, "batch": number, "live": 1.0, "group": ALL}
        rows.append(same | {"speedup": speed, "speedup_recompute": speed, "cosine": 1.0, "norm_ratio": 1.0})
    return pd.DataFrame(rows), gradients


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_groups`: endpoints alone, by parameter group."""
    return _summarised(rows[rows["kind"] == ENDPOINTS], [*_CASE, "group"], ("cosine", "norm_ratio"))


def cost_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_costs`, from `measure_curve` with checkpoint, arm, title and density."""
    plain = ("density", "live", "speedup", "speedup_recompute")
    return _summarised(rows[rows["group"] == ALL], [*_CASE, "kind", "size"], ("cosine", "norm_ratio"), plain)


def staleness_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_staleness`, from `stale_rows` with checkpoint, arm and title."""
    return _summarised(rows, [*_CASE, "steps", "kv"], ("cosine", "norm_ratio", "log_prob_error", "moved"))


def _summarised(
    rows: pd.DataFrame, keys: Sequence[str], names: Sequence[str], plain: Sequence[str] = ()
) -> pd.DataFrame:
    """Means over batches, of `names` with their 90 % t intervals; a row for each value of the keys, in their order."""
    found = []
    for key, own in rows.groupby(list(keys), sort=False):
        row = dict(zip(keys, key, strict=True)) | {name: own[name].to_numpy(float).mean() for name in plain}
        for name in names:
            row |= columns(name, mean_of(own[name].to_numpy(float)))
        found.append(row | {"batches": len(own)})
    return pd.DataFrame(found)


# ---- keys and values that grow old


def stale_rows(
    policy: Any,
    endpoints: Sequence[Endpoints],
    gradients: Sequence[Gradients],
    counts: Sequence[int],
    learning_rate: float,
    temperature: float,
) -> Iterator[Row]:
    """Streamed against exact gradient of PPO's loss after n exact updates on the same batch, at endpoints alone.

    Args:
        policy: before the first update, in evaluation mode; left as it is.
        endpoints: one item per batch.
        gradients: exact ones at the policy's weights, of these batches and perhaps of further ones. Those of the other
            batches are the optimizer's past: with none Adam's first steps would be as long as its rate allows.
        counts: numbers of updates, increasing.
        learning_rate: of the updates.
        temperature: of the sampling.

    Yields:
        a row for each batch, count and `kv`; errors of log-probabilities at endpoints and their move, in nats.
    """
    for number, batch in enumerate(endpoints):
        model = copy.deepcopy(policy)
        kept = keys_values_of(model, batch)
        optimizer = warm_optimizer(model, [one for k, one in enumerate(gradients) if k != number], learning_rate)
        exact, old = loss_gradient(model, batch, EXACT, temperature)
        log_probs, done = old, 0
        for count in counts:
            for _ in range(count - done):
                _step(model, optimizer, exact)
                exact, log_probs = loss_gradient(model, batch, EXACT, temperature, old=old)
            done = count
            for name, cached in ((RECOMPUTE, keys_values_of(model, batch)), (REUSE, kept)):
                found, streamed = loss_gradient(model, batch, STREAMED, temperature, cached, old)
                yield {
                    "steps": count,
                    "kv": name,
                    **cosine_and_ratio(found, exact),
                    "log_prob_error": float((streamed - log_probs).abs().mean()),
                    "moved": float((log_probs - old).abs().mean()),
                }


def warm_optimizer(model: Any, gradients: Sequence[Gradients], learning_rate: float) -> torch.optim.AdamW:
    """verl's optimizer of the policy with the moments of some gradients, the parameters not moved."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=_BETAS, weight_decay=_WEIGHT_DECAY)
    for one in gradients:
        _step(model, optimizer, one)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return optimizer


def _step(model: Any, optimizer: torch.optim.AdamW, gradients: Gradients) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_GRAD)
    optimizer.step()
    optimizer.zero_grad()
