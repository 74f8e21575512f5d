"""In the place of Ray's setup_worker.py: asks the fork server for a worker, and ends as the worker ends.

    python forkclient.py SCRIPT ARGUMENTS... --language=... --serialized-runtime-env-context=...

Runs alone and imports next to nothing, for its start-up time is what the fork server is there to save.
"""

import argparse
import json
import os
import re
import signal
import socket
import sys

ADDRESS = "GROUPPPO_FORK_SERVER"
"""Variable that holds the path of the server's socket."""


def main() -> int:
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
    return int(ending) if ending else 1


def _arguments() -> list[str]:
    """The worker's script and its arguments; sets the runtime environment's variables as Ray's script does.

    See ray/_private/workers/setup_worker.py, ray/_private/utils.py:1665.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, arguments = parser.parse_known_args()
    context = json.loads(given.serialized_runtime_env_context)
    if context.get("command_prefix"):
        sys.exit(f"forkclient.py: a forked worker cannot run behind {context['command_prefix']}")
    for name, value in context.get("env_vars", {}).items():
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    return arguments


if __name__ == "__main__":
    code = main()
    sys.exit(code if code >= 0 else 128 - code)
