"""What results take on a disk: files that are written whole or not at all, and what is said when there is no room."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from groupppo.errors import BadInput

# Full, over the user's quota, mounted for reading; told by name, for libraries hand the number on in their own errors.
_LACKS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have your quota raised",
    errno.EROFS: "mount it for writing, or write elsewhere",
}
# With less than this there is no room, whatever the error says: torch's own writer says no more than that it failed.
_LEAST_BYTES = 1_000_000
_GO_ON = "then the same command: what is finished stays, and an interrupted run goes on from its last checkpoint."


def write_whole(file: Path, text: str) -> None:
    """Write a file, in the place of an older one: on the disk when this returns, and as it was before if it fails.

    Raises:
        BadInput: there is no room.
    """
    new = file.with_name(f".{file.name}.new")
    with room_for(file):
        try:
            with new.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            new.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise


def open_lock(place: Path) -> IO[str]:
    """Open a file, made if need be, that is there to be locked; what is written goes to its end.

    Whoever can read a file can hold its lock, and with it a start, for ever. So it is for those who may write in its
    folder, and could remove it, whatever the umask says.
    """
    others = place.parent.stat().st_mode & 0o022
    mode = 0o600 | others | others << 1
    file = open(place, "a+", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    with contextlib.suppress(OSError):  # of another one who works in this folder, or a disk without modes
        os.fchmod(file.fileno(), mode)
    return file


@contextlib.contextmanager
def room_for(place: Path) -> Iterator[None]:
    """A block that writes.

    Args:
        place: a file or folder on the disk that is written to, for errors that name none.

    Raises:
        BadInput: the disk has no room, or cannot be written to; it names file, free space and what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKS:
            raise
        name = error.filename2 or error.filename  # the first is what was copied
        raise _error(Path(os.fsdecode(name)) if name else place, error.errno) from error


def no_room(place: Path, said: str) -> BadInput | None:
    """The error to give a user for one that a disk without room caused; None where it was anything else.

    Args:
        place: file or folder that was written, which may not be there; the error may name another. said: its text.
    """
    for number in _LACKS:
        if found := re.search(rf"{os.strerror(number)}(: ('[^']+' -> )?'(?P<file>/[^']+)')?", said):
            return _error(Path(found["file"] or place), number)
    return _error(place, errno.ENOSPC) if _free(place) < _LEAST_BYTES else None


def _error(place: Path, number: int) -> BadInput:
    hint = f"{os.strerror(number)}: {_LACKS[number]}, {_GO_ON}"
    return BadInput(place, "free disk (GB)", round(_free(place) / 1e9, 3), hint)


def _free(place: Path) -> int:
    return shutil.disk_usage(next(folder for folder in (place, *place.absolute().parents) if folder.exists())).free
