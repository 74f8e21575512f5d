"""Streamed updates whose keys and values are older than the weights: `kv: reuse` after n optimizer steps.

Keys and values are made once, before a step's first update. With several epochs or mini-batches the later updates use
them under other weights, so that even the streamed values, exact at first, are wrong.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.studies.names import RECOMPUTE, REUSE
from groupppo.studies.streams import Endpoints, Gradients, Row, cosine_and_ratio, flat, keys_values_of
from groupppo.update.network import KeysValues, run_inside
from groupppo.update.passes import Plan, policy_pass

EXACT, STREAMED = Plan("gathered"), Plan("streamed")
# verl's defaults of the actor's optimizer, which no benchmark changes.
_WEIGHT_DECAY, _BETAS, _CLIP_GRAD = 0.01, (0.9, 0.999), 1.0


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
        policy: before the first update, in evaluation mode; left as it is. endpoints: one item per batch.
        gradients: exact ones at the policy's weights, of these batches and perhaps of further ones.
        counts: numbers of updates, increasing.

    Yields:
        one row per batch, count and `kv`: batch, steps, kv, cosine, norm_ratio; log_prob_error and log_prob_error_max,
        mean and largest |streamed - exact log-probability| over endpoints, and moved, mean |exact - old|, in nats.
    """
    for number, batch in enumerate(endpoints):
        model = copy.deepcopy(policy)
        old = endpoint_log_probs(model, batch, temperature)
        kept = keys_values_of(model, batch)
        optimizer = warm_optimizer(model, [one for k, one in enumerate(gradients) if k != number], learning_rate)
        done = 0
        exact, log_probs = _loss_gradient(model, batch, EXACT, temperature, old, None)
        for count in counts:
            while done < count:
                _step(model, optimizer, exact)
                exact, log_probs = _loss_gradient(model, batch, EXACT, temperature, old, None)
                done += 1
            for name, cached in ((RECOMPUTE, keys_values_of(model, batch)), (REUSE, kept)):
                found, streamed = _loss_gradient(model, batch, STREAMED, temperature, old, cached)
                cosine, ratio = cosine_and_ratio(flat(found), flat(exact))
                error = (streamed - log_probs).abs()
                yield {
                    "batch": number,
                    "steps": count,
                    "kv": name,
                    "cosine": cosine,
                    "norm_ratio": ratio,
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


@torch.no_grad()
def endpoint_log_probs(model: Any, batch: Endpoints, temperature: float) -> Tensor:
    """(K,) exact log-probabilities of a batch's endpoints, in nats."""
    log_probs: Tensor = run_inside(model, policy_pass(batch.layout, batch.rows, batch.labels, temperature, EXACT))[0]
    return log_probs


def _loss_gradient(
    model: Any, batch: Endpoints, plan: Plan, temperature: float, old: Tensor, cached: list[KeysValues] | None
) -> tuple[Gradients, Tensor]:
    """Gradient of the clipped loss as the plan computes log-probabilities, and those log-probabilities."""
    model.zero_grad()
    log_probs, _ = run_inside(model, policy_pass(batch.layout, batch.rows, batch.labels, temperature, plan, cached))
    # At ratio 1 a weight is minus the advantage over what divides the loss, which is then 1.
    mask = LossMask(torch.ones_like(log_probs, dtype=torch.bool), torch.ones(1))
    policy_loss(log_probs, old, -batch.weights.to(log_probs.dtype), mask).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found, log_probs.detach()


def _step(model: Any, optimizer: torch.optim.AdamW, gradients: Gradients) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP_GRAD)
    optimizer.step()
    optimizer.zero_grad()
