"""Every change that this project makes to other people's code, in one place.

A patch is the last resort, where a library has no seam. Each cached function here makes one, once per process and the
forks of it. tests/verl/test_patches.py fails when a library changes there. Versions are those of the lock: verl 0.9.1,
Ray 2.60.0, vLLM 0.28.0, TransferQueue 0.1.11.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

TOKEN = "RAY_AUTH_TOKEN_PATH"
"""Variable that holds the path of the file with the run's secret."""


def log_probs_at_once(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (...) of `labels` (...) under `logits` (..., vocabulary), float32 where those are narrower."""
    if logits.element_size() < 4:  # as many bytes as update/memory.py counts
        rows = -cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
        return rows.view(labels.shape)
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def curve_keys(token: bytes) -> tuple[bytes, bytes]:
    """CurveZMQ's public and secret key, in Z85, of the run whose token this is."""
    import zmq
    from zmq.utils import z85

    secret = z85.encode(hashlib.sha256(b"TransferQueue " + token).digest())
    return zmq.curve_public(secret), secret


@cache
def log_probabilities() -> None:
    """verl.utils.torch_functional.logprobs_from_logits_v2: without flash attention it takes the logsumexp of one token
    after the other, a thousand kernels for a response; the same to the bit at once in float32.

    Upstream: https://github.com/verl-project/verl/pull/220, which made the loop over rows; no issue known. Until verl
    loops over chunks of rows.
    """
    import verl.utils.torch_functional as functional

    functional.logprobs_from_logits_v2 = log_probs_at_once


@cache
def rollouts() -> None:
    """verl.workers.rollout.base._ROLLOUT_REGISTRY: a training worker looks its rollout up there, and unlike
    RolloutReplicaRegistry it has no `register`.

    Upstream: none known. Until verl has a function that adds to it.
    """
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    _ROLLOUT_REGISTRY["transformers", "async"] = "groupppo.verl.rollouts.TransformersAdapter"
    _ROLLOUT_REGISTRY["vllm", "async"] = "groupppo.verl.vllm_rollout.Adapter"


@cache
def transfer_queue() -> None:
    """transfer_queue.utils.zmq_utils.create_zmq_socket: its sockets unpickle what anybody sends; with CurveZMQ, who
    does not know the server's public key does not get past the greeting, and that key, made of the run's token, is
    never sent.

    Upstream: none known. Until TransferQueue asks for a secret.
    """
    import transfer_queue.utils.zmq_utils as sockets
    import zmq

    name = "create_zmq_socket"
    stock = getattr(sockets, name)
    public, secret = curve_keys(Path(os.environ[TOKEN]).read_bytes())

    def create(ctx: Any, socket_type: Any, ip: str, identity: Any = None) -> Any:
        made = stock(ctx, socket_type, ip, identity)
        made.curve_publickey, made.curve_secretkey = public, secret
        if socket_type == zmq.ROUTER:
            made.curve_server = True
        else:
            made.curve_serverkey = public
        return made

    for place, module in list(sys.modules.items()):
        if place.startswith("transfer_queue.") and getattr(module, name, None) is stock:
            setattr(module, name, create)


@cache
def vllm_linear_layers() -> None:
    """vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm: on a CPU it packs layer.weight away, and the next
    weight sync hangs.

    Upstream: none known of new weights; the function itself: https://github.com/vllm-project/vllm/issues/38591. Until
    vLLM's CPU back end takes new weights.
    """
    import torch
    import vllm.model_executor.layers.utils as layers

    def keep_weight(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = keep_weight


@cache
def vllm_http() -> None:
    """verl.workers.rollout.vllm_rollout.vllm_async_server.run_uvicorn: vLLM's HTTP server serves everybody who can
    connect; verl's workers ask through Ray.

    Upstream: none known. Until verl can start its vLLM server without HTTP.
    """
    import verl.workers.rollout.vllm_rollout.vllm_async_server as server

    async def no_http(*_: object) -> tuple[int, "asyncio.Task[None]"]:
        return 0, asyncio.create_task(asyncio.sleep(0))  # the port, and the task that serves

    server.run_uvicorn = no_http


@cache
def actor_class_ids() -> None:
    """ray.actor.ActorClassID: Ray's generator is seeded when it first draws, which `@ray.remote` on a class does while
    modules are imported: all forks of that process then draw the same ids, and of two workers that start at once one
    dies (ray/actor.py:2938; WarmupStore in plasma_store_provider.cc).

    Upstream: none known; Ray does not support forked workers (a comment in
    https://github.com/ray-project/ray/pull/13830). Until Ray draws ids from the system, or runs no longer fork their
    workers.
    """
    import ray.actor as actors

    stock: Any = actors.ActorClassID

    class FromTheSystem:
        @staticmethod
        def from_random() -> Any:
            return stock(os.urandom(stock.size()))

    actors.ActorClassID = FromTheSystem


@cache
def worker_setup() -> None:
    """ray._private.ray_constants.SETUP_WORKER_FILENAME: Ray starts each worker by a script of its own, which spends
    half a second on imports before it looks at runtime_env.py_executable: 4 s of a run's start-up, when workers are
    forks (forkserver.py).

    Upstream: none known. Until runs no longer fork their workers.
    """
    import ray._private.ray_constants as constants

    # ray/_private/node.py:163 joins it to the folder of its own script; an absolute path stays as it is.
    constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name("forkserver.py"))


class GatheredPuts:
    """In the place of TransferQueue's module: what is put while a put is under way is put in the next, by `join`."""

    def __init__(self, queue: Any, join: Callable[[list[dict[str, Any]]], Any]):
        self.queue, self.join = queue, join
        self.waiting: dict[str, list[tuple[list[str], list[Any], list[Any], asyncio.Future[None]]]] = {}
        self.task: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)

    async def async_kv_batch_put(
        self, *, keys: list[str], fields: list[Any], tags: list[Any], partition_id: str
    ) -> None:
        """As the queue's, of rows that were not joined; an error of a put is raised to all whose rows are in it."""
        stored = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(partition_id, []).append((keys, fields, tags, stored))
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._store())
        await stored

    async def _store(self) -> None:
        while self.waiting:
            partition = next(iter(self.waiting))
            *parts, stored = zip(*self.waiting.pop(partition), strict=True)
            keys, rows, tags = (list(chain.from_iterable(part)) for part in parts)
            try:
                await self.queue.async_kv_batch_put(
                    keys=keys, fields=self.join(rows), tags=tags, partition_id=partition
                )
            except Exception as error:  # handed to every caller, who raises it
                for one in stored:
                    one.set_exception(error)
            else:
                for one in stored:
                    one.set_result(None)


@cache
def gathered_puts() -> None:
    """verl.trainer.ppo.v1.agent_loop_tq.{tq, list_of_dict_to_tensordict}: each response is stored by itself
    (agent_loop_tq.py:219), 3 ms each: 0.4 s of a tiny model's 2 s step.

    Upstream: none known. Until verl stores the responses of a step together.
    """
    import verl.trainer.ppo.v1.agent_loop_tq as loops
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    loops.tq = GatheredPuts(loops.tq, list_of_dict_to_tensordict)
    loops.list_of_dict_to_tensordict = list
