"""Snakemake's lock on a working folder, when the Snakemake that held it was killed."""

import atexit
import contextlib
import fcntl
import shutil
import socket
from pathlib import Path

HOLDER = "holder"


class Presence:
    """Says that a Snakemake works in a folder for as long as its process lives, and lifts the lock of one that died.

    Snakemake's own lock is a file: kill -9 leaves it there, and the next start refuses to run. A lock of the kernel on
    `.snakemake/holder` ends with the process. Whoever finds it free and this host's name in the file knows that the
    holder was killed, since one that ends by itself takes its name out. Another host's name proves nothing, as not
    every network file system shares these locks: Snakemake then refuses as before, and names --unlock.

    Args:
        folder: `.snakemake`. submits: this Snakemake leaves its jobs to Slurm, where they can be found again; the jobs
            of one that ran them itself may be alive, and its lock stays.
    """

    def __init__(self, folder: Path, *, submits: bool):
        self.lifted = False
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / HOLDER).open("a+", encoding="utf-8")  # open, and locked, until the process ends
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held by another one, or a file system without such locks
            alone = False
        else:
            alone = True
            self._file.seek(0)
            locks = folder / "locks"
            if submits and self._file.read().strip() == socket.gethostname() and locks.is_dir():
                shutil.rmtree(locks)
                self.lifted = True
            self._name(socket.gethostname() if submits else "")
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH)
        if alone and submits:
            atexit.register(self._name, "")

    def _name(self, host: str) -> None:
        self._file.truncate(0)
        self._file.write(host)
        self._file.flush()
