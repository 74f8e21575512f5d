"""A run ends when one of its workers is lost: verl may wait for an answer that will never come.

A killed rollout server fails the requests that it had; a killed agent loop or reward worker fails none, and the trainer
would wait for its trajectories until a time limit. vLLM's engine is a process of its own, and its end is the end of no
actor: requests fail, but a weight sync would wait for it.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# verl's own error names what was asked of the worker, so it comes first where there is one.
_GRACE_SECONDS = 10.0


@contextlib.contextmanager
def ended_with_a_lost_worker(
    look: Callable[[], list[str]] | None = None, give_up: Callable[[], object] = lambda: os._exit(1)
) -> Iterator[None]:
    """While the block runs, end this process when a Ray actor's process has died, or its node, or a vLLM engine.

    Args:
        look: names the workers that were lost, with how. give_up: what is done then, once the block had time to raise.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            lost = (look or _lost_workers)()
            if lost and not done.wait(_GRACE_SECONDS):
                for one in lost:  # on a line of its own: a progress bar leaves its line open
                    print(f"\nRunFailed: {one}", file=sys.stderr, flush=True)
                give_up()
                return

    thread = threading.Thread(target=watch, name="lost workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def watch_engines(servers: Mapping[str, Any]) -> None:
    """Look at these vLLM servers, too: Ray's handles of vllm_rollout.py's `Server`, by name."""
    _engines.clear()
    _engines.update(servers)


_engines: dict[str, Any] = {}


def _lost_workers() -> list[str]:
    return [*lost_actors(), *dead_engines()]


def dead_engines() -> list[str]:
    """Servers that say of their engine that it is dead."""
    import ray

    dead = []
    for name, server in _engines.items():
        # A busy server answers late, and one whose actor has ended is among the lost actors.
        with contextlib.suppress(ray.exceptions.RayError):
            if ray.get(server.engine_died.remote(), timeout=_ANSWER_SECONDS):
                dead.append(f"the engine of the vLLM server at {name} has died")
    return dead


def lost_actors() -> list[str]:
    """Actors of Ray's cluster that ended though nobody asked them to."""
    import ray
    from ray._private.state import actors
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    if not ray.is_initialized():
        return []
    lost = []
    for actor in actors(actor_state_name="DEAD").values():
        died = actor["DeathCause"].actor_died_error_context
        if died.reason in (ActorDiedErrorContext.WORKER_DIED, ActorDiedErrorContext.NODE_DIED):
            how = " ".join(died.error_message.split())[:300]
            lost.append(f"worker {actor['ActorClassName']} (process {actor['Pid']}) was lost: {how}")
    return lost
