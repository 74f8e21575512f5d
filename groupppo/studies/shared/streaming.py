"""How far the streamed update's gradient is from the exact one, on real rollouts, and what each way of streaming costs.

The streamed pass has the exact values but drops what flows through other tokens' keys and values. That is a bias, not
noise: it does not average out over batches. More live tokens lower it and cost more. Keys and values are made once,
before a step's first update: with several epochs or mini-batches the later updates use them under other weights, so
that even the streamed values, exact at first, are wrong.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.stats.intervals import Estimate
from groupppo.studies.shared.arms import Update
from groupppo.studies.shared.directions import columns, expected_cosine, inner_products, mean_of
from groupppo.studies.shared.rollouts import Rollouts
from groupppo.studies.shared.study import ALL, ENDPOINTS, GATHERED, RECOMPUTE, REUSE, SHARE, WINDOW
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

    @property
    def labels(self) -> Tensor:
        return self.layout.input_ids[self.rows + 1]


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

    Args:
        model: the policy, in evaluation mode.
        batch: its endpoints.
        plan: how the update is computed.
        temperature: of the sampling.
        cached: keys and values for a streamed plan.
        old: (K,) log-probabilities of the policy that sampled; those of `model` unless given, where the ratio is 1.
    """
    model.zero_grad()
    log_probs, _ = run_inside(model, policy_pass(batch.layout, batch.rows, batch.labels, temperature, plan, cached))
    # At ratio 1 a weight is minus the advantage over what divides the loss, which is then 1.
    mask = LossMask(torch.ones_like(log_probs, dtype=torch.bool), torch.ones(1))
    before = log_probs.detach() if old is None else old
    policy_loss(log_probs, before, -batch.weights.to(log_probs.dtype), mask).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found, log_probs.detach()


def cosine_and_ratio(one: Gradients, other: Gradients, group: str = ALL) -> dict[str, float]:
    """`cosine` of two gradients in a parameter group and `norm_ratio`, the first one's norm over the second's.

    NaN where one of them is zero.
    """
    left, right = flat(one, group), flat(other, group)
    norms = left.norm() * right.norm()
    if norms == 0:
        return {"cosine": nan, "norm_ratio": nan}
    return {"cosine": float(left @ right / norms), "norm_ratio": float(left.norm() / right.norm())}


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
        shape: of the model.
        batch: its endpoints.
        live: (L,) increasing places of the tokens that flow, in the streamed modes.
        mode: of `groupppo.update.flops`.
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


# ---- bias against cost


@dataclass(frozen=True)
class Curve:
    """What was measured of one arm at one checkpoint.

    Attributes:
        rows: of every batch, way and parameter group; the exact update, `gathered`, is one of the ways.
        gradients: exact ones of every batch.
        expected: cosine of each way's expected gradient with the exact one's, with its jackknife interval over batches.
    """

    rows: pd.DataFrame
    gradients: list[Gradients]
    expected: dict[tuple[str, float], Estimate]


def kind_of(way: LiveRows) -> tuple[str, float]:
    """What flows next to the endpoints, and how much of it."""
    if way.share > 0.0:
        return SHARE, way.share
    return (WINDOW, float(way.window)) if way.window else (ENDPOINTS, 0.0)


def measure_curve(model: Any, endpoints: Sequence[Endpoints], ways: Sequence[LiveRows], temperature: float) -> Curve:
    """Every way of streaming on every batch, beside the exact update.

    Args:
        model: the policy, in evaluation mode.
        endpoints: one item per batch.
        ways: what flows next to the endpoints.
        temperature: of the sampling.
    """
    shape = Shape.of(model.config)
    rows: list[Row] = []
    gradients: list[Gradients] = []
    vectors: list[list[Tensor]] = [[] for _ in (None, *ways)]
    for number, batch in enumerate(endpoints):
        exact, _ = loss_gradient(model, batch, EXACT, temperature)
        cached = keys_values_of(model, batch)
        gradients.append(exact)
        vectors[0].append(flat(exact).float())
        for way, kept in zip(ways, vectors[1:], strict=True):
            live = way.places(batch.layout, batch.rows, seed=number)
            found, _ = loss_gradient(model, batch, Plan("streamed", live=way, seed=number), temperature, cached)
            kept.append(flat(found).float())
            kind, size = kind_of(way)
            point: Row = {
                "kind": kind,
                "size": size,
                "batch": number,
                "live": len(live) / len(batch.layout.input_ids),
                "speedup": update_speedup(shape, batch, live, "streamed_reuse"),
                "speedup_recompute": update_speedup(shape, batch, live, "streamed"),
            }
            rows += [point | {"group": one} | cosine_and_ratio(found, exact, one) for one in (ALL, *PARAMETER_GROUPS)]
        speed = update_speedup(shape, batch, batch.rows, "gathered")
        same: Row = {"kind": GATHERED, "size": 0.0, "batch": number, "live": 1.0, "group": ALL}
        rows.append(same | {"speedup": speed, "speedup_recompute": speed, "cosine": 1.0, "norm_ratio": 1.0})
    inner = inner_products(torch.stack([torch.stack(own) for own in vectors]))
    expected = {kind_of(way): expected_cosine(inner, number, 0) for number, way in enumerate(ways, start=1)}
    return Curve(pd.DataFrame(rows), gradients, expected)


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_groups`: endpoints alone, by parameter group."""
    return _summarised(rows[rows["kind"] == ENDPOINTS], [*_CASE, "group"], ("cosine", "norm_ratio"))


def cost_table(rows: pd.DataFrame, expected: Mapping[tuple[str, str, str, float], Estimate]) -> pd.DataFrame:
    """Columns of table `stream_costs`: each way as a point (speed-up, cosine), and whether no other way beats it.

    Args:
        rows: `Curve.rows` with checkpoint, arm, title and density.
        expected: cosines of expected gradients by checkpoint, arm and way.
    """
    plain = ("density", "live", "speedup", "speedup_recompute")
    keys = [*_CASE, "kind", "size"]
    table = _summarised(rows[rows["group"] == ALL], keys, (*plain, "cosine", "norm_ratio"))
    table = table.drop(columns=[f"{name}_{end}" for name in plain for end in ("low", "high")])
    places = zip(*(table[key] for key in ("checkpoint", "arm", "kind", "size")), strict=True)
    found = [expected.get(place, Estimate(1.0, np.nan, np.nan)) for place in places]
    table[["expected_cosine", "expected_cosine_low", "expected_cosine_high"]] = np.array(found)
    return table.assign(pareto=pd.concat([pareto(own) for _, own in table.groupby(_CASE, sort=False)]))


def pareto(points: pd.DataFrame) -> pd.Series:
    """Which points no other one beats in speed-up or cosine without losing in the other."""
    speed, cosine = points["speedup"].to_numpy(), points["cosine"].to_numpy()
    no_worse = (speed[None] >= speed[:, None]) & (cosine[None] >= cosine[:, None])
    better = (speed[None] > speed[:, None]) | (cosine[None] > cosine[:, None])
    return pd.Series(~(no_worse & better).any(axis=1), index=points.index)


def _summarised(rows: pd.DataFrame, keys: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Means over batches with their 90 % t intervals, one row for each value of the keys in their order."""
    found = []
    for key, own in rows.groupby(list(keys), sort=False):
        row = dict(zip(keys, key, strict=True))
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

    The optimizer's moments are those of the other batches' gradients: with empty ones Adam's first steps would be as
    long as its rate allows.

    Args:
        policy: before the first update, in evaluation mode; left as it is.
        endpoints: one item per batch.
        gradients: exact ones at the policy's weights, of these batches and perhaps of further ones.
        counts: numbers of updates, increasing.
        learning_rate: of the updates.
        temperature: of the sampling.

    Yields:
        one row per batch, count and `kv`: batch, steps, kv, cosine, norm_ratio; log_prob_error and log_prob_error_max,
        mean and largest |streamed - exact log-probability| over endpoints, and moved, mean |exact - old|, in nats.
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
                error = (streamed - log_probs).abs()
                yield {
                    "batch": number,
                    "steps": count,
                    "kv": name,
                    **cosine_and_ratio(found, exact),
                    "log_prob_error": float(error.mean()),
                    "log_prob_error_max": float(error.max()),
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


def staleness_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table `stream_staleness`, from `stale_rows` with checkpoint, arm and title."""
    keys = [*_CASE, "steps", "kv"]
    table = _summarised(rows, keys, ("cosine", "norm_ratio", "log_prob_error", "moved"))
    largest = rows.groupby(keys, sort=False)["log_prob_error_max"].max()
    return table.assign(log_prob_error_max=largest.to_numpy())


def _step(model: Any, optimizer: torch.optim.AdamW, gradients: Gradients) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_GRAD)
    optimizer.step()
    optimizer.zero_grad()
