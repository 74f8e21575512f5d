import re
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from groupppo.verl.endings import SIGNAL

_WRITING_SECONDS = 0.2


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
