"""One Ray cluster over the nodes of a Slurm allocation, started by srun and gone when the run is.

with across_allocation(cpus=32, gpus=4) as variables: ...     # in the job, on its first node
python -m groupppo.run.ray_cluster FOLDER NODE CPUS GPUS [HEAD]   # what srun starts, once on every node

Several clusters may share a node: every port is one that is free, and temporary files are in a folder of the job's.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from groupppo.errors import RunFailed
from groupppo.run.family import end, end_all, marked, private, short_folder, started_with
from groupppo.verl.endings import ATTEMPTS, STACKS
from groupppo.verl.patches import TOKEN

START_SECONDS = 180
"""Time that a node has to join; imports from a cold network file system take most of it."""
STOP_SECONDS = 30
"""Time that a node has to end its processes."""
_ADDRESS, _UP, _STOP, _ASK, _TOKEN = "address", ".up", "stop", "ask", "token"
_ANSWER_SECONDS = 5.0


def nodes_of_allocation() -> list[str]:
    """Names of the nodes of the Slurm job this process is in; empty outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return []
    # Snakemake's job step takes SLURM_JOB_NODELIST away.
    listed = _answer("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    return _answer("scontrol", "show", "hostnames", listed).split() if listed else []


@contextlib.contextmanager
def across_allocation(
    *,
    cpus: int,
    gpus: int,
    scratch: Path | None = None,
    nodes: int | None = None,
    slots: tuple[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[dict[str, str]]:
    """Start Ray on every node of the allocation, and end it with the body.

    Gives the variables with which Ray's clients find this cluster and may use it; none on one node, where a run starts
    a Ray of its own. RunFailed is raised where the job has fewer nodes, or one does not join.

    Args:
        cpus, gpus: of each node. scratch: a folder that all nodes see, for addresses and logs; by default ./.snakemake.
        nodes: how many to start it on, by default all. environment: of Ray's processes, by default this one's.
        slots: CPUs and GPUs that each node offers to Ray, where they are places for processes and not its own.
    """
    found = [] if nodes == 1 else nodes_of_allocation()[:nodes]
    if nodes is not None and 1 < nodes > len(found):
        raise RunFailed(f"the run is planned for {nodes} nodes and its job has {len(found)}: submit it with --nodes")
    if len(found) < 2:
        yield {}
        return
    head, *others = found
    folder = (scratch or Path.cwd() / ".snakemake") / "ray" / os.environ["SLURM_JOB_ID"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    variables = with_secret(folder)
    steps: dict[str, subprocess.Popen[bytes]] = {}

    def start(node: str, *address: str) -> None:
        offer = map(str, (*(slots or (cpus, gpus)), *address))
        steps[node] = _step(node, cpus, gpus, folder, {**(environment or os.environ), **variables}, *offer)

    try:
        start(head)
        _wait(folder / f"{head}{_UP}", steps, folder)
        address = (folder / _ADDRESS).read_text(encoding="utf-8")
        for node in others:
            start(node, address)
        for node in others:
            _wait(folder / f"{node}{_UP}", steps, folder)
        yield variables | {"RAY_ADDRESS": address}
    finally:
        # Told by a file: a signal to srun ends its step before it could clean up.
        (folder / _STOP).touch()
        for step in steps.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                step.wait(timeout=STOP_SECONDS)
            step.kill()
        shutil.rmtree(folder, ignore_errors=True)


def with_secret(folder: Path) -> dict[str, str]:
    """Variables that give a cluster of Ray a secret of its own, in `folder`; Ray's is in the user's home."""
    private(folder / _TOKEN, secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", TOKEN: str(folder / _TOKEN)}


def ask_for_stacks(variables: Mapping[str, str]) -> None:
    """Have every node of the cluster that has these variables write its processes' stacks; nothing without one."""
    if "RAY_ADDRESS" in variables and TOKEN in variables:
        (Path(variables[TOKEN]).parent / _ASK).touch()
        time.sleep(_ANSWER_SECONDS)


def _answer(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _step(
    node: str, cpus: int, gpus: int, folder: Path, environment: Mapping[str, str], *offer: str
) -> subprocess.Popen[bytes]:
    """`serve` in a step of Slurm on a node; `offer` is what Ray has there, and the head's address on any other."""
    # Overlapping: the job's own step, in which this runs, already holds what the job has.
    srun = ["srun", f"--jobid={os.environ['SLURM_JOB_ID']}", "--overlap", "--nodes=1", "--ntasks=1", "--unbuffered"]
    srun += [f"--nodelist={node}", f"--cpus-per-task={cpus}", "--mem=0"]
    srun += [f"--gpus={gpus}"] if gpus else []
    ours = [sys.executable, "-m", "groupppo.run.ray_cluster", str(folder), node, *offer]
    # The allocation's totals, in variables, would be taken for the step's own wishes.
    apart = ("SLURM_", "SRUN_", "SBATCH_")
    kept = {name: value for name, value in environment.items() if not name.startswith(apart) or name == "SLURM_CONF"}
    with (folder / f"{node}.log").open("wb") as log:
        return subprocess.Popen([*srun, *ours], env=kept, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait(file: Path, steps: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while not file.exists():
        ended = [node for node, step in steps.items() if step.poll() is not None]
        if ended or time.monotonic() > until:
            node = ended[0] if ended else file.name.removesuffix(_UP)
            end = (folder / f"{node}.log").read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RunFailed(f"Ray did not start on node {node} within {START_SECONDS} s, or ended:\n{end}")
        time.sleep(0.2)


def serve(folder: Path, node: str, cpus: int, gpus: int, head: str | None) -> None:
    """Be one node of the cluster until it is told to stop or Ray ends; nothing of it is left afterwards."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The node's name, for nodes may share a machine; its beginning, for clouds give names of thirty letters.
    place = short_folder(f"ray-{os.environ['SLURM_JOB_ID']}-{node[:8]}-")
    os.environ.update({"TMPDIR": str(place)} | marked(place))
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--disable-usage-stats"]
    command += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", f"--temp-dir={place}"]
    from ray.util import get_node_ip_address

    own = get_node_ip_address()  # a host's name may stand for its loopback address
    if head is None:
        address = f"{own}:{_free_port()}"
        command += ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
        command += [f"--ray-client-server-port={_free_port()}"]
    else:
        address = head
        command += [f"--address={head}"]
    from groupppo.run.watch import ask  # which asks this module for other nodes' stacks

    try:
        _start([*command, f"--node-ip-address={own}"], place)
        (folder / _ADDRESS).write_text(address, encoding="utf-8")
        (folder / f"{node}{_UP}").touch()
        asked = False
        while not (folder / _STOP).exists() and (family := started_with(place)):
            if not asked and (asked := (folder / _ASK).exists()):
                ask(Path(os.environ[STACKS]), family)
            time.sleep(0.5)
    finally:
        end_all(place)
        shutil.rmtree(place, ignore_errors=True)


def _start(command: list[str], place: Path) -> None:
    """Run `ray start`, again where it fails and there are attempts left; CalledProcessError where the last one did."""
    for attempt in range(1, ATTEMPTS + 1):
        started = subprocess.run(command, check=False)
        if started.returncode == 0:
            return
        print(f"==== Ray did not start: attempt {attempt} of {ATTEMPTS}", flush=True)
        end(started_with(place))
    started.check_returncode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] if sys.argv[5:] else None)
