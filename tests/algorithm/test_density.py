"""The density of another run, step by step."""

import json
from pathlib import Path

import pytest

from groupppo.algorithm import DensitySchedule
from groupppo.errors import BadInput

GOOD = '{"step": 1, "group/density": 0.25, "reward": 3}'


def write(folder: Path, *lines: str) -> Path:
    path = folder / "steps.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_schedule_gives_each_step_its_density(tmp_path: Path) -> None:
    rows = [{"step": step, "group/density": density} for step, density in ((1, 0.25), (2, 1.0), (3, 0.01))]
    schedule = DensitySchedule.load(str(write(tmp_path, *map(json.dumps, rows))))
    assert [schedule.at(step) for step in (1, 2, 3)] == [0.25, 1.0, 0.01]


def test_a_file_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(BadInput, match="run the arm that this density is taken from first") as error:
            DensitySchedule.load(path)
        assert (error.value.file, error.value.key) == (str(path), "density_source")


@pytest.mark.parametrize(
    "row",
    [
        '{"step": 2, "group/density": 0.5',
        "",
        "null",
        "[2, 0.5]",
        '{"step": 2}',
        '{"group/density": 0.5}',
        '{"step": 2, "group/density": null}',
        '{"step": 2, "group/density": "a half"}',
        '{"step": "second", "group/density": 0.5}',
        '{"step": Infinity, "group/density": 0.5}',
        '{"step": 2, "group/density": 0.0}',
        '{"step": 2, "group/density": -0.5}',
        '{"step": 2, "group/density": 1.01}',
        '{"step": 2, "group/density": NaN}',
    ],
)
def test_a_bad_row_is_an_error_that_names_file_line_and_value(tmp_path: Path, row: str) -> None:
    path = write(tmp_path, GOOD, row)
    with pytest.raises(BadInput, match="hint: ") as error:
        DensitySchedule.load(path)
    assert (error.value.file, error.value.key, error.value.value) == (str(path), "line 2", row)
    assert DensitySchedule.load(write(tmp_path, GOOD)).at(1) == 0.25


def test_a_file_that_is_not_text_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"\x80\x81\n")
    with pytest.raises(BadInput) as error:
        DensitySchedule.load(path)
    assert (error.value.file, error.value.key) == (str(path), "line 1")


@pytest.mark.parametrize("rows", [(GOOD,), ()])
def test_a_step_that_the_run_does_not_have_is_an_error_that_names_it(tmp_path: Path, rows: tuple[str, ...]) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(BadInput, match="at least as many steps") as error:
        DensitySchedule.load(path).at(2)
    assert (error.value.file, error.value.key) == (str(path), "step 2 group/density")
