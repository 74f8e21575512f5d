"""Zip archives: written with the same bytes every time, read as if a stranger had made them.

`zipfile` holds a member to its declared size and its checksum. An archive is refused before its first byte is written
to disk if its list of members is not what `write_archive` could have made: a member that leaves the folder, is
absolute, a link, a device, there twice, encrypted, an archive or a pickle; too many members, too many bytes, a ratio of
bytes to compressed bytes that only bombs have, overlaps, other data around the archive.
"""

import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from groupppo.errors import BadInput

EPOCH = (1980, 1, 1, 0, 0, 0)
STORED_SUFFIXES = (".parquet", ".png", ".safetensors")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".lz4", ".whl", ".jar")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".dill")
_ZIP, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
ARCHIVE_MAGIC = (_ZIP, _ZIP_END, b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
_CHUNK, _LOCAL_HEADER = 1 << 20, 30
# Windows drops a dot at the end of a name.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=,-]*(?<!\.)")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for archives that are not as they should be."""
_HINT = "give a bundle.zip as `make_bundle` writes it."


@dataclass(frozen=True)
class Limits:
    """What an archive may hold. Sizes in bytes.

    Args:
        members: files.
        member_bytes: size of one file.
        total_bytes: sum over files.
        ratio: size / compressed size, of each file larger than `free_bytes` and of the whole.
        free_bytes: up to this size no ratio is asked for: a short file of one letter is no bomb.
        depth: folders above a file.
        list_bytes: size of the archive's list of members.
    """

    members: int = 200_000
    member_bytes: int = 8 << 30
    total_bytes: int = 64 << 30
    ratio: float = 200.0
    free_bytes: int = 1 << 20
    depth: int = 12
    list_bytes: int = 32 << 20


LIMITS = Limits()


def write_archive(file: Path, contents: Mapping[str, Path], limits: Limits = LIMITS) -> None:
    """Write files as a zip archive whose bytes depend on names and contents alone.

    Names are sorted, times and permissions fixed; the archive is replaced as a whole or not at all. Compression is
    zlib's: another zlib may give other bytes for the same contents, and the checksums inside still hold.

    Args:
        file: the archive.
        contents: the files, by their names in the archive.
        limits: those that `extract` will be given.

    Raises:
        BadInput: a name or content that `extract` would refuse.
    """
    unfinished = file.with_name(f"{file.name}.part")
    _check_names(file, list(contents))
    if len(contents) > limits.members:
        raise BadInput(file, "members", len(contents), f"leave files out: at most {limits.members:,} may go in.")
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name in sorted(contents):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.file_size = contents[name].stat().st_size
                info.compress_type = _packing(name, contents[name], info.file_size, limits)
                with contents[name].open("rb") as source, archive.open(info, "w") as member:
                    _copy(file, name, source, member)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _packing(name: str, content: Path, size: int, limits: Limits) -> int:
    """Stored where compressing gains nothing, or so much that a reader would see a bomb; else deflated."""
    if name.endswith(STORED_SUFFIXES):
        return zipfile.ZIP_STORED
    packer = zlib.compressobj(wbits=-15)
    with content.open("rb") as stream:
        packed = sum(len(packer.compress(chunk)) for chunk in iter(lambda: stream.read(_CHUNK), b""))
    packed += len(packer.flush())
    bomb = size > limits.free_bytes and size > limits.ratio / 2 * packed
    return zipfile.ZIP_STORED if bomb or packed >= size else zipfile.ZIP_DEFLATED


def _copy(file: Path, name: str, source: IO[bytes], target: IO[bytes]) -> None:
    start = source.read(_CHUNK)
    # A safetensors file starts with the length of its header, which may be any bytes.
    if start.startswith(ARCHIVE_MAGIC) and not name.endswith(".safetensors"):
        raise BadInput(file, name, "an archive", "archives within archives neither go in nor come out.")
    target.write(start)
    shutil.copyfileobj(source, target, _CHUNK)


def extract(file: Path, folder: Path, limits: Limits = LIMITS) -> list[str]:
    """Unpack an archive into a new, empty folder; returns the names of its files, sorted.

    Raises:
        BadInput: not a zip archive, damaged, or hostile as the head of this module says; `folder` may then hold files
            that were already unpacked.
    """
    with file.open("rb") as stream:
        declared = _members_declared(file, stream, limits)
        try:
            with zipfile.ZipFile(stream) as archive:
                members = _checked_members(file, archive, declared, limits)
                if sum(member.file_size for member in members) > shutil.disk_usage(folder).free:
                    raise BadInput(file, "size", None, f"free some space: unpacked it does not fit beside {folder}.")
                for member in members:
                    place = folder.joinpath(*member.filename.split("/"))
                    place.parent.mkdir(parents=True, exist_ok=True)
                    # "x" follows no link and overwrites nothing.
                    with archive.open(member) as source, place.open("xb") as target:
                        _copy(file, member.filename, source, target)
                    if place.stat().st_size != member.file_size:
                        hint = f"the archive declares {member.file_size:,} bytes; fetch it again."
                        raise BadInput(file, member.filename, place.stat().st_size, hint)
        except _DAMAGED as error:
            raise BadInput(file, "file", str(error), "the archive is damaged or forged; fetch it again.") from error
    return sorted(member.filename for member in members)


def _members_declared(file: Path, stream: BinaryIO, limits: Limits) -> int:
    """How many members a file declares that is a zip archive from its first to its last byte.

    `zipfile` reads the whole list of members into memory, believes no such number, and lets other data stand before and
    behind an archive.
    """
    start, size = stream.read(4), stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 98))
    end = stream.read()
    if end[-22:-18] != _ZIP_END or end[-2:] != b"\0\0" or start != _ZIP:
        raise BadInput(file, "file", start, f"not a zip archive, or one with other data around it; {_HINT}")
    disk, list_disk, _, members, list_size, list_offset = struct.unpack("<4H2L", end[-18:-2])
    behind, locator, forged = size - 22, b"", end[-42:-38] == b"PK\x06\x07"
    if members == 0xFFFF or 0xFFFFFFFF in (list_size, list_offset):  # beyond 4 GiB or 65,535 members
        behind = max(0, size - 98)
        locator, forged = struct.pack("<4sLQL", b"PK\x06\x07", 0, behind, 1), end[:4] != b"PK\x06\x06"
        if not forged:
            disk, list_disk, _, members, list_size, list_offset = struct.unpack("<2L4Q", end[16:56])
    if forged or disk or list_disk or not end[:-22].endswith(locator):  # other readers may see other members
        raise BadInput(file, "file", None, f"its end record is forged; {_HINT}")
    if members > limits.members or list_size > limits.list_bytes:
        raise BadInput(file, "members", members, f"refused: more than {limits.members:,} members, or a list too long.")
    if list_offset + list_size != behind:
        raise BadInput(file, "file", None, f"the list of members is not where it should be; {_HINT}")
    return int(members)


def _checked_members(file: Path, archive: zipfile.ZipFile, declared: int, limits: Limits) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) != declared:
        raise BadInput(file, "members", len(members), f"refused: its end says that there are {declared:,}.")
    for member in members:
        _check_member(file, member, limits)
    _check_names(file, [member.orig_filename for member in members], limits.depth)
    size, packed = (sum(getattr(member, key) for member in members) for key in ("file_size", "compress_size"))
    if size > limits.total_bytes:
        raise BadInput(file, "size", size, f"refused: more than {limits.total_bytes:,} bytes when unpacked.")
    if size > limits.free_bytes and size > limits.ratio * packed:
        raise BadInput(file, "ratio", size // max(1, packed), "refused: it unpacks to far more than a bundle does.")
    ordered = sorted(members, key=lambda member: member.header_offset)
    ends = [member.header_offset for member in ordered[1:]] + [archive.start_dir]
    for member, end in zip(ordered, ends, strict=True):
        if member.header_offset + _LOCAL_HEADER + len(member.orig_filename) + member.compress_size > end:
            raise BadInput(file, member.filename, member.header_offset, "refused: its members overlap.")
    return members


def _check_member(file: Path, member: zipfile.ZipInfo, limits: Limits) -> None:
    mode, method = member.external_attr >> 16, member.compress_type
    size, packed = member.file_size, member.compress_size
    plain = not member.flag_bits & 0x1 and method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    for refused, value, hint in (
        (stat.S_IFMT(mode) not in (0, stat.S_IFREG), stat.filemode(mode), "a link, a device or a folder."),
        (not plain, method, "encrypted, or not packed with deflate."),
        (method == zipfile.ZIP_STORED and size != packed, size, "a stored file has two sizes."),
        (size > limits.member_bytes, size, f"more than {limits.member_bytes:,} bytes in one file."),
        (size > limits.free_bytes and size > limits.ratio * packed, size, "it unpacks to far more than its size."),
    ):
        if refused:
            raise BadInput(file, member.orig_filename, value, f"refused: {hint}")


def _check_names(file: Path, names: list[str], depth: int = LIMITS.depth) -> None:
    """Names that every file system keeps apart and that stay inside their folder."""
    places: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        if not all(_NAME.fullmatch(part) and not _RESERVED.fullmatch(part) for part in parts) or len(parts) > depth + 1:
            hint = "only relative names of letters, digits and _.@+=,- may go in or come out."
            raise BadInput(file, "member", name, hint)
        if max(map(len, parts)) > 200 or len(name) > 800:
            raise BadInput(file, "member", f"{name[:80]}...", "shorten the name.")
        if name.lower().endswith(ARCHIVES + PICKLES):
            raise BadInput(file, "member", name, "no archives and no pickles may go in or come out.")
        for place in (*("/".join(parts[:end]) + "/" for end in range(1, len(parts))), name):
            key = place.rstrip("/").casefold()
            known = places.get(key)
            if known is not None and (known != place or place == name):
                raise BadInput(file, "member", name, f"{known} has the same name, up to case; rename one of them.")
            places[key] = place
