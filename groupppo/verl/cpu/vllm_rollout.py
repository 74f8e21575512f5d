"""verl's vLLM server on a CPU, with linear layers that can be given new weights."""

from typing import Any

import ray
import torch
import vllm.model_executor.layers.utils as vllm_layers
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica


def _plain_linear(layer: Any, remove_weight: bool) -> None:
    """Keep `layer.weight`: vllm/model_executor/layers/utils.py:269 packs it away, and the next weight sync hangs."""
    layer.cpu_linear = torch.nn.functional.linear


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """Loaded by name inside vLLM's worker process, before the model is built."""

    def __new__(cls, **kwargs: object) -> "CPUWorkerExtension":
        vllm_layers.dispatch_cpu_unquantized_gemm = _plain_linear
        return super().__new__(cls, **kwargs)


class CPUServer(vLLMHttpServer):
    def _get_worker_extension_cls(self) -> str:
        return f"{CPUWorkerExtension.__module__}.{CPUWorkerExtension.__qualname__}"


class CPUReplica(vLLMReplica):
    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(CPUServer)
