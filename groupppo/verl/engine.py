"""verl's FSDP engines and workers with passes that compute endpoints only; without a plan the passes are verl's own.

The plan arrives with the worker call (passes.py). Outputs have verl's shape, nested over prompt and response, and are
zero where nothing was computed.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.trainer.ppo.core_algos import compute_value_loss
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name, get_torch_device
from verl.utils.distributed import initialize_global_process_group_ray
from verl.utils.metric import AggregationType, Metric
from verl.utils.torch_functional import masked_mean
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.losses import value_loss
from verl.workers.utils.padding import no_padding_2_padding, response_from_nested

from groupppo.errors import BadInput
from groupppo.measure.stages import AllocatorPeaks
from groupppo.update.layout import Layout
from groupppo.update.network import install
from groupppo.update.passes import KeysValuesStore, LiveRows, Plan, caching_pass, policy_pass, value_pass
from groupppo.verl import patches, require_platform
from groupppo.verl.passes import (
    KEEP_BYTES,
    MODE,
    OWN_OLD,
    SEED,
    SHARE,
    SHARED,
    SKIP_ZERO,
    USE_KEPT,
    VALUE_WEIGHTS,
    WINDOW,
)

VENDOR = "groupppo"
_ENGINE = {"backend": ["fsdp", "fsdp2"], "device": ["cpu", "cuda"], "vendor": VENDOR}


class _Endpoints:
    """The rows of a micro-batch's packed stream of tokens that a pass computes: of endpoints, or all of responses."""

    def __init__(self, engine: Any, micro_batch: TensorDict, every: bool):
        ids, mask = micro_batch["input_ids"], micro_batch["response_mask"]
        lengths, responses = ids.offsets().diff(), mask.offsets().diff()
        flash = str(engine.module.config._attn_implementation).startswith("flash")
        packed = flash and bool(tu.get_non_tensor_data(micro_batch, key="use_remove_padding", default=True))
        prompts = lengths - responses if _read(micro_batch, SHARED, False) else None
        self.layout = Layout(ids.values(), lengths, packed, prompts)
        self._offsets = ids.offsets()
        # The row before a token predicts it.
        before = torch.repeat_interleave(ids.offsets()[1:] - responses - mask.offsets()[:-1] - 1, responses)
        rows = before + torch.arange(len(before), device=before.device)
        wanted = torch.ones_like(rows, dtype=torch.bool) if every else mask.values().bool()
        self._skipped: tuple[Tensor, Tensor] | None = None
        if _read(micro_batch, SKIP_ZERO, False):
            moves = micro_batch["advantages"].values() != 0
            skipped, wanted = wanted & ~moves, wanted & moves
            if "old_log_probs" in micro_batch:  # their ratio is 1 then, and no metric of ratios overflows
                self._skipped = rows[skipped], micro_batch["old_log_probs"].values()[skipped]
        found = rows[wanted]
        # A rank without endpoints computes a row for nothing, as other ranks wait for it.
        self.rows, self._counts = (found, True) if len(found) else (rows[:1], False)
        self.labels = self.layout.input_ids[self.rows + 1]
        each = micro_batch["temperature"]
        self.temperature = each[self.layout.sequence[self.rows]] if isinstance(each, Tensor) else float(each)

    def nested(self, values: Tensor) -> Tensor:
        """(K,) values at the rows as verl's nested (B, prompt + response)."""
        full = values.new_zeros(len(self.layout.input_ids)).index_put((self.rows,), values * self._counts)
        if self._skipped is not None:
            full = full.index_put((self._skipped[0],), self._skipped[1].to(full.dtype))
        return torch.nested.nested_tensor_from_jagged(full, self._offsets)


class _EndpointPasses:
    """A forward pass of the module that is ours where the batch brings a plan; mixed into verl's engines."""

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        plan, keep = _plan(micro_batch), int(_read(micro_batch, KEEP_BYTES, 0))
        if plan is None and not keep:
            inputs, args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
            return inputs, args
        install(self.module)  # type: ignore[attr-defined]
        where = _Endpoints(self, micro_batch, every=plan is None)
        return {"instead": self._pass(where, plan, micro_batch)}, {"endpoints": where}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        if "endpoints" in output_args:
            named = self._named(output, micro_batch)
            return {name: output_args["endpoints"].nested(values) for name, values in named.items()}
        stock: dict[str, Tensor] = super().prepare_model_outputs(  # type: ignore[misc]
            output=output,
            output_args=output_args,
            micro_batch=micro_batch,
            logits_processor_func=logits_processor_func,
        )
        return stock

    def forward_step(self, micro_batch: TensorDict, loss_function: Any, forward_only: bool) -> Any:
        """verl's, where a mini-batch in which no token counts is a loss of zero, not zero over zero."""
        if _read(micro_batch, "batch_num_tokens", None) == 0:
            tu.assign_non_tensor(micro_batch, batch_num_tokens=1)
        if loss_function is not None and _read(micro_batch, OWN_OLD, False):
            loss_function = partial(_with_own_old, loss_function)
        return super().forward_step(micro_batch, loss_function=loss_function, forward_only=forward_only)  # type: ignore[misc]

    def _build_fsdp_module(self, module: Any) -> Any:
        """On a CPU without FSDP2's offload policy: it pins memory, which needs an accelerator."""
        config = self.engine_config  # type: ignore[has-type]
        offloads = config.forward_only or config.offload_policy
        if get_device_name() != "cpu" or not offloads:
            return super()._build_fsdp_module(module)  # type: ignore[misc]
        self._is_offload_param = self._is_offload_optimizer = False
        self._uses_fsdp2_cpu_offload_policy = True
        try:
            self.engine_config = replace(config, forward_only=False, offload_policy=False)
            return super()._build_fsdp_module(module)  # type: ignore[misc]
        finally:
            self.engine_config = config

    def _pass(self, where: _Endpoints, plan: Plan | None, micro_batch: TensorDict) -> Callable[..., Any]:
        raise NotImplementedError

    def _named(self, output: Any, micro_batch: TensorDict) -> dict[str, Tensor]:
        raise NotImplementedError


@EngineRegistry.register(model_type="language_model", **_ENGINE)
class EndpointPolicyEngine(_EndpointPasses, FSDPEngineWithLMHead):
    """Policy and reference: log-probabilities and entropies at endpoints."""

    store: KeysValuesStore | None = None

    def infer_batch(self, data: TensorDict, loss_function: Any = None) -> Any:
        keep = int(_read(data, KEEP_BYTES, 0))
        if keep:
            self.store = KeysValuesStore(keep)
        return super().infer_batch(data, loss_function=loss_function)

    def _pass(self, where: _Endpoints, plan: Plan | None, micro_batch: TensorDict) -> Callable[..., Any]:
        asked = where.layout, where.rows, where.labels, where.temperature
        store = self.store
        if plan is None:
            assert store is not None
            return caching_pass(*asked, lambda kept: store.put(where.layout, kept))
        if not _read(micro_batch, USE_KEPT, False):
            return policy_pass(*asked, plan, None)
        if store is None:
            raise BadInput("algorithm.group_params", "kv", "reuse", "no pass kept keys and values; write recompute.")
        return policy_pass(*asked, plan, store.get(where.layout))

    def _named(self, output: Any, micro_batch: TensorDict) -> dict[str, Tensor]:
        log_probs, entropies = output
        named = {"log_probs": log_probs}
        if _read(micro_batch, "calculate_entropy", False):
            named["entropy"] = entropies
        return named


@EngineRegistry.register(model_type="value_model", **_ENGINE)
class EndpointValueEngine(_EndpointPasses, FSDPEngineWithValueHead):
    """Critic: values at endpoints, always exact."""

    def _pass(self, where: _Endpoints, plan: Plan | None, micro_batch: TensorDict) -> Callable[..., Any]:
        return value_pass(where.layout, where.rows, Plan("gathered"))

    def _named(self, output: Any, micro_batch: TensorDict) -> dict[str, Tensor]:
        return {"values": output}

    def _build_module(self) -> Any:
        """Without flash attention, which verl's loader of critics asks for, the class that the architecture names."""
        config = self.model_config.hf_config
        if str(config._attn_implementation).startswith("flash"):
            return super()._build_module()
        config.num_labels, config.classifier_dropout, config.summary_dropout_prob = 1, 0.0, 0.0
        config.hidden_dropout = "0"
        config.architectures = [config.architectures[0].replace("ForCausalLM", "ForTokenClassification")]
        try:
            self.model_config.model_type = "language_model"
            return super()._build_module()
        finally:
            self.model_config.model_type = "value_model"


def _with_own_old(loss: Any, *, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None) -> Any:
    """verl's loss at the weights that gave the log-probabilities, before any step: every ratio is 1."""
    own = response_from_nested(model_output["log_probs"].detach(), data["response_mask"])
    data = data.copy()
    data["old_log_probs"] = own
    return loss(model_output=model_output, data=data, dp_group=dp_group)


def _plan(micro_batch: TensorDict) -> Plan | None:
    mode = _read(micro_batch, MODE, None)
    if mode is None:
        return None
    live = LiveRows(window=int(_read(micro_batch, WINDOW, 0)), share=float(_read(micro_batch, SHARE, 0.0)))
    return Plan(mode=mode, live=live, seed=int(_read(micro_batch, SEED, 0)))


def _read(data: TensorDict, key: str, default: Any) -> Any:
    return tu.get_non_tensor_data(data, key=key, default=default)


def weighted_value_loss(
    config: Any, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict[str, Any]]:
    """verl's `value_loss`, each token's term as often as its weight where the batch brings weights.

    Arguments and result are verl's. The clip fraction is a weighted mean, an estimate of that over all tokens.
    """
    if VALUE_WEIGHTS not in data:
        stock: tuple[Tensor, dict[str, Any]] = value_loss(config, model_output, data, dp_group)
        return stock
    found = no_padding_2_padding(model_output["values"], data)
    fields = data.select("values", "returns", "response_mask", VALUE_WEIGHTS).to_padded_tensor()
    loss, clipped = compute_value_loss(
        vpreds=found,
        values=fields["values"],
        returns=fields["returns"],
        response_mask=fields[VALUE_WEIGHTS],
        cliprange_value=config.cliprange_value,
        loss_agg_mode=config.loss_agg_mode,
        dp_size=data["dp_size"],
        batch_num_tokens=data["batch_num_tokens"],
        global_batch_size=data["global_batch_size"],
        loss_scale_factor=config.loss_scale_factor,
    )
    mean = masked_mean(found, fields["response_mask"].to(bool))
    return loss, {
        "critic/vf_loss": Metric(value=loss, aggregation=AggregationType.SUM),
        "critic/vf_clipfrac": clipped.detach().item(),
        "critic/vpred_mean": mean.detach().item(),
    }


def with_weights(loss: Any) -> Any:
    """The same partial function of verl's value loss with the weighted one in its place; another one as it is."""
    if isinstance(loss, partial) and loss.func is value_loss:
        return partial(weighted_value_loss, *loss.args, **loss.keywords)
    return loss


class ActorWorker(ActorRolloutRefWorker):
    """Policy, reference policy and rollout adapter of one rank; the critic of the rank shares its process."""

    def __init__(self, *args: Any, **kwargs: Any):
        _begin()
        super().__init__(*args, **kwargs)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def reset_peak_memory(self) -> AllocatorPeaks:
        """Start a new peak: on a GPU the allocator's; on a CPU the C library hands freed memory back."""
        device = get_torch_device()
        if get_device_name() == "cpu":
            ctypes.CDLL(None).malloc_trim(0)
        else:
            device.synchronize()
            device.reset_peak_memory_stats()
        return self.read_peak_memory()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def read_peak_memory(self) -> AllocatorPeaks:
        """The accelerator's allocator of this rank; zeros on a CPU, where the process tree is read instead."""
        device = get_torch_device()
        device.synchronize()
        return AllocatorPeaks(device.memory_allocated(), device.max_memory_allocated(), device.max_memory_reserved())

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def synchronise(self) -> None:
        """Wait until the accelerator of this rank has done what it was given, by policy and critic alike."""
        get_torch_device().synchronize()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def drop_keys_values(self) -> None:
        """Free what the log-probability pass kept for the update."""
        self.actor.engine.store = None


class CriticWorker(TrainingWorker):
    """Critic of one rank."""

    def __init__(self, *args: Any, **kwargs: Any):
        _begin()
        super().__init__(*args, **kwargs)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_loss_fn(self, loss_fn: Any) -> None:
        super().set_loss_fn(with_weights(loss_fn))


def _begin() -> None:
    """Choose our engines, and initialise torch.distributed on a CPU, where verl builds "cpu:gloo,cpu:gloo".

    A worker that is a fork has imported this module, but has the variables of another process.
    """
    os.environ["VERL_ENGINE_VENDOR"] = VENDOR
    if get_device_name() == "cpu":
        initialize_global_process_group_ray(backend="cpu:gloo")


require_platform()
os.environ["VERL_ENGINE_VENDOR"] = VENDOR  # also for tests, which build engines without a worker
patches.rollouts()
patches.log_probabilities()
