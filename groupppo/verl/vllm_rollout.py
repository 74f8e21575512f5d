"""verl's vLLM server, whose new weights come through a socket of the run's own, and which serves no HTTP.

verl names the socket in /tmp by the job's id in Ray (vllm_rollout.py:141), which is the same for the runs here, each
with a Ray of its own: a server could load another run's weights without a word. To go when verl lets the path be named.
"""

import tempfile
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from groupppo.verl import asked_for_cpu, patches


def in_runs_folder(address: str) -> str:
    """The address of a socket, ipc://<path>, with the path in TMPDIR: the folder that this run has on this machine."""
    return f"ipc://{tempfile.gettempdir()}/{address.rpartition('/')[2]}"


class Adapter(ServerAdapter):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.zmq_handle: str = in_runs_folder(self.zmq_handle)


class WorkerExtension(vLLMColocateWorkerExtension):
    """Loaded by name in vLLM's worker process, which receives what a training worker's `Adapter` sends."""

    def _get_zmq_handle(self) -> str:
        return in_runs_folder(super()._get_zmq_handle())


class CPUWorkerExtension(WorkerExtension):
    """The same on a CPU; changed before the model is built."""

    def __new__(cls, **kwargs: object) -> "CPUWorkerExtension":
        patches.vllm_linear_layers()
        return super().__new__(cls, **kwargs)


class Server(vLLMHttpServer):
    async def run_server(self, args: Any) -> None:
        patches.vllm_http()
        await super().run_server(args)

    def get_server_address(self) -> tuple[str, int]:
        """A name, by which verl tells servers apart: nothing listens there."""
        return self._server_address, self.replica_rank

    def engine_died(self) -> bool:
        """Whether vLLM's engine, a process of its own, has ended."""
        return bool(self.engine.errored)

    def _get_worker_extension_cls(self) -> str:
        extension = CPUWorkerExtension if asked_for_cpu() else WorkerExtension
        return f"{extension.__module__}.{extension.__qualname__}"


class Replica(vLLMReplica):
    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(Server)
