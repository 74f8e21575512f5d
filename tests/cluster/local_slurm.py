"""A real Slurm on this host: two nodes with fake GPUs, no systemd, no cgroups, no accounting database.

python -m tests.cluster.local_slurm -- snakemake --profile slurm      # run a command in it, then take it down
python -m tests.cluster.local_slurm --supervise FOLDER                # what `running()` starts

Needs the Debian packages slurm-wlm and munge. Everything it writes is in one folder, and nothing outlives it: the
daemons are children of a supervisor that takes them and every job's processes down as soon as its standard input
closes, also when whoever held the other end was killed.
"""

import contextlib
import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

NODES = 2
GPUS, CPUS, MEMORY_MB = 2, 4, 8000
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
_READY = "ready"
_START_SECONDS, _STOP_SECONDS = 40, 20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its folder, and the environment in which Slurm's commands find it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, timeout: float = 30) -> str:
        """The standard output of one of Slurm's commands.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=timeout
        )
        return done.stdout

    def jobs(self, form: str = "%i|%T", states: str = "all") -> list[list[str]]:
        """One list for each job that Slurm remembers, with the fields of squeue's format, split at `|`."""
        lines = self.run("squeue", "--noheader", f"--states={states}", f"--format={form}").splitlines()
        return [[field.strip() for field in line.split("|")] for line in lines]

    def kill_node(self, node: str) -> None:
        """Kill all that runs on a node at once, as when its power fails; Slurm is told, which would notice later."""
        jobs = [job for job, place in self.jobs("%i|%N", "running,completing") if place == node]
        titles = (f"{_program('slurmd')} -D -N {node}", *(f"slurmstepd: [{job}." for job in jobs))
        daemons = [process for process in self.processes() if title_of(process).startswith(titles)]
        marks = {f"SLURM_JOB_ID={job}".encode() for job in jobs}
        tasks = [process for process in self.processes() if marks & _variables(process)]
        for process in (*daemons, *tasks):  # the daemons first, or they would report how the tasks ended
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def start_node(self, node: str) -> None:
        """Bring back a node that was killed; it takes jobs as soon as it has registered."""
        _start(self.folder, "slurmd", "-D", "-N", node)

    def processes(self) -> list[psutil.Process]:
        """Processes that belong to this cluster: its daemons, and what its jobs started."""
        return _processes(self.folder)


def missing() -> list[str]:
    """Programs of Slurm and munge that this machine does not have."""
    return [name for name in (*DAEMONS, *CLIENTS) if _program(name) is None]


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A cluster for the body of a `with`; no process of it is left afterwards.

    Raises:
        RuntimeError: it did not come up; the message holds the end of its logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a socket has at most 107 characters
    command = [sys.executable, __file__, "--supervise", str(folder)]
    with (folder / "supervisor.log").open("wb") as log:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    try:
        if supervisor.stdout.readline().strip() != _READY:
            supervisor.wait(timeout=2 * _STOP_SECONDS)
            raise RuntimeError(f"Slurm did not come up:\n{_end_of_logs(folder)}")
        yield Cluster(folder, _environment(folder))
    finally:
        supervisor.stdin.close()
        supervisor.wait(timeout=4 * _STOP_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def supervise(folder: Path) -> None:
    """Start the daemons, say so on standard output, and take everything down when standard input closes."""
    _configure(folder)
    daemons: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run, key = folder / "run", folder / "munge.key"
        munge = ["--foreground", "--force", f"--key-file={key}", f"--socket={run / 'munge.sock'}"]
        munge += [f"--{name}={run / name}" for name in ("pid-file", "log-file", "seed-file")]
        daemons.append(_start(folder, "munged", *munge))
        _wait_for((run / "munge.sock").exists, daemons)
        daemons.append(_start(folder, "slurmctld", "-D"))
        daemons += [_start(folder, "slurmd", "-D", "-N", f"gpu{node}") for node in range(1, NODES + 1)]
        _wait_for(lambda: _idle_nodes(folder) == NODES, daemons)
        print(_READY, flush=True)
        sys.stdin.read()
    finally:
        _take_down(folder, daemons)
    shutil.rmtree(folder, ignore_errors=True)  # one that did not come up keeps its logs for whoever asked for it


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _environment(folder: Path) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return variables | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
    }


def _start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    program = _program(name)
    assert program is not None, name
    libc = ctypes.CDLL(None)
    with (folder / "log" / f"{name}.out").open("ab") as log:
        return subprocess.Popen(
            [program, *arguments],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A supervisor that is killed takes the daemons with it.
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )


def _wait_for(condition: Callable[[], bool], daemons: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _START_SECONDS
    while not condition():
        ended = [daemon.args for daemon in daemons if daemon.poll() is not None]
        if ended or time.monotonic() > until:
            sys.exit(f"not up after {_START_SECONDS} s; daemons that ended: {ended}")
        time.sleep(0.2)


def _idle_nodes(folder: Path) -> int:
    command = ["sinfo", "--noheader", "--Node", "--partition=gpu", "--states=idle", "--format=%N"]
    done = subprocess.run(command, env=_environment(folder), capture_output=True, text=True, timeout=30)
    return len(done.stdout.split())


def _take_down(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Jobs first, by Slurm's own hand; then the daemons, the last one started first; then whatever is left."""
    with contextlib.suppress(subprocess.SubprocessError):
        cancel = ["scancel", "--user", getpass.getuser()]
        subprocess.run(cancel, env=_environment(folder), capture_output=True, timeout=_STOP_SECONDS)
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in reversed(daemons):
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=5)
    for _ in range(3):  # a daemon may have started a step in between
        left = [process for process in _processes(folder) if process.pid != os.getpid()]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)


def _processes(folder: Path) -> list[psutil.Process]:
    """By the environment, which daemons hand on to steps and steps to whatever a job starts."""
    mark = f"SLURM_CONF={folder / 'slurm.conf'}".encode()
    return [process for process in psutil.process_iter() if mark in _variables(process)]  # a zombie has none


def _variables(process: psutil.Process) -> set[bytes]:
    """Read raw: slurmstepd writes its title over the first part, where psutil would stop reading."""
    with contextlib.suppress(OSError):
        return set(Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"))
    return set()


def title_of(process: psutil.Process) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _end_of_logs(folder: Path) -> str:
    logs = [folder / "supervisor.log", *sorted((folder / "log").glob("*"))]
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs if log.is_file())


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _configure(folder: Path) -> None:
    for name in ("run", "log", "state", "spool", "dev", "bin"):
        (folder / name).mkdir()
    folder.chmod(0o755)  # munged wants its socket's folder open to all users
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    control, *ports = _free_ports(1 + NODES)
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName=gpu{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory={MEMORY_MB} "
        f"Gres=gpu:fake:{GPUS} State=UNKNOWN"
        for node, port in enumerate(ports, start=1)
    )
    template = (Path(__file__).parent / "slurm.conf").read_text(encoding="utf-8")
    conf = template.format(
        folder=folder, host=host, user=getpass.getuser(), control=control, node_port=ports[0], nodes=nodes
    )
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    for gpu in range(GPUS):  # a GPU must be a character device
        (folder / "dev" / f"gpu{gpu}").symlink_to("/dev/null")
    gres = f"AutoDetect=off\nNodeName=gpu[1-{NODES}] Name=gpu Type=fake File={folder}/dev/gpu[0-{GPUS - 1}]\n"
    (folder / "gres.conf").write_text(gres)
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n")
    for name in CLIENTS:
        # The executor's job step drops every SLURM_ variable: here, unlike in /etc/slurm, the place would be lost.
        shim = folder / "bin" / name
        shim.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program(name)} "$@"\n')
        shim.chmod(0o755)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--supervise"]:
        supervise(Path(arguments[1]))
        return 0
    if absent := missing():
        sys.exit(f"not installed: {', '.join(absent)}; apt-get install --no-install-recommends slurm-wlm munge")
    if arguments[:1] != ["--"] or len(arguments) < 2:
        sys.exit(__doc__)
    with running() as cluster:
        return subprocess.run(arguments[1:], env=cluster.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
