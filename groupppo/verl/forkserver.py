"""Ray workers as forks of one process that has imported everything already; halves the start-up of a run on a CPU.

A verl run starts about eight Python processes, and each spends some nine CPU seconds on the same imports. Here the
launcher's process imports them once and forks a server before Ray starts, while it has no other threads. Ray runs this
file in the place of its setup_worker.py: it asks the server for a fork that runs the worker's script, and ends as the
fork ends. That side imports next to nothing.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

# Whatever a process of a run imports.
MODULES = (
    "groupppo.verl.trainer",
    "groupppo.verl.rollouts",
    "verl.experimental.reward_loop",
    "verl.trainer.ppo.v1",
)
ADDRESS = "GROUPPPO_FORK_SERVER"
"""Variable that holds the path of the server's socket."""
_LOOK_SECONDS, _IDLE_SECONDS = 0.1, 1.0


def load_ray() -> None:
    """Load Ray's library; must come before anything else imports it, or RuntimeError is raised.

    The library reads RAY_JOB_ID and RAY_RAYLET_PID when it is loaded and never again, and a worker does not start
    without them. The first job of a cluster always has the same number, and a worker may end with this process as well
    as with the raylet.
    """
    if "ray" in sys.modules:
        raise RuntimeError("Ray is loaded already: its workers could not be forked from this process")
    flags = {"RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": str(os.getpid())}
    os.environ.update(flags)
    from groupppo.verl import patches

    patches.actor_class_ids()
    for name in flags:
        del os.environ[name]


def start(address: "Path") -> None:
    """Import what workers need, fork a server at this Unix socket, and have Ray start its workers by it."""
    import gc
    import importlib

    from groupppo.verl import patches

    for module in MODULES:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX)
    address.unlink(missing_ok=True)  # of an attempt whose Ray did not start
    listener.bind(str(address))
    listener.listen(64)
    parent = os.getpid()
    gc.collect()
    gc.freeze()  # collections in the forks do not copy the pages of what is alive now
    if os.fork() == 0:
        _serve(listener, parent)
        os._exit(0)
    listener.close()
    os.environ[ADDRESS] = str(address)
    patches.worker_setup()


def _serve(listener: socket.socket, parent: int) -> None:
    """Fork a worker for each connection and report how it ended; all end with the parent, as the rest of Ray does."""
    clients: dict[int, socket.socket] = {}
    while os.getppid() == parent:
        listener.settimeout(_LOOK_SECONDS if clients else _IDLE_SECONDS)
        with contextlib.suppress(TimeoutError):
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
    """Run the requested script as a fresh interpreter would; never returns."""
    import runpy
    import traceback

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        # Ray read its RAY_* variables when it was loaded, before the raylet wrote this worker's.
        raylet: Any = sys.modules["ray._raylet"]
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
        sys.argv = request["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap(clients: dict[int, socket.socket]) -> None:
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        # The client may have been ended before its worker.
        with clients.pop(pid) as client, contextlib.suppress(BrokenPipeError):
            client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _ask() -> int:
    """Have the server run a worker's script; returns the exit code of the fork, which gets this process's signals."""
    endings = (signal.SIGTERM, signal.SIGINT)
    # Held back until they can be handed on: an end in between would leave a worker that nobody ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    request = {"arguments": _arguments(), "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        answers = connection.makefile()
        worker = int(answers.readline())
        for number in endings:
            signal.signal(number, lambda received, _: os.kill(worker, received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, endings)
        ending = answers.readline()
    code = int(ending) if ending else 1
    return code if code >= 0 else 128 - code


def _arguments() -> list[str]:
    """The worker's script and its arguments; sets variables as Ray's script does (ray/_private/utils.py:1665)."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, arguments = parser.parse_known_args()
    context = json.loads(given.serialized_runtime_env_context)
    if context.get("command_prefix"):
        sys.exit(f"forkserver.py: a forked worker cannot run behind {context['command_prefix']}")
    for name, value in context.get("env_vars", {}).items():
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    return arguments


if __name__ == "__main__":
    sys.exit(_ask())
