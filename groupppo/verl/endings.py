"""How a run of verl ends, and where it hangs: what its processes and the launcher agree on.

A run ends when one of its workers is lost: verl may wait for an answer that will never come. Every process that imports
verl writes its stacks to one file when it gets a signal, also one that waits in a library for ever.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

ATTEMPTS = 3
"""How often a Ray is started that does not start in time. Ray's own 30 s, for which it has no setting
(ray/_private/node.py, `raylet_start_wait_time_s`), are too few on a busy machine; nothing was trained yet."""
DID_NOT_START = os.EX_TEMPFAIL
"""Exit code of a run whose Ray did not start in time."""
STACKS = "GROUPPPO_STACKS"
"""Variable with the file to which processes write their stacks."""
SIGNAL = signal.SIGUSR2
"""What asks for stacks."""
_LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
# verl's own error names what was asked of the worker, so it comes first where there is one.
_GRACE_SECONDS = 10.0
_open: list[IO[bytes]] = []
_engines: dict[str, Any] = {}


def answer() -> None:
    """Write stacks when asked, in this process and those forked from it, if the launcher named a file for them."""
    name = os.environ.get(STACKS)
    if name and not _open:
        # Appending: all processes write to this file, and those forked share its position.
        _open.append(open(name, "ab", buffering=0))  # noqa: SIM115  open as long as the process
        faulthandler.register(SIGNAL, file=_open[0], all_threads=True)


@contextlib.contextmanager
def exits_unless_started(is_up: Callable[[], bool]) -> Iterator[None]:
    """End the process with DID_NOT_START, its error printed, where the block fails because Ray is not up in time."""
    try:
        yield
    except Exception as error:
        if is_up() or "timed out" not in str(error).lower():
            raise
        traceback.print_exc()
        sys.exit(DID_NOT_START)


@contextlib.contextmanager
def ends_with_a_lost_worker(
    look: Callable[[], list[str]] | None = None, give_up: Callable[[], object] = lambda: os._exit(1)
) -> Iterator[None]:
    """While the block runs, end this process when a Ray actor's process has died, or its node, or a vLLM engine.

    Args:
        look: names what was lost, and how. give_up: ends the process, once the block had time to raise.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            lost = look() if look else [*lost_actors(), *dead_engines()]
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
    """Watch the engines of these vLLM servers, Ray's handles by name: an engine is no actor, and its end is none's."""
    _engines.clear()
    _engines.update(servers)


def dead_engines() -> list[str]:
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
