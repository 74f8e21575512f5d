"""Snakemake and its jobs of one folder, when one of them was killed: its jobs end with it, and its lock is lifted."""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import IO

import psutil

from groupppo.records.storage import open_lock

HOLDER, WORKING = "holder", "working"
_MAIN = "GROUPPPO_SNAKEMAKE"
_SLURM, _HERE = "slurm", "here"
_POLL_SECONDS = 1.0
# A job may be in a library's call when it is told to end, and has processes of its own to end.
_END_SECONDS = 60.0


class Presence:
    """Says that a Snakemake works in a folder for as long as its process lives, and lifts the lock of one that died.

    A lock of the kernel on `.snakemake/holder` ends with the process. Whoever finds it free and this host's name in the
    file knows that the holder was killed, since one that ends by itself takes its name out. Another host's name proves
    nothing, as not every network file system shares these locks: Snakemake then refuses as ever, and names --unlock.

    Jobs that ran on this machine end with their Snakemake and are waited for. Those that it left to Slurm go on; only a
    Snakemake that submits finds them again, and lifts that lock.

    Args:
        folder: `.snakemake`. submits: this Snakemake leaves its jobs to Slurm. patience: seconds that the jobs of one
            that was killed may take to end.
    """

    def __init__(self, folder: Path, *, submits: bool, patience: float = _END_SECONDS + 30):
        self.lifted = False
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open_lock(folder / HOLDER)  # open, and locked, until the process ends
        if _locked(self._file, fcntl.LOCK_EX):
            self._file.seek(0)
            host, _, kind = self._file.read().strip().partition(" ")
            locks = folder / "locks"
            left = bool(host) and locks.is_dir() and any(locks.iterdir())
            if left and host == socket.gethostname() and (submits or kind == _HERE) and _nobody_works(folder, patience):
                shutil.rmtree(locks)
                self.lifted = True
            if self.lifted or not left:  # else the name is needed yet, by a start that may lift the lock
                self._name(f"{socket.gethostname()} {_SLURM if submits else _HERE}")
                atexit.register(self._name, "")
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def _name(self, host: str) -> None:
        self._file.truncate(0)
        self._file.write(host)
        self._file.flush()


def lead() -> None:
    """Have the jobs that this Snakemake runs itself end with it."""
    os.environ[_MAIN] = f"{os.getpid()} {_processes()}"


def lead_none() -> None:
    """In a job of Slurm, which has an end of its own: the variable came from the Snakemake that submitted it."""
    os.environ.pop(_MAIN, None)


def end_with_snakemake(folder: Path) -> None:
    """End this process as by SIGTERM when the Snakemake is gone that runs it as a job, or a shell between them.

    Nobody would take down that the job has ended: the next Snakemake would make it again, if need be beside it.
    """
    main, _, where = os.environ.get(_MAIN, "").partition(" ")
    if where != _processes():  # started by hand or by Slurm, or in a container that shows no process but its own
        return
    _working.append(open_lock(folder / WORKING))
    _locked(_working[-1], fcntl.LOCK_SH)
    above = psutil.Process().parents()
    numbers = [process.pid for process in above]
    if int(main) not in numbers:
        sys.exit("the Snakemake that started this job was killed")
    chain = above[: numbers.index(int(main)) + 1]
    threading.Thread(target=_watch, args=(chain,), name="end with Snakemake", daemon=True).start()


_working: list[IO[str]] = []  # open, and locked, until the process ends


def _watch(chain: list[psutil.Process]) -> None:
    while all(map(_lives, chain)):
        time.sleep(_POLL_SECONDS)
    with contextlib.suppress(OSError, ValueError):  # a log on a full disk, or closed already
        print("The Snakemake that started this job was killed: the job ends.", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _processes() -> str:
    """The space of process numbers that this process sees: a container may have its own."""
    return os.readlink("/proc/self/ns/pid")


def _nobody_works(folder: Path, patience: float) -> bool:
    """Whether no job of a Snakemake that was killed is left within some seconds."""
    until = time.monotonic() + patience
    with open_lock(folder / WORKING) as file:
        while not (free := _locked(file, fcntl.LOCK_EX)) and time.monotonic() < until:
            time.sleep(0.1)
    return free


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:  # held by another one, or a file system without such locks
        return False
    return True
