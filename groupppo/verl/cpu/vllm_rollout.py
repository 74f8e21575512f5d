"""verl's vLLM server on a CPU, with linear layers that can be given new weights."""

from typing import Any

import torch
import vllm.model_executor.layers.utils as vllm_layers

from groupppo.verl.vllm_rollout import Replica, Server, WorkerExtension


def _plain_linear(layer: Any, remove_weight: bool) -> None:
    """Keep `layer.weight`: vllm/model_executor/layers/utils.py:269 packs it away, and the next weight sync hangs."""
    layer.cpu_linear = torch.nn.functional.linear


class CPUWorkerExtension(WorkerExtension):
    """Changed before the model is built."""

    def __new__(cls, **kwargs: object) -> "CPUWorkerExtension":
        vllm_layers.dispatch_cpu_unquantized_gemm = _plain_linear
        return super().__new__(cls, **kwargs)


class CPUServer(Server):
    worker_extension = CPUWorkerExtension


class CPUReplica(Replica):
    server = CPUServer
