"""Find and stop the processes of a run, including those left by a launcher that was killed."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import psutil

from groupppo.errors import BadInput
from groupppo.records.storage import open_lock
from groupppo.verl.endings import SIGNAL

MARK = "GROUPPPO_RUN"
"""Variable by which the processes of a run are known; its value is in the run's folder, and nobody else reads it."""
# Writing some hundred frames takes milliseconds; files of a shared file system are written more slowly.
_WRITING_SECONDS = 0.2
_PREFIX, _HOLD, _MARK_FILE, _HOST_FILE = "gppo_", ".lock", "mark", "host"
_NAME = re.compile(f"{_PREFIX}[a-z0-9_]{{8}}")  # as tempfile.mkdtemp makes them
# The longest that Ray binds in a run's folder, where the number of a process may have seven digits.
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_SOCKET_PATH = 107  # sockaddr_un in linux/un.h, without its last zero
_SHORT = ("/tmp", "/var/tmp")
_TITLE = "ray::"
_STOP_SECONDS, _LOOK_SECONDS = 10, 5.0
_ROUNDS = 5
# It removes the shared memory of a process that was killed, and ends by itself when that is done.
_TRACKER = "multiprocessing.resource_tracker"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the sockets and files of a run, this user's alone and gone with the block.

    This process locks it: one that is not locked was left by a launcher that was killed, and goes with its processes.
    """
    sweep()
    folder = short_folder(_PREFIX)
    with _locked(folder, wait=True):
        private(folder / _HOST_FILE, socket.gethostname())  # without which nobody sweeps it
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder; OSError where it is in use, open to others, somebody else's or no folder at all."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(opened)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "not this user's alone", str(folder))
        fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def short_folder(prefix: str) -> Path:
    """Make a folder for a run's sockets: in TMPDIR, or in /tmp or /var/tmp where that cannot hold them, else BadInput.

    A socket's path has at most 107 characters, and some file systems know neither sockets nor locks.
    """
    for place in _places():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            try:
                probe = folder / ("x" * len(_SOCKET))
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(probe))
                probe.unlink()
                with _locked(folder, wait=True):
                    return folder
            except OSError:
                shutil.rmtree(folder)
                raise
    longest = _SOCKET_PATH - len(_SOCKET) - len(f"/{prefix}12345678/")
    hint = f"name a writable folder of at most {longest} characters, on a local disk, which holds sockets and locks."
    raise BadInput("environment", "TMPDIR", os.environ.get("TMPDIR"), hint)


def _places() -> list[str]:
    try:
        return list(dict.fromkeys((tempfile.gettempdir(), *_SHORT)))
    except FileNotFoundError:  # neither TMPDIR nor any folder that Python knows can be written
        return list(_SHORT)


def sweep() -> None:
    """Remove what killed launchers of this user left here; a network file system may show other machines' folders."""
    for place in _places():
        with contextlib.suppress(OSError):
            for name in filter(_NAME.fullmatch, os.listdir(place)):
                with contextlib.suppress(OSError), _locked(folder := Path(place, name), wait=False):
                    if (folder / _HOST_FILE).read_text(encoding="utf-8") == socket.gethostname():
                        end_all(folder)
                        shutil.rmtree(folder, ignore_errors=True)


def private(file: Path, text: str) -> None:
    """Make a file that this user alone can read; FileExistsError where there is one, or a link of that name."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)


def marked(folder: Path) -> dict[str, str]:
    """Variables of the processes that `started_with(folder)` is to find."""
    mark = secrets.token_hex(16)
    private(folder / _MARK_FILE, mark)
    return {MARK: mark}


def started_with(folder: Path) -> list[psutil.Process]:
    """This user's processes that were started with a folder's mark, and their descendants.

    A command line that names the folder says nothing: others may have this user run commands of their wording.
    """
    try:
        mark = f"{MARK}={(folder / _MARK_FILE).read_text(encoding='utf-8')}".encode()
    except FileNotFoundError:  # nothing was started yet
        return []
    everyone = {process.pid: process for process in psutil.process_iter(["ppid"]) if process.pid != os.getpid()}
    found = {pid for pid, process in everyone.items() if _belongs(process, mark, folder)}
    while born := {pid for pid, process in everyone.items() if process.info["ppid"] in found} - found:
        found |= born
    return [everyone[pid] for pid in found]


def _belongs(process: psutil.Process, mark: bytes, folder: Path) -> bool:
    place = Path(f"/proc/{process.pid}")
    try:
        if set(process.uids()) != {os.geteuid()}:
            return False
        if mark in (place / "environ").read_bytes().split(b"\0"):
            return True
        # Ray's agents and workers write their title over their environment; they log to the folder.
        return process.name().startswith(_TITLE) and any(
            os.readlink(file).startswith(f"{folder}/") for file in (place / "fd").iterdir()
        )
    except (psutil.Error, OSError):  # it ended, or is not to be read
        return False


def family(root: subprocess.Popen[bytes] | None, folder: Path) -> list[psutil.Process]:
    """A process with its descendants, and what was started with a folder."""
    found = {process.pid: process for process in started_with(folder)}
    if root is not None and root.poll() is None:  # once it is reaped, its number may be another process's
        with contextlib.suppress(psutil.NoSuchProcess):
            ancestor = psutil.Process(root.pid)
            found |= {member.pid: member for member in (ancestor, *ancestor.children(recursive=True))}
    return list(found.values())


def end_all(folder: Path, root: subprocess.Popen[bytes] | None = None) -> None:
    """Kill a family, and what it started while it was looked for: without its folder nobody would find that later."""
    for _ in range(_ROUNDS):
        if not (members := family(root, folder)):
            return
        end(members)


def end(members: list[psutil.Process]) -> None:
    """Kill processes; those that clean up after others may end by themselves."""
    trackers = []
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(_TRACKER in word for word in member.cmdline()):
                trackers.append(member)
            else:
                member.kill()
    _wait([member for member in members if member not in trackers])
    for slow in _wait(trackers):
        with contextlib.suppress(psutil.NoSuchProcess):
            slow.kill()


def _wait(members: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after some seconds; a zombie is not, whoever was to ask about it."""

    def runs(member: psutil.Process) -> bool:
        try:
            return member.is_running() and member.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until = time.monotonic() + _STOP_SECONDS
    while (members := list(filter(runs, members))) and time.monotonic() < until:
        time.sleep(0.02)
    return members


class SharedMemory:
    """Files in memory that a run's processes share: vLLM's are left when Ray ends its server, at a run's end, too."""

    def __init__(self, root: subprocess.Popen[bytes], folder: Path):
        self.root, self.folder = root, folder
        self.seen: set[Path] = set()
        self.began, self.next = time.time(), 0.0

    def look(self) -> None:
        """Note what the processes have mapped; reading that takes milliseconds for each, so it is done now and then."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + _LOOK_SECONDS
        for process in family(self.root, self.folder):
            with contextlib.suppress(psutil.Error, OSError):
                mapped = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
                self.seen |= {Path(word) for word in mapped.split() if word.startswith("/dev/shm/")}

    def remove(self) -> None:
        """Remove what is left of what was made since the run began."""
        for file in self.seen:
            with contextlib.suppress(FileNotFoundError):
                found = file.lstat()
                if found.st_uid == os.geteuid() and found.st_ctime >= self.began - 1:
                    file.unlink()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made, or raise BadInput: two processes that train one cell would mix their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / _HOLD) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        try:
            yield
        finally:
            (folder / _HOLD).unlink(missing_ok=True)


def _held(place: Path) -> IO[str]:
    while True:
        file = open_lock(place)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            hint = f"wait for it, or end it: {holder} trains this cell."
            raise BadInput(place.parent, "run", holder, hint) from None
        except OSError as error:
            warnings.warn(f"{place}: {error.strerror}; a second process for this run would not be seen", stacklevel=2)
            return file
        # Whoever held it may have removed the file after it was opened here, and a third have made another.
        if place.exists() and place.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


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


def _answers(pid: int) -> bool:
    """Whether a process has a handler: without one the signal would end it."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (SIGNAL - 1) & 1)
