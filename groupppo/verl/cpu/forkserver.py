"""Ray workers as forks of one process that has imported everything already.

A verl run on a CPU starts about eight Python processes, and each spends some nine CPU seconds on the same imports: more
than the training of a tiny model takes. Here the launcher's process imports them once, forks a server before Ray starts
(no threads exist yet, so the fork is clean), and Ray starts its workers through `forkclient.py` in the place of its own
setup_worker.py, which spends half a second on imports: the server forks, and the child runs Ray's worker script.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from groupppo.verl.cpu import forkclient
from groupppo.verl.cpu.forkclient import ADDRESS

CLIENT = Path(forkclient.__file__)
# Whatever a process of a run imports.
MODULES = (
    "groupppo.verl.trainer",
    "groupppo.verl.transformers_rollout",
    "verl.experimental.reward_loop",
    "verl.trainer.ppo.v1",
)
_POLL_SECONDS = 1.0


def load_ray() -> None:
    """Load Ray's library; must come before anything else imports it.

    The library reads RAY_JOB_ID and RAY_RAYLET_PID when it is loaded and never again, and a worker does not start
    without them. The first job of a cluster of our own always has the same number, and "the process whose end ends me"
    may as well be this one as the raylet.
    """
    if "ray" in sys.modules:
        raise RuntimeError("Ray is loaded already: its workers could not be forked from this process")
    flags = {"RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": str(os.getpid())}
    os.environ.update(flags)
    importlib.import_module("ray")
    for name in flags:
        del os.environ[name]
    actors: Any = importlib.import_module("ray.actor")
    actors.ActorClassID = _ClassIDs(actors.ActorClassID)


class _ClassIDs:
    """Random ids of actor classes that leave the library's own generator unused.

    It is seeded when it is first used. Were that before the fork, at the first `@ray.remote` of a class, then all
    workers would draw the same ids: two that start at once make the same object, and one of them dies of it
    (ray/actor.py:2938; WarmupStore in ray's plasma_store_provider.cc).
    """

    def __init__(self, kind: Any):
        self._kind = kind

    def from_random(self) -> Any:
        return self._kind(os.urandom(self._kind.size()))


def start(address: Path) -> None:
    """Import what workers need, fork the server from this process, and have Ray start its workers by it.

    Args:
        address: path of the Unix socket to make.
    """
    for module in MODULES:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX)
    address.unlink(missing_ok=True)  # of an attempt whose Ray did not start
    listener.bind(str(address))
    listener.listen(64)
    parent = os.getpid()
    gc.collect()
    gc.freeze()  # objects alive now are never collected, so collections in the forks do not copy their pages
    if os.fork() == 0:
        _serve(listener, parent)
        os._exit(0)
    listener.close()
    os.environ[ADDRESS] = str(address)
    # ray/_private/node.py:163 joins it to the folder of its own script; an absolute path stays as it is.
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.SETUP_WORKER_FILENAME = str(CLIENT)


def _serve(listener: socket.socket, parent: int) -> None:
    """Fork a worker for each connection until the parent is gone; tell each client how its worker ended.

    Workers end with the parent: they would wait a minute for the rest of Ray, which is gone, too.
    """
    clients: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while os.getppid() == parent:
            if selector.select(timeout=_POLL_SECONDS if not clients else 0.1):
                connection, _ = listener.accept()
                pid = _fork_worker(connection, (listener, *clients.values()))
                clients[pid] = connection
                connection.sendall(f"{pid}\n".encode())
            _reap(clients)
    for worker in clients:
        os.kill(worker, signal.SIGKILL)


def _fork_worker(connection: socket.socket, others: tuple[socket.socket, ...]) -> int:
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    for other in (connection, *others):
        other.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _become(json.loads(message))


def _become(request: dict[str, Any]) -> NoReturn:
    """Run the script that was asked for, as if this were a fresh interpreter; never returns."""
    code = 0
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        _reread_ray_settings()
        sys.argv = request["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reread_ray_settings() -> None:
    """Ray reads its other RAY_* variables when it is loaded too, here before the raylet wrote this worker's."""
    raylet = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _reap(clients: dict[int, socket.socket]) -> None:
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        client = clients.pop(pid)
        try:
            client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        except BrokenPipeError:
            continue  # the client was ended before its worker
        finally:
            client.close()
