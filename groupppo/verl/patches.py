"""Every change that this project makes to other people's code, in one place.

A patch is the last resort, where a library has no seam. Each says what it replaces, why, what upstream says of it, and
when it can go; `patch(name)` makes it, once per process. tests/verl/test_patches.py fails when a library changes there.
Versions are those of the lock: verl 0.9.1, Ray 2.60.0, vLLM 0.28.0, TransferQueue 0.1.11.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

TOKEN = "RAY_AUTH_TOKEN_PATH"
"""Variable that holds the path of the file with the run's secret."""
ROLLOUTS = {
    "transformers": "groupppo.verl.rollouts.TransformersAdapter",
    "vllm": "groupppo.verl.vllm_rollout.Adapter",
}
"""Our side of a training worker that sends weights, by the name of the rollout."""


@dataclass(frozen=True)
class Patch:
    """One change.

    Attributes:
        what: the module or function that is changed.
        why: what goes wrong without it.
        upstream: the issue or pull request that it is about; "none known" after a search.
        until: when it can go.
        apply: makes the change.
    """

    what: str
    why: str
    upstream: str
    until: str
    apply: Callable[[], None]


def patch(name: str) -> None:
    """Make a patch of `PATCHES`; nothing if this process, or the one that it was forked from, has made it."""
    if name not in _applied:
        PATCHES[name].apply()
        _applied.add(name)


def log_probs_at_once(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (...) of `labels` (...) under `logits` (..., vocabulary)."""
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def curve_keys(token: bytes) -> tuple[bytes, bytes]:
    """CurveZMQ's public and secret key, in Z85, of the run whose token this is."""
    import zmq
    from zmq.utils import z85

    secret = z85.encode(hashlib.sha256(b"TransferQueue " + token).digest())
    return zmq.curve_public(secret), secret


def _log_probs() -> None:
    import verl.utils.torch_functional as functional

    functional.logprobs_from_logits_v2 = log_probs_at_once


def _rollouts() -> None:
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    _ROLLOUT_REGISTRY.update({(name, "async"): adapter for name, adapter in ROLLOUTS.items()})


def _transfer_queue() -> None:
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


def _linear() -> None:
    import torch
    import vllm.model_executor.layers.utils as layers

    def keep_weight(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = keep_weight


def _no_http() -> None:
    import verl.workers.rollout.vllm_rollout.vllm_async_server as server

    async def no_http(*_: object) -> tuple[int, "asyncio.Task[None]"]:
        return 0, asyncio.create_task(asyncio.sleep(0))  # the port, and the task that serves

    server.run_uvicorn = no_http


def _class_ids() -> None:
    import ray.actor as actors

    stock: Any = actors.ActorClassID

    class FromTheSystem:
        @staticmethod
        def from_random() -> Any:
            return stock(os.urandom(stock.size()))

    actors.ActorClassID = FromTheSystem


def _worker_setup() -> None:
    import ray._private.ray_constants as constants

    # ray/_private/node.py:163 joins it to the folder of its own script; an absolute path stays as it is.
    constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name("forkserver.py"))


class GatheredPuts:
    """In the place of TransferQueue's module: what is put while a put is under way goes into the next one.

    Args:
        queue: the module, whose other functions stay what they are.
        join: makes what the queue stores of a list of rows.
    """

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


def _gather_puts() -> None:
    import verl.trainer.ppo.v1.agent_loop_tq as loops
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    loops.tq = GatheredPuts(loops.tq, list_of_dict_to_tensordict)
    loops.list_of_dict_to_tensordict = list


PATCHES = {
    "log-probabilities": Patch(
        what="verl.utils.torch_functional.logprobs_from_logits_v2",
        why="without flash attention it takes the logsumexp of one token after the other; the same to the bit at once",
        upstream="https://github.com/verl-project/verl/pull/220, which made the loop over rows; no issue known",
        until="verl loops over chunks of rows, or not at all on a CPU",
        apply=_log_probs,
    ),
    "rollouts": Patch(
        what="verl.workers.rollout.base._ROLLOUT_REGISTRY",
        why="a training worker looks its rollout up there, and unlike RolloutReplicaRegistry it has no `register`",
        upstream="none known",
        until="verl has a function that adds to it",
        apply=_rollouts,
    ),
    "transfer queue": Patch(
        what="transfer_queue.utils.zmq_utils.create_zmq_socket",
        why="its sockets unpickle what anybody sends; with CurveZMQ, who does not know the server's public key does "
        "not get past the greeting, and that key, made of the run's token, is never sent",
        upstream="none known",
        until="TransferQueue asks for a secret",
        apply=_transfer_queue,
    ),
    "vllm linear layers": Patch(
        what="vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm",
        why="on a CPU it packs layer.weight away, and the next weight sync hangs",
        upstream="none known of new weights; the function itself: https://github.com/vllm-project/vllm/issues/38591",
        until="vLLM's CPU back end takes new weights",
        apply=_linear,
    ),
    "vllm http": Patch(
        what="verl.workers.rollout.vllm_rollout.vllm_async_server.run_uvicorn",
        why="vLLM's HTTP server serves everybody who can connect; verl's workers ask through Ray",
        upstream="none known",
        until="verl can start its vLLM server without HTTP",
        apply=_no_http,
    ),
    "actor class ids": Patch(
        what="ray.actor.ActorClassID",
        why="Ray's generator is seeded when it first draws, which `@ray.remote` on a class does while modules are "
        "imported: all forks of that process then draw the same ids, and of two workers that start at once one dies "
        "(ray/actor.py:2938; WarmupStore in plasma_store_provider.cc)",
        upstream="none known; Ray does not support forked workers (a comment in "
        "https://github.com/ray-project/ray/pull/13830)",
        until="Ray draws ids from the system, or runs no longer fork their workers",
        apply=_class_ids,
    ),
    "worker set-up": Patch(
        what="ray._private.ray_constants.SETUP_WORKER_FILENAME",
        why="Ray starts each worker by a script of its own, which spends half a second on imports before it looks at "
        "runtime_env.py_executable: 4 s of a run's start-up, when workers are forks (forkserver.py)",
        upstream="none known",
        until="runs no longer fork their workers",
        apply=_worker_setup,
    ),
    "gathered puts": Patch(
        what="verl.trainer.ppo.v1.agent_loop_tq.{tq, list_of_dict_to_tensordict}",
        why="each response is stored by itself (agent_loop_tq.py:219), 3 ms each: 0.4 s of a tiny model's 2 s step",
        upstream="none known",
        until="verl stores the responses of a step together",
        apply=_gather_puts,
    ),
}
_applied: set[str] = set()
