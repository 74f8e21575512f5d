"""Who may talk to a run's processes: those that know its secret, and on one node nobody from elsewhere.

Ray asks for the run's token (ray_cluster.py), TransferQueue for a key that is made of it, torch's processes meet in a
file, and vLLM serves no HTTP. A run on one node listens on its loopback address only, where its other users may knock.

torch's gloo and NCCL cannot be made to ask who connects, and unpickle what comes. So several processes train in a
network namespace of their own, where the kernel gives users one; several nodes, or several processes where it gives
none, only where the user says in benchmarks/site.yaml that nobody else is on the network.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from groupppo.errors import BadInput

VARIABLE = "GROUPPPO_NETWORK"
"""Variable of a run's processes with one of the three that follow, which the run's provenance and its page show."""
LOOPBACK = "the node's loopback address"
ALONE = "a namespace of its own"
OURS = "not authenticated; benchmarks/site.yaml says that it is ours (network_is_ours)"
ON_ONE_NODE = {
    # What keeps Ray on the loopback address on systems where it has no clusters does so on Linux, too. There the
    # address itself, as `_node_ip_address`, is taken for another name of the node.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "=lo",
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Variables of a run on one node."""
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h


def network_of(nodes: int, ranks: int, *, ours: bool, site: str | Path = "benchmarks/site.yaml") -> str:
    """The network of a run on `nodes` machines with `ranks` training processes on each: LOOPBACK, ALONE or OURS.

    Raises:
        BadInput: its processes would believe whoever connects, and `site` does not say that nobody else can.
    """
    if nodes * ranks == 1:
        return LOOPBACK
    if ours:
        return OURS
    if nodes > 1:
        where, other = "reaches these nodes over their network while they train", "plan the run for one node"
    elif _can_be_alone():
        return ALONE
    else:
        where = "uses the node while they train, for it gives users no network namespace"
        other = "train with one process"
    believe = f"{nodes * ranks} processes of a run believe whoever connects"
    raise BadInput(site, "network_is_ours", False, f"write true if nobody else {where}: {believe}; or {other}.")


def _can_be_alone() -> bool:
    asked = [sys.executable, "-m", "groupppo.verl.network"]
    return subprocess.run(asked, capture_output=True, cwd=Path(__file__).parents[2]).returncode == 0


def leave() -> None:
    """Move this process, which must have no other threads, to a network of its own with a loopback address only."""
    # Root's files may belong to users whom a namespace of users would not know.
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def protect() -> None:
    """Change this process before it opens a socket; called in every process of a run.

    torch's TCPStore listens on all addresses and believes everybody; on one node a file of the run does the same, which
    is named by the port that verl has found for the group's processes (verl/utils/distributed.py:98).
    """
    folder, port = os.environ.get("RAY_TMPDIR"), os.environ.get("MASTER_PORT")
    if folder and port:
        os.environ["DIST_INIT_METHOD"] = f"file://{folder}/store-{port}"
    from groupppo.verl import patches

    patches.transfer_queue()


if __name__ == "__main__":
    leave()
