"""Hostile archives are refused, whatever their headers say; our own always pass."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.publish import archive as limits
from groupppo.publish.archive import extract, write_archive

name_parts = st.text("abcXYZ019_.-", min_size=1, max_size=8).filter(lambda part: part[0] not in ".-")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"MEMBERS": 10, "LIST_BYTES": 1 << 11, "TOTAL_BYTES": 1 << 17, "RATIO": 50, "FREE_BYTES": 1 << 10}
    for name, limit in small.items():
        monkeypatch.setattr(limits, name, limit)


def files(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    """Files with these contents, by the names that they are to have in an archive."""
    written = {name: folder / f"file{number}" for number, name in enumerate(contents)}
    for name, file in written.items():
        file.write_bytes(contents[name])
    return written


def archive(file: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return file


def refused(file: Path) -> BadInput:
    folder = file.parent / "out"
    folder.mkdir()
    with pytest.raises(BadInput) as caught:
        extract(file, folder)
    assert not any(folder.rglob("*.txt")), "something was written before the archive was refused"
    return caught.value


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    return info


@given(st.dictionaries(name_parts, st.binary(max_size=200), min_size=1, max_size=8))
@settings(max_examples=30)
def test_what_is_written_comes_out_again_and_the_bytes_do_not_depend_on_order(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("archive")
    data = {f"a/{name}": data for name, data in contents.items()}
    members = files(folder, data)
    write_archive(folder / "one.zip", members)
    write_archive(folder / "two.zip", dict(reversed(members.items())))
    assert (folder / "one.zip").read_bytes() == (folder / "two.zip").read_bytes()
    (folder / "out").mkdir()
    assert extract(folder / "one.zip", folder / "out") == sorted(members)
    assert all((folder / "out" / name).read_bytes() == data[name] for name in members)


def test_a_plain_archive_passes_the_limits_that_the_hostile_ones_do_not(tmp_path):
    (tmp_path / "out").mkdir()
    file = archive(tmp_path / "good.zip", [("a/b.txt", b"hello"), ("c.txt", b"x" * 500)])
    assert extract(file, tmp_path / "out") == ["a/b.txt", "c.txt"]


NAMES = ["../out.txt", "a/../../out.txt", "/etc/out.txt", "C:/out.txt", "a\\..\\out.txt", "a//out.txt", "./out.txt"]
NAMES += [".hidden.txt", "a/b\nc.txt", "ünicode.txt", "-rf.txt", "x" * 300 + ".txt", "a/" * 500 + "b.txt", "folder/"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_bundle_has_is_refused(tmp_path, name):
    assert refused(archive(tmp_path / "bad.zip", [("good.txt", b"x"), (name, b"x")])).key == "member"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_devices_and_pipes_are_refused(tmp_path, kind):
    error = refused(archive(tmp_path / "bad.zip", [("good.txt", b"x"), (special("link.txt", kind), b"/etc/passwd")]))
    assert (error.key, error.hint.startswith("refused: a link")) == ("link.txt", True)


@pytest.mark.parametrize("second", ["c/a.txt", "c/a.txt/b.txt", "c"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_place_are_refused_and_the_first_is_not_replaced(tmp_path, second):
    file, out = archive(tmp_path / "bad.zip", [("c/a.txt", b"1"), (second, b"2")]), tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInput, match="another member has this place"):
        extract(file, out)
    assert [path.read_bytes() for path in out.rglob("*") if path.is_file()] == [b"1"]


@pytest.mark.parametrize(
    ("members", "key"),
    [
        ([("zeros.txt", bytes(60_000))], "size"),
        ([("big.txt", bytes(range(256)) * (1 << 10))], "size"),
        ([(f"{i}.txt", bytes(range(256)) * 200) for i in range(4)], "size"),
        ([(f"{i}.txt", b"x") for i in range(11)], "members"),
        ([(f"{'x' * 190}{i}.txt", b"x") for i in range(10)], "members"),
    ],
)
def test_bombs_are_refused_by_what_they_declare(tmp_path, members, key):
    assert refused(archive(tmp_path / "bomb.zip", members)).key == key


def test_a_bomb_that_declares_a_small_size_gives_no_more_than_it_declares(tmp_path):
    file = archive(tmp_path / "liar.zip", [("a.txt", bytes(1 << 20))])
    data = bytearray(file.read_bytes())
    for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = struct.pack("<L", 100)
    file.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="damaged"):
        extract(file, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 100


def test_members_that_overlap_count_as_often_as_they_come_out(tmp_path, monkeypatch):
    """A bomb whose members are all one: what they declare is held against the bytes of the archive."""
    file = archive(tmp_path / "overlap.zip", [(f"{i}.txt", bytes(range(256)) * 20) for i in range(10)])
    data = bytearray(file.read_bytes())
    first, start = data.index(b"PK\x03\x04", 4), data.index(b"PK\x01\x02")
    members = bytes(data[start:-22])
    for at in [place for place in range(len(members)) if members.startswith(b"PK\x01\x02", place)]:
        data[start + at + 42 : start + at + 46] = struct.pack("<L", 0)
    less = first * 8
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, len(members), start - less, 0)
    file.write_bytes(data[: start - less] + data[start:-22] + end)
    monkeypatch.setattr(limits, "RATIO", 10)
    assert refused(file).key == "size"


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=3))
@settings(max_examples=200)
def test_whatever_is_done_to_the_bytes_what_comes_out_is_what_went_in_or_nothing(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("damaged")
    members = {"a/b.txt": b"hello " * 9, "c.csv": bytes(range(256)), "d.png": b"xyz" * 30}
    write_archive(folder / "one.zip", files(folder, members))
    data = bytearray((folder / "one.zip").read_bytes())
    for at, new, gone in changes:
        at %= len(data)
        data[at : at + gone] = new
    (folder / "one.zip").write_bytes(data)
    (folder / "out").mkdir()
    try:
        names = extract(folder / "one.zip", folder / "out")
    except BadInput:
        return
    assert {name: (folder / "out" / name).read_bytes() for name in names} == members


@pytest.mark.parametrize("limit", ["ZIP_FILECOUNT_LIMIT", "ZIP64_LIMIT"])
def test_the_long_form_of_the_end_is_read_and_held_to_the_same_bounds(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(f"zipfile.{limit}", 3)  # of members, or of bytes before their list
    contents = {f"{i}.txt": b"x" for i in range(6)}
    write_archive(tmp_path / "long.zip", files(tmp_path, contents))
    data = bytearray((tmp_path / "long.zip").read_bytes())
    assert data[-42:-38] == b"PK\x06\x07"
    (tmp_path / "whole").mkdir()
    assert extract(tmp_path / "long.zip", tmp_path / "whole") == sorted(contents)
    for at in (-74, -66):
        data[at : at + 8] = struct.pack("<Q", 5)
    for at in (-14, -12):
        data[at : at + 2] = struct.pack("<H", 5)
    (tmp_path / "long.zip").write_bytes(data)
    assert "its end says that there are 5" in refused(tmp_path / "long.zip").hint


def archive_with_end(before: bytes = b"", after: bytes = b"", count: int = 2, offset: int = 0, disk: int = 0) -> bytes:
    """An archive of two files whose end says something else than `zipfile` writes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "1")
        archive.writestr("b.txt", "2")
    body, (size, start) = stream.getvalue()[:-22], struct.unpack("<2L", stream.getvalue()[-10:-2])
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", disk, 0, count, count, size, start + offset, 0)
    return before + body + end + after


@pytest.mark.parametrize(
    "forged",
    [{"before": b"MZ\x90"}, {"after": b"trailing"}, {"count": 1}, {"count": 3}, {"offset": 5}, {"disk": 1}],
)
def test_an_end_by_which_another_reader_may_see_other_members_is_refused(tmp_path, forged):
    file = tmp_path / "x.zip"
    file.write_bytes(archive_with_end())
    (tmp_path / "whole").mkdir()
    assert extract(file, tmp_path / "whole") == ["a.txt", "b.txt"]
    file.write_bytes(archive_with_end(**forged))
    assert refused(file).key in ("file", "members")


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip archive at all, but long enough to be read as one"])
def test_what_is_no_zip_is_refused(tmp_path, data):
    (tmp_path / "no.zip").write_bytes(data)
    assert "not a zip" in refused(tmp_path / "no.zip").hint
