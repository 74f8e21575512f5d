"""Results move aside and back as a whole, whenever the process that moves them is killed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groupppo.records.superseded import FOLDER, NOTE, Superseded

OUTPUTS = ("status.json", "checkpoint")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "seed1"
    (run / "checkpoint").mkdir(parents=True)
    (run / "checkpoint" / "model").write_text("old")
    for name in ("status.json", "log.txt"):
        (run / name).write_text("old")
    return run


def run_in(folder: Path) -> Superseded:
    return Superseded([folder / "status.json", folder / "checkpoint"], own_folder=True)


def records(folder: Path, made_from: str = "1") -> dict[str, Any]:
    return {str(folder / name): {"params": [made_from]} for name in OUTPUTS}


def texts(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_moves_with_all_that_is_in_it_but_for_what_another_attempt_needs(folder: Path) -> None:
    before = texts(folder)
    run = run_in(folder)
    run.set_aside(records(folder))
    assert run.kept
    assert run.records() == records(folder)
    assert [path.name for path in folder.iterdir()] == [FOLDER]
    stays = {f"{name}/file": "new" for name in ("global_step_20", "damaged_global_step_10", "failed")}
    (folder / "critic").mkdir()
    for name in ("log.txt", "critic/model", *stays):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("new")
    run.put_back()
    assert texts(folder) == before | stays


def test_a_folder_that_another_job_takes_away_meanwhile_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, taken = Path.mkdir, list[Path]()

    def mkdir(path: Path, *arguments: Any, **named: Any) -> None:
        make(path, *arguments, **named)
        if path.name == FOLDER and not taken:
            taken.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    run_in(folder).set_aside(records(folder))
    assert taken
    assert run_in(folder).kept


class Killed(BaseException):
    pass


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], bool]:
    """Call something whose k-th change of the disk never comes; whether it had that many."""
    left = -1

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **others: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return change(*arguments, **others)

        return call

    for home, name in ((Path, "rename"), (Path, "unlink"), (Path, "mkdir"), (Path, "rmdir"), (os, "fsync")):
        monkeypatch.setattr(home, name, counted(getattr(home, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))

    def run(k: int, change: Callable[[], object]) -> bool:
        nonlocal left
        left = k
        try:
            change()
        except Killed:
            return True
        finally:
            left = -1
        return False

    return run


def in_place_or_kept(folder: Path) -> dict[str, str]:
    """All of one generation, wherever it is."""
    run = run_in(folder)
    run.settle()
    if run.kept:
        assert run.records() == records(folder)
        run.put_back()
    return {name: text for name, text in texts(folder).items() if not name.startswith(FOLDER)}


WAYS: dict[str, Callable[[Superseded], object]] = {
    "aside": lambda run: run.set_aside(records(run.place)),
    "back": lambda run: (run.set_aside(records(run.place)), run.put_back()),
    "back over another's": lambda run: (
        run.set_aside(records(run.place)),
        (run.place / "log.txt").write_text("half of a successor"),
        run.put_back(),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_is_killed_at_any_point_loses_nothing_that_was_finished(
    tmp_path: Path, folder: Path, killed_at: Callable, way: str
) -> None:
    before = texts(folder)
    for k in range(60):
        copy = Path(shutil.copytree(folder, tmp_path / str(k)))
        if not killed_at(k, lambda copy=copy: WAYS[way](run_in(copy))):
            break
        found = in_place_or_kept(copy)
        assert {name: text for name, text in found.items() if text == "old"} == before, k
    assert 5 <= k < 59


def test_of_two_generations_whoever_is_killed_while_one_replaces_the_other_keeps_one_whole(
    tmp_path: Path, folder: Path, killed_at: Callable
) -> None:
    run_in(folder).set_aside(records(folder))
    (folder / "checkpoint").mkdir()
    for name in ("status.json", "log.txt", "checkpoint/model"):
        (folder / name).write_text("new")
    for k in range(60):
        copy = Path(shutil.copytree(folder, tmp_path / str(k)))
        if not killed_at(k, lambda copy=copy: run_in(copy).set_aside(records(copy, "2"))):
            break
        run = run_in(copy)
        run.settle()
        assert run.there or run.records() == records(copy, "2")
        new = copy if run.there else run.generation
        assert [(new / name).read_text() for name in ("status.json", "log.txt")] == ["new", "new"]
    assert 5 <= k < 59


def test_what_cannot_be_removed_is_out_of_the_way_and_the_new_results_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(folder)
    run.set_aside(records(folder))
    (folder / "status.json").write_text("new")
    monkeypatch.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError("busy")))
    run.drop()
    assert not run.kept
    assert (folder / "status.json").read_text() == "new"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"other": {}}'])
def test_results_of_which_nobody_knows_what_they_are_are_no_error_and_stay(folder: Path, damage: str) -> None:
    run = run_in(folder)
    run.set_aside(records(folder))
    (run.generation / NOTE).write_text(damage)
    assert run.kept
    assert run.records() is None
    assert (run.generation / "status.json").read_text() == "old"


def test_jobs_that_share_a_folder_keep_theirs_apart(tmp_path: Path) -> None:
    tiny, small = (Superseded([tmp_path / name], own_folder=False) for name in ("tiny", "small"))
    for name in ("tiny", "small", "other"):
        (tmp_path / name).mkdir()
    tiny.set_aside({})
    small.set_aside({})
    tiny.drop()
    assert small.kept
    small.put_back()
    assert {path.name for path in tmp_path.iterdir()} == {"small", "other"}


def test_results_on_another_disk_stay_on_it(tmp_path: Path) -> None:
    (tmp_path / "disk" / "seed1").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    status = tmp_path / "runs" / "seed1" / "status.json"
    status.write_text("old")
    Superseded([status], own_folder=True).set_aside({})
    assert (tmp_path / "disk" / "seed1" / FOLDER / "status.json" / "status.json").is_file()
