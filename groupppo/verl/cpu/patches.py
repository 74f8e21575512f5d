"""What has to be mended from outside for verl 0.9.1 to train on a CPU, one function per place.

Each names the verl file and line it answers; tests/verl/test_patches.py fails when verl changes there.
"""

from typing import Any

import torch
from torch import Tensor


def patch_training() -> None:
    """All mends a training worker needs; called once, before its first engine is built."""
    _gloo_only()
    _no_pinned_offload()
    _value_head_without_flash_attention()
    _log_probs_at_once()
    _register_engines()


def _gloo_only() -> None:
    """utils/distributed.py:63,89 build the backend "cpu:gloo,cpu:gloo", which torch refuses as a double entry."""
    import verl.workers.engine_workers as workers

    stock = workers.initialize_global_process_group_ray

    def initialize(timeout_second: int | None = None, backend: str | None = None) -> None:
        stock(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    workers.initialize_global_process_group_ray = initialize


def _no_pinned_offload() -> None:
    """workers/engine/fsdp/transformer_impl.py:461 pins the reference model's memory, which needs an accelerator."""
    import verl.workers.engine.fsdp.transformer_impl as engine

    engine.CPUOffloadPolicy = lambda pin_memory=False: None


def _value_head_without_flash_attention() -> None:
    """utils/model.py:645 loads the critic with flash attention whatever the config says."""
    import verl.utils.model as model

    def load(local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool) -> torch.nn.Module:
        from transformers import AutoModelForTokenClassification

        critic = AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            trust_remote_code=trust_remote_code,
            attn_implementation="sdpa",
        )
        critic.config.architectures = [type(critic).__name__]  # by this verl knows what to save it as
        return critic

    model.load_valuehead_model = load


def _log_probs_at_once() -> None:
    """utils/torch_functional.py:197 takes the logsumexp of one row after the other, which on this path are tokens.

    Where flash attention's kernel is there, verl does not come here. The values and gradients are the same to the bit.
    """
    import verl.utils.torch_functional as functional

    functional.logprobs_from_logits_v2 = log_probs_at_once


def log_probs_at_once(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (...) of `labels` (...) under `logits` (..., vocabulary)."""
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def _register_engines() -> None:
    """workers/engine/fsdp/transformer_impl.py:1143,1594 register the FSDP engines for cuda and npu only."""
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

    for kind, engine in (("language_model", FSDPEngineWithLMHead), ("value_model", FSDPEngineWithValueHead)):
        if "cpu" not in EngineRegistry._engines[kind]["fsdp2"]:
            EngineRegistry.register(model_type=kind, backend=["fsdp", "fsdp2"], device="cpu")(engine)
