"""Zip archives: written with the same bytes every time, read as if a stranger had made them.

An archive is refused before its first byte is written to disk if its list of members is not what `write_archive` could
have made: a member that leaves the folder, is absolute, a link, a device, there twice, encrypted, an archive or a
pickle; too many members, too many bytes, a ratio of bytes to compressed bytes that only bombs have, overlaps.
Extraction counts what comes out and stops at the declared size, so no header is believed.
"""

import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from groupppo.errors import BadInput

CHUNK = 1 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)
STORED_SUFFIXES = (".parquet", ".png", ".safetensors")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".lz4", ".whl", ".jar")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz", ".dill")
ARCHIVE_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)
# Windows drops a dot at the end of a name.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=,-]*(?<!\.)")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_LOCAL_HEADER = 30
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for archives that are not as they should be."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold. Sizes in bytes.

    Args:
        members: files. member_bytes: size of one file. total_bytes: sum over files.
        ratio: size / compressed size, of each file larger than `free_bytes` and of the whole.
        free_bytes: up to this size no ratio is asked for: a short file of one letter is no bomb.
        depth: folders above a file. list_bytes: size of the archive's list of members.
    """

    members: int = 200_000
    member_bytes: int = 8 << 30
    total_bytes: int = 64 << 30
    ratio: float = 200.0
    free_bytes: int = 1 << 20
    depth: int = 12
    list_bytes: int = 32 << 20


LIMITS = Limits()


class Content(Protocol):
    """Bytes that can be read more than once."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, piece by piece; the same at every call."""
        ...


def write_archive(file: Path, contents: Mapping[str, Content], limits: Limits = LIMITS) -> None:
    """Write `contents` (by name) as a zip archive whose bytes depend on names and contents alone.

    Names are sorted, times and permissions fixed; the file is replaced as a whole or not at all. Compression is zlib's:
    another zlib may give other bytes for the same contents, and the checksums inside still hold.

    Raises:
        BadInput: a name or content that `extract` would refuse.
    """
    unfinished = file.with_name(f"{file.name}.part")
    _check_names(file, list(contents))
    if len(contents) > limits.members:
        raise BadInput(
            file, "members", len(contents), f"leave files out: at most {limits.members:,} go into one archive."
        )
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name in sorted(contents):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.compress_type, size = _packing(name, contents[name], limits)
                # A stream of unknown length needs the long form, which small files need not have.
                with archive.open(info, "w", force_zip64=size >= zipfile.ZIP64_LIMIT // 2) as member:
                    for index, chunk in enumerate(contents[name].chunks()):
                        if index == 0:
                            _refuse_archive(file, name, chunk)
                        member.write(chunk)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _packing(name: str, content: Content, limits: Limits) -> tuple[int, int]:
    """Compression and size: stored where compressing gains nothing, or so much that a reader would see a bomb."""
    stored, packer, size, packed = name.endswith(STORED_SUFFIXES), zlib.compressobj(wbits=-15), 0, 0
    for chunk in content.chunks():
        size += len(chunk)
        packed += 0 if stored else len(packer.compress(chunk))
    packed += len(packer.flush())
    bomb = size > limits.free_bytes and size > limits.ratio / 2 * packed
    return zipfile.ZIP_STORED if stored or bomb or packed >= size else zipfile.ZIP_DEFLATED, size


def extract(file: Path, folder: Path, limits: Limits = LIMITS) -> list[str]:
    """Unpack `file` into the new, empty `folder`; returns the names of the files, sorted.

    Raises:
        BadInput: not a zip archive, damaged, or hostile as the head of this module says; `folder` may then hold files
            that were already unpacked.
    """
    with file.open("rb") as stream:
        declared = _check_frame(file, stream, limits)
        try:
            with zipfile.ZipFile(stream) as archive:
                members = _checked_members(file, archive, declared, limits)
                if sum(member.file_size for member in members) > shutil.disk_usage(folder).free:
                    raise BadInput(file, "size", None, f"free some space: unpacked it does not fit beside {folder}.")
                for member in members:
                    _unpack(file, archive, member, folder)
        except _DAMAGED as error:
            raise BadInput(file, "file", str(error), "the archive is damaged or forged; fetch it again.") from error
    return sorted(member.filename for member in members)


def _unpack(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    place = folder.joinpath(*member.filename.split("/"))
    place.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    # "x" follows no link and overwrites nothing.
    with archive.open(member) as source, place.open("xb") as target:
        while chunk := source.read(CHUNK):
            if written == 0:
                _refuse_archive(file, member.filename, chunk)
            written += len(chunk)
            if written > member.file_size:
                raise BadInput(file, member.filename, written, "more bytes than the archive declares; it is forged.")
            target.write(chunk)
    if written != member.file_size:
        raise BadInput(
            file, member.filename, written, f"the archive declares {member.file_size} bytes; fetch it again."
        )


def _refuse_archive(file: Path, name: str, start: bytes) -> None:
    # A safetensors file starts with the length of its header, which may be any bytes.
    if start.startswith(ARCHIVE_MAGIC) and not name.endswith(".safetensors"):
        raise BadInput(file, name, "an archive", "archives within archives neither go in nor come out.")


def _check_frame(file: Path, stream: BinaryIO, limits: Limits) -> int:
    """The file is a zip archive from its first to its last byte, with a list of members of a sane size.

    Returns how many members it declares. `zipfile` reads the whole list into memory, believes no such number, and lets
    other data stand before and behind an archive.
    """
    size = stream.seek(0, os.SEEK_END)
    hint = "give a bundle.zip as `make_bundle` writes it."
    if size < _END.size:
        raise BadInput(file, "file", f"{size} bytes", f"not a zip archive; {hint}")
    stream.seek(0)
    start = stream.read(4)
    stream.seek(size - _END.size)
    magic, disk, list_disk, _, members, list_size, list_offset, comment = _END.unpack(stream.read(_END.size))
    if magic != b"PK\x05\x06" or start != b"PK\x03\x04" or comment or disk or list_disk:
        raise BadInput(file, "file", start, f"not a zip archive, or one with other data around it; {hint}")
    end = size - _END.size
    if 0xFFFF in (members,) or 0xFFFFFFFF in (list_size, list_offset):
        members, list_size, list_offset, end = _long_end(file, stream, end, hint)
    if members > limits.members or list_size > limits.list_bytes:
        raise BadInput(file, "members", members, f"refused: more than {limits.members:,} members, or a list too long.")
    if list_offset + list_size != end:
        raise BadInput(file, "file", None, f"the list of members is not where it should be; {hint}")
    return members


def _long_end(file: Path, stream: BinaryIO, end: int, hint: str) -> tuple[int, int, int, int]:
    """The end record of an archive beyond 4 GiB or 65,535 members."""
    place = end - _LOCATOR.size - _END64.size
    if place < 0:
        raise BadInput(file, "file", None, f"its end record is cut off; {hint}")
    stream.seek(place)
    magic, _, _, _, disk, list_disk, _, members, list_size, list_offset = _END64.unpack(stream.read(_END64.size))
    locator, _, offset, disks = _LOCATOR.unpack(stream.read(_LOCATOR.size))
    if magic != b"PK\x06\x06" or locator != b"PK\x06\x07" or offset != place or disk or list_disk or disks != 1:
        raise BadInput(file, "file", None, f"its end record is forged; {hint}")
    return members, list_size, list_offset, place


def _checked_members(file: Path, archive: zipfile.ZipFile, declared: int, limits: Limits) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) != declared:
        raise BadInput(file, "members", len(members), f"refused: its end says that there are {declared:,}.")
    for member in members:
        _check_member(file, member, limits)
    _check_names(file, [member.orig_filename for member in members], limits.depth)
    sizes = sum(member.file_size for member in members)
    if sizes > limits.total_bytes:
        raise BadInput(file, "size", sizes, f"refused: more than {limits.total_bytes:,} bytes when unpacked.")
    packed = sum(member.compress_size for member in members)
    if sizes > limits.free_bytes and sizes > limits.ratio * packed:
        raise BadInput(file, "ratio", sizes // max(1, packed), "refused: it unpacks to far more than a bundle does.")
    ordered = sorted(members, key=lambda member: member.header_offset)
    ends = [member.header_offset for member in ordered[1:]] + [archive.start_dir]
    for member, end in zip(ordered, ends, strict=True):
        if member.header_offset + _LOCAL_HEADER + len(member.orig_filename) + member.compress_size > end:
            raise BadInput(file, member.filename, member.header_offset, "refused: its members overlap.")
    return members


def _check_member(file: Path, member: zipfile.ZipInfo, limits: Limits) -> None:
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BadInput(file, name, stat.filemode(member.external_attr >> 16), "refused: a link, a device or a folder.")
    if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(file, name, member.compress_type, "refused: encrypted, or not packed with deflate.")
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        raise BadInput(file, name, member.file_size, "refused: a stored file has two sizes.")
    if member.file_size > limits.member_bytes:
        raise BadInput(file, name, member.file_size, f"refused: more than {limits.member_bytes:,} bytes in one file.")
    if member.file_size > limits.free_bytes and member.file_size > limits.ratio * member.compress_size:
        raise BadInput(file, name, member.file_size, "refused: it unpacks to far more than its compressed size.")


def _check_names(file: Path, names: list[str], depth: int = LIMITS.depth) -> None:
    """Names that every file system keeps apart and that stay inside their folder."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        if not all(_NAME.fullmatch(part) and not _RESERVED.fullmatch(part) for part in parts) or len(parts) > depth + 1:
            hint = "only relative names of letters, digits and _.@+=,- may go in or come out."
            raise BadInput(file, "member", name, hint)
        if max(map(len, parts)) > 200 or len(name) > 800:
            raise BadInput(file, "member", f"{name[:80]}...", "shorten the name.")
        if name.lower().endswith(ARCHIVES + PICKLES):
            raise BadInput(file, "member", name, "no archives and no pickles may go in or come out.")
        if name.casefold() in seen:
            hint = f"{seen[name.casefold()]} has the same name; rename one of them."
            raise BadInput(file, "member", name, hint)
        seen[name.casefold()] = name
        for folder in ("/".join(parts[:i]) for i in range(1, len(parts))):
            if folders.setdefault(folder.casefold(), folder) != folder:
                hint = f"its folder is {folders[folder.casefold()]} in other members; spell it the same way."
                raise BadInput(file, "member", name, hint)
    for key in sorted(set(folders) & set(seen)):
        raise BadInput(file, "member", seen[key], "it is a file and a folder at once.")
