"""The variants of a policy update that are compared: one micro-batch, forward and backward, of the clipped policy loss.

Dense ones train on all R tokens of the response, the others on its K endpoints; all exact variants of a kind have the
same gradient. `streamed_reuse_window3` and the like are made from their name: `streamed_{recompute|reuse}`, then
`_window<tokens>` and `_share<percent>` of tokens that flow next to the endpoints.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from groupppo.loss import LossMask, policy_loss
from groupppo.profile import peers
from groupppo.profile.batch import Batch
from groupppo.update.head import head_log_probs
from groupppo.update.network import collect, hidden_at_rows, run_inside
from groupppo.update.plan import Plan, policy_pass
from groupppo.update.store import KeysValuesStore
from groupppo.update.streamed import LiveRows

# What a variant computes before it is measured, and whose memory it holds while it is.
Prepared = KeysValuesStore | None


@dataclass(frozen=True)
class Variant:
    """One way to compute an update.

    Attributes:
        name, title: in files, and in tables and figures. mode: its mode in `update.flops`.
        log_probs: (model, batch, prepared) -> (R,) or (K,) log-probabilities with a gradient.
        endpoints: whether they are the endpoints' only. masked: whether a mask leaves the endpoints' alone.
        exact: whether its gradient is that of the masked update.
        bound: the bound in `update.flops` that its operations cannot beat, "head", "update" or "" for none.
        eager: whether the head adds its gradient to its weights at once, and autograd holds no second copy.
        cut: whether tokens after the last endpoint's row are left out.
        live: what flows next to the endpoints in streamed variants.
        prepare: made once, before the rounds. missing: why it cannot run on a device, or nothing.
    """

    name: str
    title: str
    mode: str
    log_probs: Callable[[Any, Batch, Prepared], Tensor]
    endpoints: bool = True
    masked: bool = False
    exact: bool = True
    bound: str = ""
    eager: bool = True
    cut: bool = False
    live: LiveRows | None = None
    prepare: Callable[[Any, Batch], Prepared] = lambda _model, _batch: None
    missing: Callable[[str], str] = lambda _device: ""

    def loss(self, model: Any, batch: Batch, prepared: Prepared) -> Tensor:
        """The policy loss, a scalar; with `endpoints` or `masked` the mean over the K endpoints."""
        log_probs = self.log_probs(model, batch, prepared)[None]
        old, advantages = batch.old_log_probs[None], batch.advantages[None]
        if self.endpoints:
            old, advantages = old[:, batch.endpoints], advantages[:, batch.endpoints]
        counts = torch.ones_like(old, dtype=torch.bool)
        if self.masked:
            counts = torch.zeros_like(counts).index_fill_(1, batch.endpoints, True)
        return policy_loss(log_probs, old, advantages, LossMask(counts, counts))

    def live_tokens(self, batch: Batch) -> int:
        """Tokens that flow through the network with a gradient."""
        if self.live is None:
            return len(batch.layout.input_ids)
        return len(self.live.places(batch.layout, batch.endpoint_rows))


def find(name: str) -> Variant:
    """The variant of this name.

    Raises:
        ValueError: there is none.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    match = re.fullmatch(r"(streamed_(?:recompute|reuse))(?:_window([1-9]\d*))?(?:_share([1-9]\d?))?", name)
    if match is None:
        raise ValueError(f"no variant {name!r}; write one of {', '.join(VARIANTS)}, or such as streamed_reuse_window3")
    base, window, share = match.groups(default="0")
    live = LiveRows(window=int(window), share=int(share) / 100)
    parts = [f"{window} tokens before" if live.window else "", f"{share} % of the rest" if live.share else ""]
    stock = VARIANTS[base]
    title = f"{stock.title}, live: {' and '.join(part for part in parts if part)}"
    return replace(stock, name=name, title=title, log_probs=_streamed(live), live=live)


def fused_log_probs(model: Any, batch: Batch, _prepared: Prepared = None) -> Tensor:
    """(R,) log-probabilities of all tokens of the response, the head in chunks that keep no logits."""

    def run(inside: Any, **_: Any) -> Tensor:
        hidden = hidden_at_rows(inside, batch.layout, batch.rows, cut=False, last_layer=False)
        log_probs: Tensor = inside.lm_head(hidden, instead=at_head)
        return log_probs

    def at_head(head: Any, hidden: Tensor) -> Tensor:
        return head_log_probs(hidden, head.weight, batch.labels, keep_bytes=0)[0]

    log_probs: Tensor = run_inside(model, run)
    return log_probs


def _dense(model: Any, batch: Batch, _prepared: Prepared) -> Tensor:
    ids, positions = batch.layout.network_input()
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    # A slice, not an index: the rows lie side by side, and an index would copy them.
    log_pi = torch.log_softmax(logits[0, batch.rows[0] : batch.rows[-1] + 1].float(), dim=-1)
    return log_pi.gather(1, batch.labels[:, None]).squeeze(1)


def _peer(head: peers.Head) -> Callable[[Any, Batch, Prepared], Tensor]:
    """The stock body, and another project's fused head over all tokens of the response."""

    def run(model: Any, batch: Batch, _prepared: Prepared) -> Tensor:
        return head(_body(model, batch)[batch.rows], model.lm_head.weight, batch.labels)

    return run


def _head_at_endpoints(model: Any, batch: Batch, _prepared: Prepared) -> Tensor:
    logits = model.lm_head(_body(model, batch)[batch.endpoint_rows])
    log_pi = torch.log_softmax(logits.float(), dim=-1)
    return log_pi.gather(1, batch.labels[batch.endpoints, None]).squeeze(1)


def _body(model: Any, batch: Batch) -> Tensor:
    ids, positions = batch.layout.network_input()
    base = getattr(model, model.base_model_prefix)
    hidden: Tensor = base(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
    return hidden


def _gathered(cut: bool, last_layer: bool) -> Callable[[Any, Batch, Prepared], Tensor]:
    return _planned(Plan("gathered", cut=cut, last_layer=last_layer))


def _streamed(live: LiveRows) -> Callable[[Any, Batch, Prepared], Tensor]:
    return _planned(Plan("streamed", live=live))


def _planned(plan: Plan) -> Callable[[Any, Batch, Prepared], Tensor]:
    def run(model: Any, batch: Batch, prepared: Prepared) -> Tensor:
        cached = None if prepared is None else prepared.get(batch.layout)
        labels = batch.labels[batch.endpoints]
        log_probs: Tensor = run_inside(
            model, policy_pass(batch.layout, batch.endpoint_rows, labels, 1.0, plan, cached)
        )[0]
        return log_probs

    return run


def _kept(model: Any, batch: Batch) -> KeysValuesStore:
    store = KeysValuesStore(budget_bytes=2**40, device=str(batch.layout.input_ids.device))
    _, layers = run_inside(model, lambda inside, **_: collect(inside, batch.layout))
    store.put(batch.layout, layers)
    return store


_ALONE = LiveRows()
_ALL = (
    Variant("dense", "dense", "dense", _dense, endpoints=False, eager=False),
    Variant("masked", "masked (the origin)", "masked", _dense, endpoints=False, masked=True, eager=False),
    Variant("dense_fused", "dense, fused head (ours)", "fused", fused_log_probs, endpoints=False),
    *(
        Variant(peer.name, peer.title, "fused", _peer(peer.head), endpoints=False, eager=False, missing=peer.missing)
        for peer in peers.PEERS
    ),
    Variant("gathered_head", "head at endpoints", "gathered_head", _head_at_endpoints, bound="head", eager=False),
    Variant("gathered_head_eager", "+ eager head gradient", "gathered_head", _gathered(False, False), bound="head"),
    Variant(
        "gathered_head_cut",
        "+ cut behind the last",
        "gathered_head",
        _gathered(True, False),
        bound="update",
        cut=True,
    ),
    Variant("gathered", "gathered (+ last layer)", "gathered", _gathered(True, True), bound="update", cut=True),
    Variant(
        "streamed_recompute",
        "streamed, K/V recomputed",
        "streamed",
        _streamed(_ALONE),
        exact=False,
        live=_ALONE,
    ),
    Variant(
        "streamed_reuse",
        "streamed, K/V reused",
        "streamed_reuse",
        _streamed(_ALONE),
        exact=False,
        live=_ALONE,
        prepare=_kept,
    ),
)
VARIANTS = {variant.name: variant for variant in _ALL}
