"""Who may talk to a run, by parts; what a whole run answers another user is in test_runs.py."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import zmq

from groupppo.errors import BadInput
from groupppo.verl import network, patches
from groupppo.verl.network import ALONE, LOOPBACK, OURS, network_of
from tests.verl.knock import knock


@pytest.mark.parametrize(
    ("nodes", "ranks", "ours", "namespaces", "expected"),
    [
        (1, 1, False, False, LOOPBACK),
        (1, 1, True, True, LOOPBACK),
        (1, 4, False, True, ALONE),
        (1, 4, True, True, OURS),
        (1, 4, False, False, "4 processes of a run"),
        (2, 1, False, True, "2 processes of a run"),
        (2, 4, True, False, OURS),
    ],
)
def test_processes_that_believe_whoever_connects_are_alone_or_the_user_says_that_they_are(
    monkeypatch: pytest.MonkeyPatch, nodes: int, ranks: int, ours: bool, namespaces: bool, expected: str
) -> None:
    monkeypatch.setattr(network, "_can_be_alone", lambda: namespaces)
    if expected in (LOOPBACK, ALONE, OURS):
        assert network_of(nodes, ranks, ours=ours) == expected
    else:
        with pytest.raises(BadInput, match=rf"site\.yaml: network_is_ours = False\n(.|\n)*write true.*{expected}"):
            network_of(nodes, ranks, ours=ours)


LEFT = """
    import ctypes, encodings.idna, os, socket, sys
    if {uid}:
        os.setgroups([]), os.setresgid({uid}, {uid}, {uid}), os.setresuid({uid}, {uid}, {uid})
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)   # PR_SET_DUMPABLE: as a process that this user started
    from groupppo.verl.network import leave
    leave()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()    # its own loopback is up
        print(listener.getsockname()[1], os.geteuid(), len(os.listdir("/proc/self/net/dev_snmp6")), flush=True)
        sys.stdin.read()
"""


def left(uid: int) -> subprocess.Popen[str]:
    code = "import groupppo.verl.network\n" + textwrap.dedent(LEFT.format(uid=uid))
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not network._can_be_alone(), reason="NOT TESTED IN A NAMESPACE: this kernel gives users none")
@pytest.mark.parametrize("uid", [0, 65534], ids=["root", "another user"])
def test_a_process_that_left_listens_where_nobody_else_can_connect(uid: int) -> None:
    if os.geteuid() != 0 and uid:
        pytest.skip("NOT TESTED WITH A SECOND USER: needs root")
    with left(uid) as process:
        port, user, devices = map(int, process.stdout.readline().split())
        assert (user, devices) == (uid or os.geteuid(), 1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        process.communicate()


def test_transfer_queue_hears_the_runs_processes_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import transfer_queue.storage.managers.simple_storage_manager  # noqa: F401  with all that make sockets
    from transfer_queue.utils import zmq_utils

    name, stock = "create_zmq_socket", zmq_utils.create_zmq_socket
    theirs = [module for place, module in list(sys.modules.items()) if place.startswith("transfer_queue")]
    makers = [module for module in theirs if getattr(module, name, None) is stock]
    assert {"controller", "simple_storage", "base", "zmq_utils"} <= {each.__name__.split(".")[-1] for each in makers}
    for module in makers:
        monkeypatch.setattr(module, name, stock)  # restored afterwards
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv(patches.TOKEN, str(tmp_path / "token"))
    patches.transfer_queue.__wrapped__()
    assert all(getattr(module, name) is zmq_utils.create_zmq_socket is not stock for module in makers)
    assert patches.curve_keys(b"secret") != patches.curve_keys(b"another run's")
    with zmq.Context() as context:
        server, plain = (make(context, zmq.ROUTER, "127.0.0.1") for make in (zmq_utils.create_zmq_socket, stock))
        client = zmq_utils.create_zmq_socket(context, zmq.DEALER, "127.0.0.1", b"ours")
        guarded, open_to_all = (each.bind_to_random_port("tcp://127.0.0.1") for each in (server, plain))
        client.connect(f"tcp://127.0.0.1:{guarded}")
        client.send(b"hello")
        assert server.recv_multipart() == [b"ours", b"hello"]
        assert knock("127.0.0.1", guarded)["zmq"] == ["refused"]  # without a key, and with another
        assert "accepted" in knock("127.0.0.1", open_to_all)["zmq"]  # as it is without `protect`
        for each in (server, plain, client):
            each.close(linger=0)


OPEN = """
    import socketserver, sys, grpc
    from concurrent.futures import ThreadPoolExecutor
    from http.server import SimpleHTTPRequestHandler
    from threading import Thread

    class Any(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    calls = grpc.server(ThreadPoolExecutor(2), handlers=[Any()])
    pages = socketserver.ThreadingTCPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    print(calls.add_insecure_port("127.0.0.1:0"), pages.server_address[1], flush=True)
    calls.start()
    Thread(target=pages.serve_forever, daemon=True).start()
    sys.stdin.read()
    calls.stop(0)
"""


def test_a_server_that_lets_everybody_in_is_seen_to() -> None:
    """What the test of a whole run rests on."""
    command = [sys.executable, "-c", textwrap.dedent(OPEN)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        calls, pages = map(int, process.stdout.readline().split())
        assert knock("127.0.0.1", calls)["grpc"] == ["OK"]
        answers = knock("127.0.0.1", pages)["http"]
        assert (answers["GET /metrics"], answers["POST /get_or_create_runtime_env"]) == (404, 501)
        process.communicate()
    assert knock("127.0.0.1", calls) is None


def test_torchs_processes_meet_in_the_runs_folder_on_one_node_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patches, "transfer_queue", lambda: None)
    monkeypatch.delenv("DIST_INIT_METHOD", raising=False)
    monkeypatch.setenv("MASTER_PORT", "7")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    network.protect()
    assert "DIST_INIT_METHOD" not in os.environ
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("DIST_INIT_METHOD", "is restored afterwards")
    network.protect()
    assert os.environ["DIST_INIT_METHOD"] == f"file://{tmp_path}/store-7"
