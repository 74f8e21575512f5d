"""The page's section on the study of the streamed update: its figures and tables, beside or without the other study."""

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
from groupppo.studies.figures import STREAM_PLANS, write_study_figures
from groupppo.studies.stream_tables import STREAM_COLUMNS
from groupppo.studies.tables import FIGURES, write_table
from tests.report.test_page_study import ATTACK, made  # noqa: F401 - a fixture
from tests.studies.made_streams import made_stream_tables
from tests.synthetic import rewrite_json

COUNTS = {"responses": 1234, "tokens": 56789, "mean_reward": 0.6}
RECORD = {"settings": {"batches": 6}, "counts": {"start": COUNTS | {"mean_reward": 0.4}, "trained": COUNTS}}


@pytest.fixture(scope="module")
def streamed(made: tuple[Path, Benchmark], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Benchmark]:  # noqa: F811
    """Results with both studies, of which the benchmark asks for this one."""
    results = tmp_path_factory.mktemp("streamed")
    shutil.copytree(made[0], results, dirs_exist_ok=True)
    folder = results / "studies" / "streams" / "sorting.tiny"
    folder.mkdir(parents=True)
    tables = made_stream_tables()
    for name, rows in tables.items():
        write_table(folder, name, rows)
    write_study_figures(tables, folder / FIGURES, STREAM_PLANS)
    (folder / "study.json").write_text(json.dumps(RECORD), encoding="utf-8")
    return results, replace(made[1], studies=("streams",))


def page(results: Path, benchmark: Benchmark) -> str:
    return write_report(results, benchmark).read_text(encoding="utf-8")


def section(text: str) -> str:
    return html.unescape(re.search(r'<section id="streams">(.*?)</section>', text, re.DOTALL).group(1))


def test_each_study_has_its_section_where_the_benchmark_asks_for_it(streamed: tuple[Path, Benchmark]) -> None:
    results, benchmark = streamed
    for studies in ((), ("grouping",), ("streams",), ("grouping", "streams")):
        text = page(results, replace(benchmark, studies=studies))
        for name, anchor in (("grouping", "study"), ("streams", "streams")):
            assert (f'<section id="{anchor}">' in text) == (name in studies)
            assert (f'<a href="#{anchor}">' in text) == (name in studies)


def test_it_says_what_it_ran_on_and_shows_every_figure_and_file(streamed: tuple[Path, Benchmark]) -> None:
    results, benchmark = streamed
    told = section(page(results, benchmark))
    assert "Rollouts of PPO (dense), seed 4, in 6 batches for each checkpoint. start: 1,234 responses" in told
    assert "mean reward 0.400; trained: 1,234 responses (56,789 tokens), mean reward 0.600." in told
    for plan in STREAM_PLANS:
        assert f'id="figure-streams-sorting-tiny-{plan.id}"' in told
        assert plan.caption(made_stream_tables()) in told
    links = set(re.findall(r'href="([^"#:]+)"', told))
    assert {f"studies/streams/sorting.tiny/{name}.csv" for name in STREAM_COLUMNS} <= links
    for link in links:
        assert (results / link).is_file(), link


def test_both_tables_show_the_points_and_which_is_best(streamed: tuple[Path, Benchmark]) -> None:
    rows = {
        re.sub(r"<.*?>", " ", row[0]).strip(): [
            re.sub(r"<.*?>", " ", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row[1])
        ]
        for row in re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", section(page(*streamed)))
    }
    assert rows["endpoints alone"] == ["8.00x", "0.500 [0.450, 0.550]", "0.600 [0.400, 0.800]"] * 2
    assert rows["share of 25.0 %"][0] == "3.00x off the front"
    assert rows["gathered (exact)"][2] == "1.000"
    assert rows["100.0 %"] == ["4.000 endpoints alone; exact 2.000"] * 4
    assert rows["50.0 %"] == ["1.333 gathered (exact); exact 1.333"] * 4


def test_text_from_files_cannot_become_markup(streamed: tuple[Path, Benchmark], tmp_path: Path) -> None:
    results, benchmark = streamed
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "studies/streams/sorting.tiny"
    for name in ("stream_costs", "stream_progress"):
        rows = made_stream_tables()[name]
        write_table(folder, name, rows.assign(title=ATTACK, checkpoint=rows["checkpoint"] + ATTACK))
    rewrite_json(folder / "study.json", counts={ATTACK: COUNTS})
    text = page(tmp_path, benchmark)
    assert ATTACK not in text
    assert text.count(html.escape(ATTACK)) > 4


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps(RECORD | {"counts": {}})])
def test_a_record_of_another_form_is_named(streamed: tuple[Path, Benchmark], tmp_path: Path, content: str) -> None:
    results, benchmark = streamed
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    (tmp_path / "studies/streams/sorting.tiny/study.json").write_text(content)
    with pytest.raises(BadInput, match=r"study.json(.|\n)*run the study again"):
        page(tmp_path, benchmark)
