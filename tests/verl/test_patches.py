"""Each patch answers a place in a library; these tests fail when the library changes there, so that it is looked at."""

import importlib.metadata
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from verl.trainer.ppo.v1 import replay_buffer
from verl.utils import torch_functional

from groupppo.verl import patches
from groupppo.verl.patches import log_probs_at_once

SITE = Path(importlib.metadata.distribution("verl").locate_file(""))

# What each patch, and each seam that is used in the place of one, relies on.
RELIED_ON = {
    "log_probabilities": [
        ("verl/utils/torch_functional.py", "output = logprobs_from_logits_v2(logits, labels)"),
        ("verl/utils/torch_functional.py", "torch.stack([torch.logsumexp(logit, dim=-1) for logit in logits])"),
    ],
    "rollouts": [("verl/workers/rollout/base.py", "fqdn = _ROLLOUT_REGISTRY[(rollout_name, mode)]")],
    "transfer_queue": [("transfer_queue/utils/zmq_utils.py", "def create_zmq_socket(")],
    "vllm_linear_layers": [("vllm/model_executor/layers/utils.py", "def dispatch_cpu_unquantized_gemm(")],
    "vllm_http": [
        ("verl/workers/rollout/vllm_rollout/vllm_async_server.py", "await run_uvicorn(app, args, self._server_address)")
    ],
    "actor_class_ids": [("ray/actor.py", "ActorClassID.from_random(),")],
    "worker_setup": [
        ("ray/_private/node.py", "ray_constants.SETUP_WORKER_FILENAME"),
        ("ray/_private/workers/setup_worker.py", '"--serialized-runtime-env-context"'),
        ("ray/_private/workers/setup_worker.py", '"--language"'),
    ],
    "gathered_puts": [
        ("verl/trainer/ppo/v1/agent_loop_tq.py", "await tq.async_kv_batch_put("),
        ("verl/trainer/ppo/v1/agent_loop_tq.py", "fields=list_of_dict_to_tensordict(fields)"),
    ],
}
SEAMS = [
    ("verl/utils/distributed.py", "if not torch.distributed.is_initialized():"),
    ("verl/utils/distributed.py", 'backend = backend or f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"'),
    ("verl/workers/engine/base.py", 'vendor = os.getenv("VERL_ENGINE_VENDOR")'),
    ("verl/workers/engine/fsdp/transformer_impl.py", "offload_policy = CPUOffloadPolicy(pin_memory=True)"),
    ("verl/workers/engine/fsdp/transformer_impl.py", "auto_class = get_hf_auto_model_class("),
    ("verl/utils/model.py", 'attn_implementation="flash_attention_2"'),
    ("verl/third_party/vllm/__init__.py", 'package_name = "vllm"'),
    ("verl/checkpoint_engine/hccl_checkpoint_engine.py", "from vllm.distributed.utils import"),
    ("verl/trainer/ppo/v1/trainer_base.py", 'if self.trainer_mode == "sync"'),
    ("verl/trainer/main_ppo.py", "ray.get(runner.run.remote(config))"),
]


@pytest.mark.parametrize(("file", "text"), [*SEAMS, *(place for places in RELIED_ON.values() for place in places)])
def test_a_place_that_is_relied_on_still_reads_as_it_did(file: str, text: str) -> None:
    assert text in (SITE / file).read_text()


def test_every_patch_says_what_upstream_says_and_when_it_can_go_and_its_place_is_watched() -> None:
    made = {name: value for name, value in vars(patches).items() if hasattr(value, "cache_info")}
    assert made.keys() == RELIED_ON.keys()
    assert len(made) <= 8
    for one in made.values():
        assert re.search(r": .*Upstream: .* Until ", " ".join((one.__doc__ or "").split()))


def as_installed() -> Any:
    """verl's functions without our patches, whatever this process has imported."""
    spec = importlib.util.spec_from_file_location("as_installed", torch_functional.__file__)
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

    stock = both(as_installed().logprobs_from_logits_v2)
    assert all(map(torch.equal, both(log_probs_at_once), stock))
    assert not any(map(torch.equal, both(log_probs_at_once, (labels + 1) % shape[-1]), stock))


def test_log_probs_of_narrow_logits_are_float32_which_verls_are_not() -> None:
    random = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(30, 261, generator=random), torch.randint(261, (30,), generator=random)
    narrow = logits.bfloat16()
    exact = torch.log_softmax(narrow.double(), -1).gather(-1, labels[:, None]).squeeze(-1)
    for shape in ((30,), (5, 6)):
        found = log_probs_at_once(narrow.view(*shape, 261), labels.view(shape))
        assert (found.dtype, found.shape) == (torch.float32, shape)
        assert (found.flatten() - exact).abs().max() < 1e-5
    assert (as_installed().logprobs_from_logits_v2(narrow, labels) - exact).abs().max() > 1e-3


def test_verls_replay_buffer_still_polls_every_two_seconds() -> None:
    assert inspect.signature(replay_buffer.ReplayBuffer.__init__).parameters["poll_interval"].default == 2.0


LOOK = """
import verl
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from verl.plugin.platform import get_platform
seen = [type(get_platform()).__name__, find_spec("vllm") is not None]
for look in (lambda: __import__("vllm.version"), lambda: version("vllm")):
    try:
        seen.append(getattr(look(), "__name__", "+cpu"))
    except (ModuleNotFoundError, PackageNotFoundError):
        seen.append(None)
print(seen)
"""


@pytest.mark.parametrize(
    ("platform", "hidden", "seen"),
    [
        ("cpu", "vllm", ["PlatformCPU", False, None, "+cpu"]),
        ("", "", ["PlatformCUDA", True, "vllm", None]),
    ],
)
def test_platform_hidden_packages_and_the_name_of_vllm_are_what_the_launcher_asks_for(
    platform: str, hidden: str, seen: list[object]
) -> None:
    environment = os.environ | {"GROUPPPO_PLATFORM": platform, "GROUPPPO_HIDDEN_PACKAGES": hidden}
    command = [sys.executable, "-W", "ignore", "-c", LOOK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip().splitlines()[-1] == str(seen)
