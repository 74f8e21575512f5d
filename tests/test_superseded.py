"""Results move aside and back as a whole, whenever the process that moves them is killed."""

from pathlib import Path

import pytest

from groupppo.superseded import FOLDER, Superseded

RECORDS = {"status.json": {"params": ["1"]}}


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


def texts(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_moves_with_all_that_is_in_it_but_for_what_another_attempt_needs(folder: Path) -> None:
    before = texts(folder)
    run = run_in(folder)
    run.set_aside(RECORDS)
    assert run.kept
    assert run.records() == RECORDS
    assert [path.name for path in folder.iterdir()] == [FOLDER]
    stays = {f"{name}/file": "new" for name in ("global_step_20", "failed")}
    (folder / "critic").mkdir()
    for name in ("log.txt", "critic/model", *stays):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("new")
    run.put_back()
    assert texts(folder) == before | stays


def test_a_move_that_was_interrupted_is_completed_by_the_next_and_undoes_nothing(folder: Path) -> None:
    before = texts(folder)
    run = run_in(folder)
    run.set_aside(RECORDS)
    (folder / FOLDER / "checkpoint").rename(folder / "checkpoint")
    assert not run.kept
    run.set_aside({})
    assert run.kept
    assert run.records() == RECORDS
    run.put_back()
    assert texts(folder) == before


def test_one_generation_is_kept_and_half_of_another_does_not_replace_it(folder: Path) -> None:
    run = run_in(folder)
    run.set_aside(RECORDS)
    (folder / "status.json").write_text("half")
    run.set_aside({})
    assert (folder / FOLDER / "status.json").read_text() == "old"
    (folder / "checkpoint").mkdir()
    run.set_aside({})
    assert texts(folder / FOLDER) == {"status.json": "half", "status.json.record": "{}"}
    run.drop()
    assert list(folder.iterdir()) == []


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
    assert (tmp_path / "disk" / "seed1" / FOLDER / "status.json").is_file()
