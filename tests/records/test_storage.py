"""What is counted for resuming is counted where a run does make checkpoints to be resumed from; files are whole."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.errors import BadInput
from groupppo.records.storage import no_room, room_for, write_whole
from groupppo.verl.compose import saves_between
from tests.disks import fill, remount, small_disk

TRAIN = load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml").train


@given(every=st.integers(0, 60), steps=st.integers(1, 60), critic=st.booleans())
def test_disk_is_planned_for_checkpoints_exactly_where_a_run_makes_them(every: int, steps: int, critic: bool) -> None:
    train = replace(TRAIN, checkpoint_every=every, steps=steps)
    assert (train.resumable_copies(critic) > 0) == saves_between(train)


def test_both_kinds_of_run_are_among_them() -> None:
    some, none = (replace(TRAIN, checkpoint_every=every, steps=20) for every in (10, 20))
    assert none.resumable_copies(critic=True) == 0
    assert some.resumable_copies(critic=False) == 2 * (3 + 1)
    assert replace(some, save_critic=False).resumable_copies(critic=True) == 2 * (3 + 1 + 3)
    assert replace(some, save_critic=True).resumable_copies(critic=True) == 2 * (3 + 1 + 3 + 1)


def test_a_file_on_a_full_disk_or_one_for_reading_is_as_it_was_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "1m") as disk:
        file = disk / "status.json"
        write_whole(file, "before")
        filler = fill(disk)
        with pytest.raises(BadInput, match="No space left on device: make room there, then the same command") as error:
            write_whole(file, "x" * 9000)
        assert (error.value.file, error.value.key) == (str(file), "free disk (GB)")
        assert error.value.value < 0.001
        assert file.read_text() == "before"
        assert sorted(disk.iterdir()) == [filler, file]
        filler.unlink()
        remount(disk, "ro")
        with pytest.raises(BadInput, match="Read-only file system: mount it for writing"):
            write_whole(file, "after")
        remount(disk, "rw")
        write_whole(file, "after")
        assert file.read_text() == "after"
        assert list(disk.iterdir()) == [file]


def test_another_error_stays_what_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "absent" / "file", "text")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "file", "\ud800")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="quota"), room_for(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize(
    ("said", "file"),
    [
        ("exit code 1; OSError: [Errno 28] No space left on device: '/dev/shm/vllm'", "/dev/shm/vllm"),
        ("Error: [('/a', '/disk/a', \"[Errno 28] No space left on device: '/a' -> '/disk/a'\")]", "/disk/a"),
        ("RuntimeError: SafetensorError: I/O error: No space left on device (os error 28)", "HERE"),
        ("ValueError: no such key", None),
        ("OSError: [Errno 13] Permission denied: '/x'", None),
    ],
)
def test_what_a_library_or_a_log_says_of_a_full_disk_is_understood(tmp_path: Path, said: str, file: str | None) -> None:
    found = no_room(tmp_path / "run" / "status.json", said)
    here = str(tmp_path / "run" / "status.json")
    assert (found and found.file) == (here if file == "HERE" else file)


def test_a_disk_without_a_byte_is_named_where_the_error_names_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "2m") as disk:
        assert no_room(disk, "RuntimeError: file write failed") is None
        fill(disk)
        assert no_room(disk, "RuntimeError: file write failed") is not None
