"""verl's FSDP engines with passes that compute endpoints only; without a plan in the batch they are verl's own.

The plan arrives with the worker call (`extra_info`, see asks.py). Outputs have verl's shape, nested over prompt and
response, and are zero where nothing was computed.
"""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from groupppo.errors import BadInput
from groupppo.update.layout import Layout
from groupppo.update.network import install
from groupppo.update.passes import KeysValuesStore, LiveRows, Plan, caching_pass, policy_pass, value_pass
from groupppo.verl.asks import KEEP_BYTES, MODE, SEED, SHARE, USE_KEPT, WINDOW


class _Endpoints:
    """Where a micro-batch's endpoints are in its stream of tokens, which verl packs without padding."""

    def __init__(self, engine: Any, micro_batch: TensorDict):
        ids, mask = micro_batch["input_ids"], micro_batch["response_mask"]
        lengths, responses = ids.offsets().diff(), mask.offsets().diff()
        flash = str(engine.module.config._attn_implementation).startswith("flash")
        packed = flash and bool(tu.get_non_tensor_data(micro_batch, key="use_remove_padding", default=True))
        self.layout = Layout(ids.values(), lengths, packed)
        self.offsets = ids.offsets()
        # The row before a token predicts it.
        before = torch.repeat_interleave(ids.offsets()[1:] - responses - mask.offsets()[:-1] - 1, responses)
        self.response_rows = before + torch.arange(len(before), device=before.device)
        self.rows = self.response_rows[mask.values().bool()]
        self._temperature = micro_batch["temperature"]

    def labels(self, rows: Tensor) -> Tensor:
        return self.layout.input_ids[rows + 1]

    def temperature(self, rows: Tensor) -> Tensor | float:
        if isinstance(self._temperature, Tensor):
            return self._temperature[self.layout.sequence[rows]]
        return float(self._temperature)

    def nested(self, rows: Tensor, values: Tensor) -> Tensor:
        """(K,) values at the rows as verl's nested (B, prompt + response)."""
        full = values.new_zeros(len(self.layout.input_ids)).index_put((rows,), values)
        return torch.nested.nested_tensor_from_jagged(full, self.offsets)


class _EndpointPasses:
    """A forward pass of the module that is ours where the batch brings a plan; mixed into verl's engines."""

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        plan, keep = _plan(micro_batch), int(_read(micro_batch, KEEP_BYTES, 0))
        if plan is None and not keep:
            inputs, args = super().prepare_model_inputs(micro_batch)  # type: ignore[misc]
            return inputs, args
        if self.use_ulysses_sp:  # type: ignore[attr-defined]
            raise BadInput("actor_rollout_ref.actor", "ulysses_sequence_parallel_size", "above 1", "write 1.")
        install(self.module)  # type: ignore[attr-defined]
        where = _Endpoints(self, micro_batch)
        rows = where.response_rows if plan is None else where.rows
        counts = len(rows) > 0
        if not counts:  # other ranks wait for this one's collectives, so it computes a row that counts for nothing
            rows = where.response_rows[:1]
        args = {"where": where, "rows": rows, "counts": counts}
        return {"instead": self._pass(where, rows, plan, micro_batch)}, args

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        if "where" not in output_args:
            stock: dict[str, Tensor] = super().prepare_model_outputs(  # type: ignore[misc]
                output=output,
                output_args=output_args,
                micro_batch=micro_batch,
                logits_processor_func=logits_processor_func,
            )
            return stock
        where, rows = output_args["where"], output_args["rows"]
        named = self._named(output, micro_batch)
        return {name: where.nested(rows, values * output_args["counts"]) for name, values in named.items()}

    def _pass(self, where: _Endpoints, rows: Tensor, plan: Plan | None, micro_batch: TensorDict) -> Callable[..., Any]:
        raise NotImplementedError

    def _named(self, output: Any, micro_batch: TensorDict) -> dict[str, Tensor]:
        raise NotImplementedError


class EndpointPolicyEngine(_EndpointPasses, FSDPEngineWithLMHead):
    """Policy and reference: log-probabilities and entropies at endpoints."""

    store: KeysValuesStore | None = None

    def infer_batch(self, data: TensorDict, loss_function: Any = None) -> Any:
        keep = int(_read(data, KEEP_BYTES, 0))
        if keep:
            self.store = KeysValuesStore(keep, device=str(data["input_ids"].device))
        return super().infer_batch(data, loss_function=loss_function)

    def _pass(self, where: _Endpoints, rows: Tensor, plan: Plan | None, micro_batch: TensorDict) -> Callable[..., Any]:
        labels, temperature = where.labels(rows), where.temperature(rows)
        if plan is None:
            store = self.store
            assert store is not None
            return caching_pass(where.layout, rows, labels, temperature, lambda kept: store.put(where.layout, kept))
        cached = None
        if _read(micro_batch, USE_KEPT, False):
            if self.store is None:
                raise BadInput(
                    "algorithm.group_params", "kv", "reuse", "no pass kept keys and values; write recompute."
                )
            cached = self.store.get(where.layout)
        return policy_pass(where.layout, rows, labels, temperature, plan, cached)

    def _named(self, output: Any, micro_batch: TensorDict) -> dict[str, Tensor]:
        log_probs, entropies = output
        named = {"log_probs": log_probs}
        if _read(micro_batch, "calculate_entropy", False):
            named["entropy"] = entropies
        return named


class EndpointValueEngine(_EndpointPasses, FSDPEngineWithValueHead):
    """Critic: values at endpoints, always exact."""

    def _pass(self, where: _Endpoints, rows: Tensor, plan: Plan | None, micro_batch: TensorDict) -> Callable[..., Any]:
        assert plan is not None
        return value_pass(where.layout, rows, Plan("gathered"))

    def _named(self, output: Any, micro_batch: TensorDict) -> dict[str, Tensor]:
        return {"values": output}


def _plan(micro_batch: TensorDict) -> Plan | None:
    mode = _read(micro_batch, MODE, None)
    if mode is None:
        return None
    live = LiveRows(window=int(_read(micro_batch, WINDOW, 0)), share=float(_read(micro_batch, SHARE, 0.0)))
    return Plan(mode=mode, live=live, seed=int(_read(micro_batch, SEED, 0)))


def _read(data: TensorDict, key: str, default: Any) -> Any:
    return tu.get_non_tensor_data(data, key=key, default=default)


def register_engines(device: str) -> None:
    """Put these engines in the place of verl's for `device`; once per process."""
    from verl.workers.engine.base import EngineRegistry

    for kind, engine in (("language_model", EndpointPolicyEngine), ("value_model", EndpointValueEngine)):
        for backend in ("fsdp", "fsdp2"):
            EngineRegistry._engines[kind][backend][device] = engine
