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
from groupppo.publish.archive import ARCHIVE_MAGIC, ARCHIVES, PICKLES, Limits, extract, write_archive

SMALL = Limits(members=10, member_bytes=1 << 16, total_bytes=1 << 17, ratio=50, free_bytes=1 << 10, list_bytes=1 << 12)
name_parts = st.text("abcXYZ019_.-", min_size=1, max_size=8).filter(
    lambda part: part[0] not in ".-" and part[-1] != "."
)


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


def refused(file: Path, limits: Limits = SMALL) -> BadInput:
    folder = file.parent / "out"
    folder.mkdir()
    with pytest.raises(BadInput) as caught:
        extract(file, folder, limits)
    assert not any(folder.rglob("*.txt")), "something was written before the archive was refused"
    return caught.value


def allowed(name: str) -> bool:
    return not name.lower().endswith((*ARCHIVES, *PICKLES))


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    return info


@given(st.dictionaries(name_parts, st.binary(max_size=200), min_size=1, max_size=8))
@settings(max_examples=30)
def test_what_is_written_comes_out_again_and_the_bytes_do_not_depend_on_order(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("archive")
    unique = {name.casefold(): (name, data) for name, data in contents.items()}
    data = {f"a/{name}": data for name, data in unique.values()}
    members = files(folder, data)
    if any(each.startswith(ARCHIVE_MAGIC) for each in data.values()) or not all(map(allowed, members)):
        with pytest.raises(BadInput):
            write_archive(folder / "one.zip", members)
        return
    write_archive(folder / "one.zip", members)
    write_archive(folder / "two.zip", dict(reversed(members.items())))
    assert (folder / "one.zip").read_bytes() == (folder / "two.zip").read_bytes()
    (folder / "out").mkdir()
    assert extract(folder / "one.zip", folder / "out") == sorted(members)
    assert all((folder / "out" / name).read_bytes() == data[name] for name in members)


def test_a_plain_archive_passes_the_limits_that_the_hostile_ones_do_not(tmp_path):
    (tmp_path / "out").mkdir()
    file = archive(tmp_path / "good.zip", [("a/b.txt", b"hello"), ("c.txt", b"x" * 500)])
    assert extract(file, tmp_path / "out", SMALL) == ["a/b.txt", "c.txt"]


@pytest.mark.parametrize(
    "name",
    [
        "../out.txt",
        "a/../../out.txt",
        "/etc/out.txt",
        "C:/out.txt",
        "a\\..\\out.txt",
        "a//out.txt",
        "./out.txt",
        ".hidden.txt",
        "nul.txt",
        "a./out.txt",
        "out.txt.",
        "a/b\nc.txt",
        "ünicode.txt",
        "-rf.txt",
        "x" * 300 + ".txt",
        "/".join("a" * 20) + ".txt",
        "inner.zip",
        "weights.pkl",
        "model.pt",
    ],
)
def test_a_name_that_no_bundle_has_is_refused(tmp_path, name):
    assert refused(archive(tmp_path / "bad.zip", [("good.txt", b"x"), (name, b"x")])).key == "member"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_devices_and_pipes_are_refused(tmp_path, kind):
    error = refused(archive(tmp_path / "bad.zip", [("good.txt", b"x"), (special("link.txt", kind), b"/etc/passwd")]))
    assert error.key == "link.txt"


@pytest.mark.parametrize("second", ["c/a.txt", "c/A.TXT", "c/a.txt/b.txt", "C/b.txt"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_meet_on_some_file_system_are_refused(tmp_path, second):
    assert refused(archive(tmp_path / "bad.zip", [("c/a.txt", b"1"), (second, b"2")])).key == "member"


@pytest.mark.parametrize(
    ("members", "key"),
    [
        ([("zeros.txt", bytes(60_000))], "zeros.txt"),
        ([("big.txt", bytes(1 << 17))], "big.txt"),
        ([(f"{i}.txt", bytes(range(256)) * 200) for i in range(4)], "size"),
        ([(f"{i}.txt", b"x") for i in range(11)], "members"),
    ],
)
def test_bombs_are_refused_by_what_they_declare(tmp_path, members, key):
    limits = Limits(**(vars(SMALL) | {"ratio": 300.0})) if key == "size" else SMALL
    assert refused(archive(tmp_path / "bomb.zip", members), limits).key == key


def test_a_bomb_that_declares_a_small_size_gives_no_more_than_it_declares(tmp_path):
    file = archive(tmp_path / "liar.zip", [("a.txt", bytes(1 << 20))])
    data = bytearray(file.read_bytes())
    for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = struct.pack("<L", 100)
    file.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match=r"damaged|declares"):
        extract(file, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 100


def test_overlapping_members_are_refused(tmp_path):
    file = archive(tmp_path / "overlap.zip", [("a.txt", b"1" * 50), ("b.txt", b"2" * 50)])
    data = bytearray(file.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = struct.pack("<L", 0)
    file.write_bytes(data)
    assert "overlap" in refused(file).hint


def test_an_archive_with_more_members_than_its_end_declares_is_refused(tmp_path):
    file = archive(tmp_path / "more.zip", [("a.txt", b"1"), ("b.txt", b"2")])
    data = bytearray(file.read_bytes())
    data[-12:-10] = struct.pack("<H", 1)
    file.write_bytes(data)
    assert "its end says that there are 1" in refused(file).hint


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=3))
@settings(max_examples=300)
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


def test_the_long_form_of_the_end_is_read_and_held_to_the_same_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr("zipfile.ZIP_FILECOUNT_LIMIT", 3)
    contents = {f"{i}.txt": b"x" for i in range(6)}
    write_archive(tmp_path / "long.zip", files(tmp_path, contents))
    data = bytearray((tmp_path / "long.zip").read_bytes())
    assert data[-42:-38] == b"PK\x06\x07"
    data[-14:-10] = b"\xff" * 4  # the count in the short form, as it is beyond the true limit
    (tmp_path / "long.zip").write_bytes(data)
    (tmp_path / "whole").mkdir()
    assert extract(tmp_path / "long.zip", tmp_path / "whole") == sorted(contents)
    data[-66:-58] = struct.pack("<Q", 5)
    (tmp_path / "long.zip").write_bytes(data)
    assert "its end says that there are 5" in refused(tmp_path / "long.zip").hint


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip archive at all, but long enough to be read as one"])
def test_what_is_no_zip_is_refused(tmp_path, data):
    (tmp_path / "no.zip").write_bytes(data)
    assert "not a zip" in refused(tmp_path / "no.zip").hint


@pytest.mark.parametrize(("before", "after"), [(b"MZ\x90", b""), (b"", b"trailing")])
def test_an_archive_with_other_data_around_it_is_refused(tmp_path, before, after):
    file = archive(tmp_path / "poly.zip", [("a.txt", b"1")])
    file.write_bytes(before + file.read_bytes() + after)
    assert "other data" in refused(file).hint


def long_end(offset: int = 0, disk: int = 0, disks: int = 1, short: bool = False) -> bytes:
    """An archive of one file whose end is written in the long form, though it need not be."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "a")
    body, end = stream.getvalue()[:-22], stream.getvalue()[-22:]
    size, start = struct.unpack("<2L", end[12:20])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, disk, 0, 1, 1, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body) + offset, disks)
    return (
        body
        + record
        + locator
        + (end if short else struct.pack("<4s4H2LH", end[:4], 0, 0, *[2**16 - 1] * 2, *[2**32 - 1] * 2, 0))
    )


@pytest.mark.parametrize("forged", [{"offset": 5}, {"disk": 1}, {"disks": 2}, {"short": True}])
def test_an_end_by_which_another_reader_may_see_other_members_is_refused(
    tmp_path: Path, forged: dict[str, int]
) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(long_end())
    (tmp_path / "out").mkdir()
    assert extract(file, tmp_path / "out") == ["a.txt"]
    file.write_bytes(long_end(**forged))
    with pytest.raises(BadInput, match="end record is forged"):
        extract(file, tmp_path / "out")


def test_an_archive_under_another_name_is_refused(tmp_path):
    inner = archive(tmp_path / "inner.zip", [("a.txt", b"1")]).read_bytes()
    assert refused(archive(tmp_path / "outer.zip", [("data.csv", inner)])).value == "an archive"


def test_a_flipped_byte_of_a_member_is_found(tmp_path):
    file = archive(tmp_path / "flipped.zip", [("a.csv", bytes(range(200)))])
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    assert "damaged" in refused(file).hint


def test_a_repetitive_file_of_ours_is_stored_so_that_it_is_not_taken_for_a_bomb(tmp_path):
    write_archive(tmp_path / "ours.zip", files(tmp_path, {"zeros.csv": bytes(60_000)}), SMALL)
    (tmp_path / "out").mkdir()
    assert extract(tmp_path / "ours.zip", tmp_path / "out", SMALL) == ["zeros.csv"]
