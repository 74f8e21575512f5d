"""Another user of the node, who knocks at every socket of a run.

python -m tests.verl.knock PID      until its standard input is closed; then prints what answered, as JSON

Two processes, both started by root: one sees which sockets the descendants of PID listen on, and the other, which has
become another user, speaks to each as ZeroMQ, gRPC and HTTP do. Where nobody is root, both are this user.
"""

import encodings.idna  # noqa: F401  imported now, as nobody may not read this user's Python
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc._channel
import psutil
import zmq

NOBODY = 65534
_SECONDS = 3.0
# One call of each of Ray's services, with which code is run or read; an empty message is one of any kind.
CALLS = (
    "CoreWorkerService/PushTask",
    "NodeManagerService/RequestWorkerLease",
    "ObjectManagerService/Pull",
    "InternalKVGcsService/InternalKVPut",
    "ReporterService/GetTraceback",
)
PAGES = ("GET /metrics", "POST /get_or_create_runtime_env", "POST /api/job_agent/jobs/", "GET /v1/models")


def as_nobody() -> None:
    """Become another user, for good; where this one is not root, nobody else can be become."""
    if os.geteuid() != 0:
        return
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def zeromq(address: str, port: int, key: bytes | None = None) -> str:
    """Whether a server takes a client into its conversation: "accepted", "refused" or "silent"."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        if key is not None:
            client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
            client.curve_serverkey = key
        events = client.get_monitor_socket()
        client.connect(f"tcp://{address}:{port}")
        until = time.monotonic() + _SECONDS
        answer = "silent"
        while time.monotonic() < until:
            if not events.poll(100):
                continue
            event = int.from_bytes(events.recv_multipart()[0][:2], "little")
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return "accepted"
            if event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                answer = "refused"
            if event == zmq.EVENT_DISCONNECTED:
                return "refused"
        client.disable_monitor()
        return answer


def grpc_codes(address: str, port: int) -> list[str]:
    """How a server answers calls without a token, each code once; empty where none speaks gRPC."""
    codes = set()
    with grpc.insecure_channel(f"{address}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for call in CALLS:
            for _ in range(5):  # a server that has just begun to listen answers late
                code = _answer(channel.unary_unary(f"/ray.rpc.{call}"))
                if code != "DEADLINE_EXCEEDED":
                    break
            codes.add(code)
            if codes == {"UNAVAILABLE"}:
                return []
    return sorted(codes)


def _answer(call: grpc.UnaryUnaryMultiCallable) -> str:
    try:
        call(b"", timeout=_SECONDS)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def http_codes(address: str, port: int) -> dict[str, int]:
    """How a server answers requests without a token; empty where none speaks HTTP."""
    codes = {}
    for page in PAGES:
        with socket.create_connection((address, port), timeout=_SECONDS) as connection:
            connection.sendall(f"{page} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
            try:
                words = connection.recv(64).split()
            except OSError:
                return codes
            if not words or not words[0].startswith(b"HTTP/"):
                return codes
            codes[page] = int(words[1])
    return codes


def knock(address: str, port: int) -> dict[str, Any] | None:
    """What answered; None where nobody listens any more."""
    try:
        socket.create_connection((address, port), timeout=_SECONDS).close()
        with ThreadPoolExecutor(4) as threads:
            plain = threads.submit(zeromq, address, port)
            curve = threads.submit(zeromq, address, port, zmq.curve_keypair()[0])
            calls, pages = threads.submit(grpc_codes, address, port), threads.submit(http_codes, address, port)
            answers = {"zmq": {plain.result(), curve.result()}, "grpc": calls.result(), "http": pages.result()}
            return answers | {"zmq": sorted(answers["zmq"])}
    except ConnectionError:
        return None


def listening(pid: int) -> Iterator[tuple[str, str, int]]:
    """Process, address and port of all sockets on which a process's descendants listen; of Unix sockets the path."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            for found in process.net_connections("all"):
                if found.family == socket.AF_UNIX and found.laddr and not found.raddr:
                    yield process.name(), found.laddr, 0
                elif found.status == psutil.CONN_LISTEN:
                    yield process.name(), found.laddr.ip, found.laddr.port
        except (psutil.Error, OSError):
            continue


def unix(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path.replace("@", "\0", 1) if path.startswith("@") else path)
        except OSError as error:
            return type(error).__name__
    return "accepted"


def main(pid: int) -> None:
    reading, writing = os.pipe()
    seen: set[tuple[str, str, int]] = set()
    if os.fork() == 0:
        os.close(writing)
        as_nobody()
        with os.fdopen(reading) as addresses, ThreadPoolExecutor(8) as threads:
            rows = [(row, threads.submit(ask, *row[1:])) for row in map(json.loads, addresses)]
            answers = [[*row, answer.result()] for row, answer in rows]
        print(json.dumps(answers), flush=True)
        os._exit(0)
    os.close(reading)
    with os.fdopen(writing, "w") as addresses:
        while not select.select([sys.stdin], [], [], 0.2)[0]:
            for row in set(listening(pid)) - seen:
                seen.add(row)
                print(json.dumps(row), file=addresses, flush=True)
    os.wait()


def ask(address: str, port: int) -> Any:
    return knock(address.removeprefix("::ffff:"), port) if port else unix(address)


if __name__ == "__main__":
    main(int(sys.argv[1]))
