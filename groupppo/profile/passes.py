"""How each variant of the catalogue computes its loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.profile.batch import Batch
from groupppo.profile.peers import HEADS, Head
from groupppo.update.head import head_log_probs
from groupppo.update.network import collect, hidden_at_rows, run_inside
from groupppo.update.plan import Plan, policy_pass
from groupppo.update.store import KeysValuesStore
from groupppo.update.streamed import LiveRows
from groupppo.update.variants import Variant

# What a variant computes before it is measured, and whose memory it holds while it is.
Prepared = KeysValuesStore | None


def prepare(variant: Variant, model: Any, batch: Batch) -> Prepared:
    """Keys and values of an earlier pass where the variant reuses them."""
    if not variant.reuse:
        return None
    store = KeysValuesStore(budget_bytes=2**40, device=str(batch.layout.input_ids.device))
    _, layers = run_inside(model, lambda inside, **_: collect(inside, batch.layout))
    store.put(batch.layout, layers)
    return store


def loss(variant: Variant, model: Any, batch: Batch, prepared: Prepared) -> Tensor:
    """The policy loss of one micro-batch, a scalar: its mean over the response's tokens, or over its endpoints."""
    log_probs = log_probs_of(variant, model, batch, prepared)[None]
    old, advantages = batch.old_log_probs[None], batch.advantages[None]
    if variant.on == "endpoints":
        old, advantages = old[:, batch.endpoints], advantages[:, batch.endpoints]
    counts = torch.ones_like(old, dtype=torch.bool)
    if variant.on == "masked":
        counts = torch.zeros_like(counts).index_fill_(1, batch.endpoints, True)
    return policy_loss(log_probs, old, advantages, LossMask(counts, counts))


def log_probs_of(variant: Variant, model: Any, batch: Batch, prepared: Prepared) -> Tensor:
    """Log-probabilities with a gradient: (R,) of the response's tokens, or (K,) of its endpoints."""
    if variant.name in HEADS:
        return _with_head(HEADS[variant.name], model, batch)
    if variant.name in _OWN:
        return _OWN[variant.name](model, batch)
    cached = None if prepared is None else prepared.get(batch.layout)
    labels = batch.labels[batch.endpoints]
    log_probs: Tensor = run_inside(
        model, policy_pass(batch.layout, batch.endpoint_rows, labels, 1.0, _plan(variant), cached)
    )[0]
    return log_probs


def live_tokens(variant: Variant, batch: Batch) -> int:
    """Tokens that flow through the network in a streamed variant; 0 in others, where all do."""
    return len(_live(variant).places(batch.layout, batch.endpoint_rows)) if variant.streamed else 0


def fused_log_probs(model: Any, batch: Batch) -> Tensor:
    """(R,) log-probabilities of all tokens of the response, the head in chunks that keep no logits."""

    def run(inside: Any, **_: Any) -> Tensor:
        hidden = hidden_at_rows(inside, batch.layout, batch.rows, cut=False, last_layer=False)
        log_probs: Tensor = inside.lm_head(hidden, instead=at_head)
        return log_probs

    def at_head(head: Any, hidden: Tensor) -> Tensor:
        return head_log_probs(hidden, head.weight, batch.labels, keep_bytes=0)[0]

    log_probs: Tensor = run_inside(model, run)
    return log_probs


def _dense(model: Any, batch: Batch) -> Tensor:
    ids, positions = batch.layout.network_input()
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    # A slice, not an index: the rows lie side by side, and an index would copy them.
    log_pi = torch.log_softmax(logits[0, batch.rows[0] : batch.rows[-1] + 1].float(), dim=-1)
    return log_pi.gather(1, batch.labels[:, None]).squeeze(1)


def _head_at_endpoints(model: Any, batch: Batch) -> Tensor:
    logits = model.lm_head(_body(model, batch)[batch.endpoint_rows])
    log_pi = torch.log_softmax(logits.float(), dim=-1)
    return log_pi.gather(1, batch.labels[batch.endpoints, None]).squeeze(1)


def _with_head(head: Head, model: Any, batch: Batch) -> Tensor:
    return head(_body(model, batch)[batch.rows], model.lm_head.weight, batch.labels)


def _body(model: Any, batch: Batch) -> Tensor:
    ids, positions = batch.layout.network_input()
    base = getattr(model, model.base_model_prefix)
    hidden: Tensor = base(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
    return hidden


def _plan(variant: Variant) -> Plan:
    if variant.streamed:
        return Plan("streamed", live=_live(variant))
    return Plan("gathered", cut=variant.cut, last_layer=variant.mode == "gathered")


def _live(variant: Variant) -> LiveRows:
    return LiveRows(window=variant.window, share=variant.percent / 100)


_OWN: dict[str, Callable[[Any, Batch], Tensor]] = {
    "dense": _dense,
    "masked": _dense,
    "dense_fused": fused_log_probs,
    "gathered_head": _head_at_endpoints,
}
