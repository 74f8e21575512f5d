"""The processes of a run: found, ended, and ended later where whoever started them could not."""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from groupppo.errors import BadInput

_PREFIX, _LOCK, _HOLD = "gppo-", "lock", ".lock"
# The longest that Ray binds in a run's folder, where the number of a process may have seven digits.
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_SOCKET_PATH = 107  # sockaddr_un in linux/un.h, without its last zero
_SHORT = ("/tmp", "/var/tmp")
_TITLE, _CLIENTS = "ray::", "ray.util.client.server"
_STOP_SECONDS, _LOOK_SECONDS = 10, 5.0
_ROUNDS = 5
# It removes the shared memory of a process that was killed, and ends by itself when that is done.
_TRACKER = "multiprocessing.resource_tracker"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the sockets and files of a run, gone with the block.

    The folder is locked by this process: one that is not was left by a run whose launcher was killed, and is removed
    with the processes that were started with it.
    """
    _sweep()
    folder = short_folder(_PREFIX)
    with (folder / f"{_LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # nobody sees it unlocked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def short_folder(prefix: str) -> Path:
    """Make a folder for a run's sockets: in TMPDIR, or in /tmp or /var/tmp where TMPDIR cannot hold them.

    A socket's path has at most 107 characters, and some file systems know neither sockets nor locks.

    Raises:
        BadInput: none of them can.
    """
    for place in _places():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            try:
                _require_sockets(folder)
                return folder
            except OSError:
                shutil.rmtree(folder)
                raise
    longest = _SOCKET_PATH - len(_SOCKET) - len(f"/{prefix}12345678/")
    mend = f"name a writable folder of at most {longest} characters, on a local disk, which holds sockets and locks."
    raise BadInput("environment", "TMPDIR", os.environ.get("TMPDIR"), mend)


def _places() -> list[str]:
    try:
        return list(dict.fromkeys((tempfile.gettempdir(), *_SHORT)))
    except FileNotFoundError:  # neither TMPDIR nor any folder that Python knows can be written
        return list(_SHORT)


def _require_sockets(folder: Path) -> None:
    probe = folder / ("x" * len(_SOCKET))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(probe))
    probe.unlink()
    with probe.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    probe.unlink()


def _sweep() -> None:
    for lock in (lock for place in _places() for lock in Path(place).glob(f"{_PREFIX}*/{_LOCK}")):
        with contextlib.suppress(OSError), lock.open() as file:  # somebody else's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end_all(lock.parent)
            shutil.rmtree(lock.parent, ignore_errors=True)


def started_with(folder: Path) -> list[psutil.Process]:
    """Ray's daemons and their workers, known by the folder that their command lines name or that their logs are in."""
    found = {}
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.pid != os.getpid() and _belongs(process, folder):
            found[process.pid] = process
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def _belongs(process: psutil.Process, folder: Path) -> bool:
    words = process.info["cmdline"] or ()
    if any(str(folder) in word for word in words):
        return True
    # Ray's agents write their title over their command line and environment, and its server of clients names no folder.
    # Both outlive its other daemons by a minute.
    if not (process.info["name"] or "").startswith(_TITLE) and _CLIENTS not in words:
        return False
    try:
        return any(file.path.startswith(f"{folder}/") for file in process.open_files())
    except (psutil.Error, OSError):  # it ended, or is somebody else's
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
    """Those that are still there after some seconds. One that has ended and that nobody asked about is not."""
    until = time.monotonic() + _STOP_SECONDS
    while (members := [member for member in members if _runs(member)]) and time.monotonic() < until:
        time.sleep(0.02)
    return members


def _runs(member: psutil.Process) -> bool:
    try:
        return member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class SharedMemory:
    """Files in memory that a run's processes share: vLLM's are left when Ray ends its server, the run's end included.

    Args:
        root: of the run's processes. folder: as of `family`. memory: where Linux shows shared memory.
    """

    def __init__(self, root: subprocess.Popen[bytes], folder: Path, memory: Path = Path("/dev/shm")):
        self.root, self.folder, self.memory = root, folder, memory
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
                self.seen |= {Path(word) for word in mapped.split() if word.startswith(f"{self.memory}/")}

    def remove(self) -> None:
        """Remove what is left of what was made since the run began."""
        for file in self.seen:
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_ctime >= self.began - 1:
                    file.unlink()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made: two processes that train one cell would mix their rows.

    Raises:
        BadInput: another process holds it.
    """
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
        file = place.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            mend = f"wait for it, or end it: {holder} trains this cell."
            raise BadInput(place.parent, "run", holder, mend) from None
        except OSError as error:
            warnings.warn(f"{place}: {error.strerror}; a second process for this run would not be seen", stacklevel=2)
            return file
        # Whoever held it may have removed the file after it was opened here, and a third have made another.
        if place.exists() and place.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()
