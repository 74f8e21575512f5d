"""Zip archives: written with the same bytes every time, read as if a stranger had made them.

`zipfile` holds a member to its declared size and its checksum; what it lets pass is refused before anything is written.
"""

import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from groupppo.errors import BadInput

EPOCH = (1980, 1, 1, 0, 0, 0)
STORED_SUFFIXES = (".parquet", ".png", ".safetensors")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.@+=,-]{0,199}"
_NAME = re.compile(rf"(?=.{{1,800}}$){_PART}(/{_PART})*")
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SHORT_END, _LONG_END = 22, 98
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for archives that are not as they should be."""
_CLASH = (FileExistsError, IsADirectoryError, NotADirectoryError)
_HINT = "give a bundle.zip as `make_bundle` writes it."


MEMBERS, LIST_BYTES, TOTAL_BYTES = 200_000, 32 << 20, 64 << 30
"""Files of an archive, bytes of its list of members, and bytes of all files."""
RATIO, FREE_BYTES = 200, 1 << 30
"""Bytes of all files / bytes of the archive, where they are more than any archive may give."""


def write_archive(file: Path, contents: Mapping[str, Path]) -> None:
    """Write files as a zip archive whose bytes depend on names and contents alone.

    Names are sorted, times and permissions fixed; the archive is replaced as a whole or not at all. Compression is
    zlib's: another zlib may give other bytes for the same contents, and the checksums inside still hold.

    Args:
        file: the archive.
        contents: the files, by their names in the archive.

    Raises:
        BadInput: a name that `extract` would refuse.
    """
    unfinished = file.with_name(f"{file.name}.part")
    _check_names(file, contents)
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name in sorted(contents):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.file_size = contents[name].stat().st_size
                info.compress_type = zipfile.ZIP_STORED if name.endswith(STORED_SUFFIXES) else zipfile.ZIP_DEFLATED
                with contents[name].open("rb") as source, archive.open(info, "w") as member:
                    shutil.copyfileobj(source, member)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def extract(file: Path, folder: Path) -> list[str]:
    """Unpack an archive into a new, empty folder; returns the names of its files, sorted.

    Raises:
        BadInput: not a zip archive, with other data around it, or one that other readers see otherwise; a name that
            leaves the folder, a link, far more bytes than the archive has; or damaged, when `folder` may hold files.
    """
    with file.open("rb") as stream:
        declared = _members_declared(file, stream)
        try:
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                _check_members(file, members, declared, shutil.disk_usage(folder).free)
                for member in members:
                    place = folder / member.filename
                    place.parent.mkdir(parents=True, exist_ok=True)
                    # "x" follows no link and overwrites nothing.
                    with archive.open(member) as source, place.open("xb") as target:
                        shutil.copyfileobj(source, target)
                    if place.stat().st_size != member.file_size:
                        raise ValueError(f"{member.filename} has another size than the archive declares")
        except _DAMAGED as error:
            raise BadInput(file, "file", str(error), "the archive is damaged or forged; fetch it again.") from error
        except _CLASH as error:
            raise BadInput(file, "member", member.filename, "refused: another member has this place.") from error
    return sorted(member.filename for member in members)


def _members_declared(file: Path, stream: BinaryIO) -> int:
    """How many members an archive declares; `zipfile`, which believes no such number, reads the whole list at once."""
    start, size = stream.read(4), stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _LONG_END))
    end = stream.read()
    long = end[-42:-38] == b"PK\x06\x07"
    if len(end) < _SHORT_END or start != b"PK\x03\x04" or (long and len(end) < _LONG_END):
        raise BadInput(file, "file", start, f"not a zip archive, or one with other data around it; {_HINT}")
    members, length, offset = struct.unpack("<3Q", end[32:56]) if long else struct.unpack("<HLL", end[-12:-2])
    expected = _end_of_archive(members, length, offset, long)
    if not end.endswith(expected) or offset + length + len(expected) != size:
        raise BadInput(file, "file", None, f"its end record is forged, or other data is around it; {_HINT}")
    if members > MEMBERS or length > LIST_BYTES:
        raise BadInput(file, "members", members, f"refused: more than {MEMBERS:,} members, or a list too long.")
    return int(members)


def _end_of_archive(members: int, length: int, offset: int, long: bool) -> bytes:
    """The end that `zipfile` writes; the long form where there are many members or bytes."""
    count = min(members, 0xFFFF)
    ends = min(length, 0xFFFFFFFF), min(offset, 0xFFFFFFFF)
    short = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, *ends, 0)
    if not long:
        return short
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, members, members, length, offset)
    return record + struct.pack("<4sLQL", b"PK\x06\x07", 0, offset + length, 1) + short


def _check_members(file: Path, members: list[zipfile.ZipInfo], declared: int, free: int) -> None:
    if len(members) != declared:
        raise BadInput(file, "members", len(members), f"refused: its end says that there are {declared:,}.")
    _check_names(file, [member.orig_filename for member in members])
    for member in members:
        plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
        if not plain or member.flag_bits & 0x1 or member.compress_type not in _PACKED:
            hint = "refused: a link, a device or a folder, encrypted, or not packed with deflate."
            raise BadInput(file, member.filename, stat.filemode(member.external_attr >> 16), hint)
    size = sum(member.file_size for member in members)
    if size > min(TOTAL_BYTES, max(FREE_BYTES, RATIO * file.stat().st_size)):
        raise BadInput(file, "size", size, "refused: it unpacks to far more than a bundle does.")
    if size > free:
        raise BadInput(file, "size", size, "free some space: unpacked it does not fit on the disk for temporary files.")


def _check_names(file: Path, names: Iterable[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            hint = "only relative names of letters, digits and _.@+=,- may go in or come out."
            raise BadInput(file, "member", name if len(name) < 90 else f"{name[:80]}...", hint)
