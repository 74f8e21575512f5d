"""Whether a node can carry a run, found out in a moment before anything is started rather than hours into it."""

import math
import os
import platform
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil

from groupppo.errors import BadInput
from groupppo.measure.nvml import driver_version
from groupppo.measure.sensors import SensorMissing

MAX_SKEW = 5.0
"""Seconds that a node's clock may differ from the file server's: beyond, files look older than what made them."""
_PATIENCE = 10.0
_CGROUP, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Node:
    """A node that passed.

    Attributes:
        driver: version of the NVIDIA driver; None for a run on a CPU.
        clock_skew_seconds: file server's clock minus the node's.
        free_disk_bytes, free_memory_bytes: of the results folder's file system, and of the node or its job.
        seconds: that the check took.
    """

    driver: str | None
    clock_skew_seconds: float
    free_disk_bytes: int
    free_memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class Needs:
    """What a run needs of a node.

    Args:
        device: "cpu" or "cuda". lock: file of pinned packages. packages: of those, the ones that decide a run.
        disk_bytes: that it may write. memory_bytes: that was asked for.
    """

    device: str
    lock: Path
    packages: Iterable[str]
    disk_bytes: int
    memory_bytes: int


def check_node(folder: Path, needs: Needs) -> Node:
    """Check this node before a run whose results go to `folder`.

    Raises:
        BadInput: names what the node lacks and how to fix it; `folder` may not exist yet.
    """
    began, where = time.perf_counter(), f"node {platform.node() or socket.gethostname()}"
    skew = _answers(folder)
    _check_skew(where, skew)
    disk = shutil.disk_usage(folder).free
    if disk < needs.disk_bytes:
        hint = f"free at least {needs.disk_bytes / 1e9:.1f} GB there, or write the results elsewhere."
        raise BadInput(folder, "free disk (GB)", round(disk / 1e9, 1), hint)
    memory = free_memory()
    if memory < needs.memory_bytes:
        hint = f"the run asks for {needs.memory_bytes / 1e9:.1f} GB: end what holds it, or choose another node."
        raise BadInput(where, "free memory (GB)", round(memory / 1e9, 1), hint)
    check_versions(needs.lock, needs.packages)
    driver = _driver(where) if needs.device == "cuda" else None
    return Node(driver, skew, disk, memory, time.perf_counter() - began)


def _driver(where: str) -> str:
    try:
        return driver_version()
    except SensorMissing as error:
        hint = f"{error}; run on a node with an NVIDIA driver, or write device: cpu."
        raise BadInput(where, "NVIDIA driver", None, hint) from error


def check_versions(lock: Path, packages: Iterable[str]) -> None:
    """Compare installed packages with a lock; a build's own suffix (`+cpu`) does not count, nor does a package that
    the lock does not name.

    Raises:
        BadInput: one is missing or of another version.
    """
    lines = lock.read_text(encoding="utf-8").splitlines()
    pins = (line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#"))
    pinned = {_normal(name): pin for name, pin in pins}
    for package in packages:
        if _normal(package) not in pinned:
            continue
        try:
            installed: str | None = version(package)
        except PackageNotFoundError:
            installed = None
        if installed is None or installed.split("+")[0] != pinned[_normal(package)]:
            install = f"bash requirements/install.sh {lock.parent.name}/{lock.name}"
            hint = f"the lock has {pinned[_normal(package)]}; run {install} in this environment."
            raise BadInput(lock, package, installed, hint)


def _normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def clock_skew(folder: Path) -> float:
    """The clock of a folder's file server minus this node's, in seconds, from a file written, read and removed there.

    A difference below half the time that writing took cannot be told from none and is 0.

    Raises:
        BadInput: the folder cannot be made, written, read, or does not give back what was written.
    """
    token = uuid.uuid4().hex
    file = folder / f".{token}.check"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            before = time.time()
            with file.open("w", encoding="utf-8") as out:
                out.write(token)
                out.flush()
                os.fsync(out.fileno())
            after, stamped = time.time(), file.stat().st_mtime
            found = file.read_text(encoding="utf-8", errors="replace")
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        hint = "make the results folder writable from this node; on a cluster it must be on a shared file system."
        raise BadInput(folder, "write, read and remove a file", error.strerror, hint) from error
    if found != token:
        raise BadInput(folder, "a file written there", found[:40], "the file system does not keep what is written.")
    difference, doubt = stamped - (before + after) / 2, (after - before) / 2
    # Local file systems stamp with a clock that ticks every 4 ms.
    return difference if abs(difference) > doubt + 0.01 else 0.0


def _answers(folder: Path) -> float:
    """`clock_skew` in a thread: a file server that does not answer blocks whoever asks, for ever."""
    found: list[float | BadInput] = []

    def ask() -> None:
        try:
            found.append(clock_skew(folder))
        except BadInput as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not found:
        hint = f"its file server did not answer within {_PATIENCE:g} s: mount it again, or choose another node."
        raise BadInput(folder, "write, read and remove a file", None, hint)
    if isinstance(found[0], BadInput):
        raise found[0]
    return found[0]


def _check_skew(where: str, skew: float) -> None:
    if abs(skew) > MAX_SKEW:
        hint = f"set the clock (chrony or ntpd): files must not look older or newer by more than {MAX_SKEW:g} s."
        raise BadInput(where, "clock minus the file server's (s)", round(-skew, 1), hint)


def free_memory(root: Path = _CGROUP, own: Path = _OWN_CGROUP) -> int:
    """Bytes that can still be had: the node's, or what the limit of this process's job leaves where that is less.

    Args:
        root: where Linux shows control groups, of version 2 or, in `memory` below it, of version 1.
        own: the file that names the process's own.
    """
    free: float = psutil.virtual_memory().available
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else []:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            free = min(free, _left(root, place, _VERSION_2))
        elif "memory" in controllers.split(","):
            free = min(free, _left(root / "memory", place, _VERSION_1))
    return int(free)


class _Names(NamedTuple):
    """Files of a control group's memory, and the line of its statistics with the pages of files nobody waits for."""

    limit: str
    used: str
    inactive: str


_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
_VERSION_2 = _Names("memory.max", "memory.current", "inactive_file ")


def _left(root: Path, own: str, names: _Names) -> float:
    """What the tightest limit leaves: of the group, be it a step's, its job's or a whole slice's, and of all above it.

    A group without a limit says "max", in version 1 a number beyond all memory.
    """
    left, place = math.inf, Path(own.strip("/"))
    for group in (root / place, *(root / parent for parent in place.parents)):
        limit, used = group / names.limit, group / names.used
        if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="utf-8").strip()) != "max":
            # Pages of files are given back before anything is refused.
            held = int(used.read_text(encoding="utf-8")) - _cached(group / "memory.stat", names.inactive)
            left = min(left, int(most) - held)
    return left


def _cached(file: Path, name: str) -> int:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))
