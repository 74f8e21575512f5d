"""Whether a node can carry a run, found out in a moment before anything is started rather than hours into it."""

import importlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile

import psutil

from groupppo.errors import BadInput

PATIENCE = 10.0
"""Seconds in which the results folder's file server has to answer."""
MAX_SKEW = 5.0
"""Seconds that a node's clock may differ from the file server's: beyond, files look older than what made them."""


FLASH_ATTENTION = "2.8.3"
"""The version of flash-attn that verl 0.9.1 names beside its torch. It is built on the machine, so no lock has it."""


@dataclass(frozen=True)
class Needs:
    """What a run needs of a node.

    Args:
        lock: file of pinned packages. packages: of those, the ones that decide a run.
        disk_bytes: that it may write. memory_bytes: that was asked for.
        compiler: whether Triton will build kernels' launchers. flash_attention: whether the package is imported.
    """

    lock: Path
    packages: Iterable[str]
    disk_bytes: int
    memory_bytes: int
    compiler: bool = False
    flash_attention: bool = False


def check_node(folder: Path, needs: Needs) -> None:
    """Check this node before a run whose results go to `folder`.

    Raises:
        BadInput: names what the node lacks and how to fix it; `folder` may not exist yet.
    """
    where = f"node {platform.node()}"
    skew = answered_skew(folder)
    if abs(skew) > MAX_SKEW:
        hint = f"set the clock (chrony or ntpd): files must not look older or newer by more than {MAX_SKEW:g} s."
        raise BadInput(where, "clock minus the file server's (s)", round(-skew, 1), hint)
    disk = shutil.disk_usage(folder).free
    if disk < needs.disk_bytes:
        hint = f"free at least {needs.disk_bytes / 1e9:.1f} GB there, or write the results elsewhere."
        raise BadInput(folder, "free disk (GB)", round(disk / 1e9, 1), hint)
    memory = psutil.virtual_memory().available
    if memory < needs.memory_bytes:
        hint = f"the run asks for {needs.memory_bytes / 1e9:.1f} GB: end what holds it, or choose another node."
        raise BadInput(where, "free memory (GB)", round(memory / 1e9, 1), hint)
    check_versions(needs.lock, needs.packages)
    # As triton/runtime/build.py looks for one.
    if needs.compiler and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        hint = "install gcc (environment.yml has c-compiler), or name a C compiler in CC: Triton needs one on GPUs."
        raise BadInput(where, "C compiler", None, hint)
    if needs.flash_attention:
        check_flash_attention()


def check_flash_attention() -> None:
    """Import flash-attn, as a worker would minutes later.

    Raises:
        BadInput: it is missing, of another version, or was built for another torch.
    """
    build = f"MAX_JOBS=4 pip install --no-build-isolation --no-deps flash-attn=={FLASH_ATTENTION}"
    hint = f"build it here ({build}; docs/gpu.md), or write train.attention: sdpa, which does without."
    try:
        installed = version("flash-attn")
    except PackageNotFoundError:
        raise BadInput("environment", "flash-attn", None, hint) from None
    if installed.partition("+")[0] != FLASH_ATTENTION:
        raise BadInput("environment", "flash-attn", installed, hint)
    try:
        importlib.import_module("flash_attn")
    except ImportError as error:
        hint = f"{error}: it was built for another torch; {hint}"
        raise BadInput("environment", "flash-attn", installed, hint) from error


def answered_skew(folder: Path) -> float:
    """`clock_skew`, or BadInput where the folder's file server does not answer: it blocks whoever asks, for ever.

    Asked in a thread that nobody waits for in the end: a server may know the folder and not take a file.
    """
    found: list[float | BadInput] = []

    def ask() -> None:
        try:
            found.append(clock_skew(folder))
        except BadInput as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not found:
        hint = f"its file server did not answer within {PATIENCE:g} s: mount it again, or choose another node."
        raise BadInput(folder, "write and remove a file", None, hint)
    if isinstance(found[0], BadInput):
        raise found[0]
    return found[0]


def check_versions(lock: Path, packages: Iterable[str]) -> None:
    """Compare installed packages with those that a lock names; a build's own suffix (`+cpu`) does not count.

    Raises:
        BadInput: one is missing or of another version.
    """
    lines = lock.read_text(encoding="utf-8").splitlines()
    pins = (line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#"))
    pinned = {name.lower(): pin for name, pin in pins}
    for package in packages:
        try:
            installed: str | None = version(package)
        except PackageNotFoundError:
            installed = None
        pin = pinned.get(package.lower())
        if pin is not None and (installed is None or installed.partition("+")[0] != pin):
            install = f"bash requirements/install.sh {lock.parent.name}/{lock.name}"
            hint = f"the lock has {pin}; run {install} in this environment."
            raise BadInput(lock, package, installed, hint)


def clock_skew(folder: Path) -> float:
    """The clock of a folder's file server minus this node's, in seconds, from a file written and removed there.

    A difference below half the time that writing took cannot be told from none and is 0.

    Raises:
        BadInput: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, suffix=".check") as file:
            before = time.time()
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
            after, stamped = time.time(), Path(file.name).stat().st_mtime
    except OSError as error:
        hint = "make the results folder writable from this node; on a cluster it must be on a shared file system."
        raise BadInput(folder, "write and remove a file", error.strerror, hint) from error
    difference, doubt = stamped - (before + after) / 2, (after - before) / 2
    # Local file systems stamp with a clock that ticks every 4 ms.
    return difference if abs(difference) > doubt + 0.01 else 0.0
