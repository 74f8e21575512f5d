"""Where a process of a run is: every process that imports verl writes its stacks to one file when it is asked.

What asks is a signal, answered by Python's faulthandler in C: a process answers that waits in a library for ever.
"""

import faulthandler
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import psutil

VARIABLE = "GROUPPPO_STACKS"
SIGNAL = signal.SIGUSR2
# Writing some hundred frames takes milliseconds; files of a shared file system are written more slowly.
_WRITING_SECONDS = 0.2
_open: list[IO[bytes]] = []


def answer() -> None:
    """Answer in this process, and in those forked from it, if the launcher named a file in GROUPPPO_STACKS."""
    name = os.environ.get(VARIABLE)
    if name and not _open:
        # Appending: all processes write to this file, and those forked share its position.
        _open.append(open(name, "ab", buffering=0))  # noqa: SIM115  open as long as the process
        faulthandler.register(SIGNAL, file=_open[0], all_threads=True)


def ask(file: Path, processes: Iterable[psutil.Process]) -> None:
    """Have processes write their stacks to `file`, one after another, each under a line that names it."""
    for process in processes:
        try:
            if not _answers(process.pid):
                continue
            name = " ".join(process.cmdline())[:200] or process.name()
            with file.open("ab") as out:
                out.write(f"\n==== process {process.pid}: {name}\n".encode())
            process.send_signal(SIGNAL)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue  # it ended in between
        time.sleep(_WRITING_SECONDS)


def place_in(text: str, file: str) -> str | None:
    """The function of the innermost frame in a source file that stacks show; None where there is none."""
    found = re.search(rf'File "[^"]*{re.escape(file)}", line \d+ in (\S+)', text)
    return found[1] if found else None


def _answers(pid: int) -> bool:
    """Whether a process has a handler: without one the signal would end it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (SIGNAL - 1) & 1)
    return False
