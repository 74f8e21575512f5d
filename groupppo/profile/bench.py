"""A model with its micro-batch at a real shape, and the passes of variants over it, each failure kept as a result.

Weights and tokens are random, which changes neither operations nor memory.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from groupppo.algorithm.loss import LossMask, policy_loss
from groupppo.profile import BYTES, Setting
from groupppo.update.flops import Shape, Work
from groupppo.update.head import head_log_probs
from groupppo.update.layout import Layout
from groupppo.update.memory import update_bytes
from groupppo.update.network import base_of, collect, hidden_at_rows, run_inside
from groupppo.update.passes import KeysValuesStore, LiveRows, Plan, policy_pass
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN, REFERENCE, Variant, find

CLIP_SAFE = 0.1
"""Nats: old and new log-probabilities differ by at most this much, so that no ratio meets the clip at 0.2."""


@dataclass(frozen=True)
class Batch:
    """One sequence of prompt and response with its endpoints.

    Attributes:
        layout: the sequence, S tokens.
        rows: (R,) the places that predict the response's tokens.
        endpoints: (K,) numbers of the response's tokens, increasing, the last token among them.
        old_log_probs: (R,) float32, from a pass of the model before losses are taken.
        advantages: (R,) float32.
    """

    layout: Layout
    rows: Tensor
    endpoints: Tensor
    old_log_probs: Tensor
    advantages: Tensor

    @property
    def labels(self) -> Tensor:
        """(R,) the response's tokens."""
        return self.layout.input_ids[self.rows + 1]

    @property
    def endpoint_rows(self) -> Tensor:
        """(K,) the places that predict the endpoints."""
        return self.rows[self.endpoints]

    def with_old(self, log_probs: Tensor, seed: int) -> "Batch":
        """The same batch, its old log-probabilities (R,) up to CLIP_SAFE away from the given ones."""
        generator = torch.Generator().manual_seed(seed)
        noise = (2 * torch.rand(len(log_probs), generator=generator) - 1) * CLIP_SAFE
        return replace(self, old_log_probs=log_probs.detach().float() + noise.to(log_probs.device))


def random_batch(vocabulary: int, prompt: int, response: int, density: Fraction, seed: int, device: str) -> Batch:
    """Random tokens and advantages; every (1/density)-th token of the response and its last one are endpoints."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (prompt + response,), generator=generator)
    stride = density.denominator
    ends = torch.arange(stride - 1, response, stride)
    endpoints = torch.cat([ends, torch.tensor([response - 1])]).unique()
    advantages = torch.randn(response, generator=generator)
    layout = Layout(ids.to(device), torch.tensor([len(ids)], device=device), packed=False)
    rows = torch.arange(prompt - 1, prompt + response - 1, device=device)
    return Batch(layout, rows, endpoints.to(device), torch.zeros(response, device=device), advantages.to(device))


def build_model(family: str, shape: Shape, *, dtype: torch.dtype, checkpointing: bool, seed: int, device: str) -> Any:
    """A Hugging Face causal language model with random weights and gradients of zero, in training mode.

    Gradients are there before the first pass, as in every pass but the first of a training step: they are not part of
    what a pass needs.

    Args:
        family: "qwen2" (biases of queries, keys and values), "qwen3" (norms of queries and keys) or "llama".
        device: "cpu", "cuda", or "meta", where weights have shapes only.
    """
    config = AutoConfig.for_model(
        family, **shape.as_config(), max_position_embeddings=32768, use_cache=False, pad_token_id=None
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()
    if checkpointing:
        # No layer of these models draws random numbers, so their state need not be kept.
        options = {"use_reentrant": False, "preserve_rng_state": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def prepare(variant: Variant, model: Any, batch: Batch) -> KeysValuesStore | None:
    """Keys and values of an earlier pass, where the variant reuses them."""
    if not variant.reuse:
        return None
    store = KeysValuesStore(budget_bytes=2**40)
    _, layers = run_inside(model, lambda inside, **_: collect(inside, batch.layout))
    store.put(batch.layout, layers)
    return store


def loss(variant: Variant, model: Any, batch: Batch, prepared: KeysValuesStore | None) -> Tensor:
    """The policy loss of one micro-batch, a scalar: its mean over the response's tokens, or over its endpoints."""
    log_probs = log_probs_of(variant, model, batch, prepared)[None]
    old, advantages = batch.old_log_probs[None], batch.advantages[None]
    if variant.on == "endpoints":
        old, advantages = old[:, batch.endpoints], advantages[:, batch.endpoints]
    counts = torch.ones_like(old, dtype=torch.bool)
    if variant.on == "masked":
        counts = torch.zeros_like(counts).index_fill_(1, batch.endpoints, True)
    return policy_loss(log_probs, old, advantages, LossMask(counts, counts))


def log_probs_of(variant: Variant, model: Any, batch: Batch, prepared: KeysValuesStore | None) -> Tensor:
    """Log-probabilities with a gradient: (R,) of the response's tokens, or (K,) of its endpoints."""
    labels = batch.labels[batch.endpoints]
    if variant.package:
        return _head_of(variant.name, _body(model, batch)[batch.rows], model.lm_head.weight, batch.labels)
    if variant.name == "dense_fused":
        return fused_log_probs(model, batch)
    if variant.name == "gathered_head":
        return _picked(model.lm_head(_body(model, batch)[batch.endpoint_rows]), labels)
    if variant.mode in ("dense", "masked"):
        ids, positions = batch.layout.network_input()
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        # A slice, not an index: the rows lie side by side, and an index would copy them.
        return _picked(logits[0, batch.rows[0] : batch.rows[-1] + 1], batch.labels)
    plan = Plan("gathered", cut=variant.cut, last_layer=variant.mode == "gathered")
    if variant.streamed:
        plan = Plan("streamed", live=_live(variant))
    cached = None if prepared is None else prepared.get(batch.layout)
    log_probs: Tensor = run_inside(model, policy_pass(batch.layout, batch.endpoint_rows, labels, 1.0, plan, cached))[0]
    return log_probs


def _picked(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1).gather(1, labels[:, None]).squeeze(1)


def _body(model: Any, batch: Batch) -> Tensor:
    ids, positions = batch.layout.network_input()
    hidden: Tensor = base_of(model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
    return hidden


def _head_of(variant: str, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """(N,) log-probabilities by another project's own function; only `verl_fused` has been run by us."""
    if variant == "cce":
        return -import_module("cut_cross_entropy").linear_cross_entropy(hidden, weight, labels, reduction="none")
    name = {"verl_fused": "torch_head", "verl_triton": "triton_head", "liger": "liger_head"}[variant]
    # Imported when it runs, for verl's import takes seconds.
    log_probs: Tensor = getattr(import_module("groupppo.verl.fused_heads"), name)(hidden, weight, labels)
    return log_probs


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


def live_tokens(variant: Variant, batch: Batch) -> int:
    """Tokens that flow through the network in a streamed variant; 0 in others, where all do."""
    return len(_live(variant).places(batch.layout, batch.endpoint_rows)) if variant.streamed else 0


def _live(variant: Variant) -> LiveRows:
    return LiveRows(window=variant.window, share=variant.percent / 100)


@dataclass
class Outcome:
    """Whether a variant could be measured, and why not; `status`: one of the four of the catalogue."""

    variant: str
    status: str = MEASURED
    reason: str = ""


class Bench:
    """What all variants of a setting share."""

    def __init__(self, setting: Setting):
        self.setting, self.shape = setting, setting.model.shape
        gc.collect()  # the model of the bench before this one is in cycles, and two may not fit
        torch.set_num_threads(setting.threads)
        self.model = build_model(
            setting.model.family,
            self.shape,
            dtype=getattr(torch, setting.dtype),
            checkpointing=setting.checkpointing,
            seed=setting.seed,
            device=setting.device,
        )
        sizes = setting.prompt, setting.response, Fraction(setting.density)
        batch = random_batch(self.shape.vocabulary, *sizes, setting.seed, setting.device)
        with torch.no_grad():
            self.batch = batch.with_old(fused_log_probs(self.model, batch), setting.seed)
        self.prepared: dict[str, KeysValuesStore | None] = {}

    @property
    def gradient_norm(self) -> float:
        return float(torch.stack([parameter.grad.float().norm() for parameter in self.model.parameters()]).norm())

    def work(self, variant: Variant) -> Work:
        """The sizes that the formulas of `update.flops` take for one variant."""
        batch = self.batch
        return Work(
            tokens=len(batch.layout.input_ids),
            response=len(batch.rows),
            endpoints=len(batch.endpoints),
            checkpointing=self.setting.checkpointing,
            live=live_tokens(variant, batch),
            kept=int(batch.rows[-1]) + 1 if variant.cut else 0,
        )

    def counted_bytes(self, variant: Variant) -> float:
        """The memory model's bytes of one pass, next to weights and gradients."""
        element = BYTES[self.setting.dtype]
        causes = update_bytes(self.shape, self.work(variant), variant.mode, eager=variant.eager, element=element)
        return sum(causes.values())

    def prepare(self, outcome: Outcome) -> None:
        """Make what a variant needs before its passes, or note why it cannot run."""
        variant = find(outcome.variant)
        if missing := variant.missing(self.setting.device):
            outcome.status, outcome.reason = NOT_RUN, missing
            return
        needed, free = self.counted_bytes(variant), free_bytes(self.setting.device)
        if needed > free:
            # On a CPU Linux would end the whole process, and with it the other variants' results.
            outcome.status = NO_MEMORY
            outcome.reason = f"not started: counted are {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
            return
        with guarded(outcome):
            self.prepared[variant.name] = prepare(variant, self.model, self.batch)

    def passes(self, outcome: Outcome) -> Callable[[], None]:
        """One forward and backward pass, ready to run; gradients are zero before it."""
        variant = find(outcome.variant)
        for parameter in self.model.parameters():
            parameter.grad.zero_()

        def run() -> None:
            loss(variant, self.model, self.batch, self.prepared[variant.name]).backward()

        return run


def free_bytes(device: str) -> int:
    """Memory that a process can still take, what torch's CUDA allocator holds in reserve included."""
    if device == "cpu":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _failures() -> tuple[type[Exception], ...]:
    """Triton's own are no RuntimeErrors: another project's kernel may want more shared memory than a card has."""
    of_triton = [import_module("triton.errors").TritonError] if find_spec("triton") else []
    return (MemoryError, RuntimeError, ImportError, *of_triton)


@contextmanager
def guarded(outcome: Outcome) -> Iterator[None]:
    """A failure ends its variant and not the setting, unless it is the reference: no ratio exists without it."""
    try:
        yield
    except _failures() as error:
        if outcome.variant == REFERENCE:
            raise
        ran_out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        outcome.status, outcome.reason = NO_MEMORY if ran_out else FAILED, " ".join(str(error).split())[:300]
