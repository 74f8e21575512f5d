"""The page's section on the study of faults: what held after each fault, and why where it did not."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.report.page import write_report
from groupppo.studies.tables import write_table
from tests.report.test_page_study import ATTACK, made  # noqa: F401 - a fixture
from tests.studies.made_faults import made_faults

RECORD = {"settings": {"steps": 3, "seed": 1}}
PLACE = "studies/faults/sorting.tiny"


@pytest.fixture(scope="module")
def broken(made: tuple[Path, Benchmark], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Benchmark]:  # noqa: F811
    """Results whose study lost one run, the last one's."""
    results = tmp_path_factory.mktemp("faults")
    shutil.copytree(made[0], results, dirs_exist_ok=True)
    (results / PLACE).mkdir(parents=True)
    write_table(results / PLACE, "faults", made_faults(lost=1))
    (results / PLACE / "study.json").write_text(json.dumps(RECORD), encoding="utf-8")
    return results, replace(made[1], studies=("faults",))


def page(results: Path, benchmark: Benchmark) -> str:
    return write_report(results, benchmark).read_text(encoding="utf-8")


def section(text: str) -> str:
    return html.unescape(re.search(r'<section id="faults">(.*?)</section>', text, re.DOTALL).group(1))


def test_the_section_is_there_where_the_benchmark_asks_for_it(broken: tuple[Path, Benchmark]) -> None:
    results, benchmark = broken
    for studies in ((), ("faults",)):
        text = page(results, replace(benchmark, studies=studies))
        assert ('<section id="faults">' in text) == bool(studies)
        assert ('<a href="#faults">' in text) == bool(studies)


def test_it_counts_what_went_on_and_shows_every_point_of_every_arm(broken: tuple[Path, Benchmark]) -> None:
    told, table = section(page(*broken)), made_faults(lost=1)
    points = len(table) - table["arm"].nunique()
    assert f"One run of 3 steps for each of {points} injection points, seed 1" in told
    assert f"{points - 1} went on exactly as it does, 1 ended with the error" in told
    for title in table["title"].unique():
        assert title in told
    for place in table["place"]:
        assert told.count(place) >= sum(table["place"] == place)
    assert f'href="{PLACE}/faults.csv"' in told


def test_a_point_that_was_survived_reads_yes_and_one_that_was_not_says_why(broken: tuple[Path, Benchmark]) -> None:
    text = re.sub(r"<[^>]*>", " ", section(page(*broken)))
    lines = re.sub(r"\s+", " ", text)
    assert "The rule yes yes yes yes yes yes" in lines
    ended = "no no after 0 steps: exit code 1; InjectedError: made up no 0 fallbacks no no such update"
    assert f"Metrics after the step {ended}" in lines
    assert "No fault (control) no yes no 0 fallbacks no 0.250 apart no 0.500 apart" in lines
    assert "threshold moved, other responses" in lines


def test_text_from_files_cannot_become_markup(broken: tuple[Path, Benchmark], tmp_path: Path) -> None:
    results, benchmark = broken
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    table = made_faults(lost=1)
    write_table(tmp_path / PLACE, "faults", table.assign(cause=ATTACK, title=ATTACK, place=ATTACK, update=ATTACK))
    text = page(tmp_path, benchmark)
    assert ATTACK not in text
    assert text.count(html.escape(ATTACK)) > 4


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"settings": 3})])
def test_a_record_of_another_form_is_named(broken: tuple[Path, Benchmark], tmp_path: Path, content: str) -> None:
    results, benchmark = broken
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    (tmp_path / PLACE / "study.json").write_text(content)
    with pytest.raises(BadInput, match=r"study.json(.|\n)*run the study again"):
        page(tmp_path, benchmark)
