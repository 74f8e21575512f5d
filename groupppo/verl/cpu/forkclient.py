"""Stand-in for a Python interpreter: asks the fork server for a worker, and ends as the worker ends.

    python -S -E forkclient.py SOCKET SCRIPT ARGUMENTS...

Runs alone and imports next to nothing, for its start-up time is what the fork server is there to save.
"""

import json
import os
import signal
import socket
import sys


def main() -> int:
    address, arguments = sys.argv[1], sys.argv[2:]
    endings = (signal.SIGTERM, signal.SIGINT)
    # Held back until they can be handed on: an end in between would leave a worker that nobody ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        answers = connection.makefile()
        worker = int(answers.readline())
        for number in endings:
            signal.signal(number, lambda received, _: os.kill(worker, received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, endings)
        ending = answers.readline()
    return int(ending) if ending else 1


if __name__ == "__main__":
    code = main()
    sys.exit(code if code >= 0 else 128 - code)
