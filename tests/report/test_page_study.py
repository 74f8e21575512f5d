"""The page's section on a study: there when the benchmark asks for it, in numbers, and nothing in it runs."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING
from groupppo.errors import BadInput
from groupppo.report.figures import draw_figures
from groupppo.report.page import write_report
from groupppo.studies.figures import PLANS, write_study_figures
from groupppo.studies.tables import COLUMNS, FIGURES, write_table
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.studies.made import made_tables
from tests.synthetic import rewrite_json, write_results

ATTACK = "<script>alert(1)</script>"
RECORD = {
    "settings": {"batches": 6},
    "counts": {"responses": 1234, "tokens": 56789, "mean_reward": 0.6},
    "arms_left_out": {"ppo": "has no grouping rule", "group_ppo_odd": "sets a key, which the study does not follow"},
}


def write_study(results: Path, task: str, model: str) -> Path:
    folder = results / "studies" / "grouping" / f"{task}.{model}"
    folder.mkdir(parents=True)
    tables = made_tables()
    for name, rows in tables.items():
        write_table(folder, name, rows)
    write_study_figures(tables, folder / FIGURES)
    (folder / "study.json").write_text(json.dumps(RECORD), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Benchmark]:
    results = tmp_path_factory.mktemp("results")
    benchmark = write_results(results, seeds=(4, 5), steps=6)
    collect(results, benchmark)
    tables = load_tables(results / "tables")
    judged = decide(load_claims(benchmark.claims), tables, benchmark)
    (results / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    draw_figures(tables, benchmark, results / "figures", judged)
    write_study(results, "sorting", "tiny")
    return results, replace(benchmark, studies=("grouping",))


def page(results: Path, benchmark: Benchmark) -> str:
    return write_report(results, benchmark).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(made: tuple[Path, Benchmark]) -> str:
    return page(*made)


def section(text: str) -> str:
    return html.unescape(re.search(r'<section id="study">(.*?)</section>', text, re.DOTALL).group(1))


def test_the_section_follows_the_figures_and_the_menu_leads_to_it(text: str) -> None:
    assert text.startswith("<!DOCTYPE html>")
    places = [text.index(f'<section id="{name}">') for name in ("figures", "study", "matrix")]
    assert places == sorted(places)
    assert '<a href="#study">' in text
    assert text.count("<img ") == 9 + len(PLANS)


def test_a_benchmark_without_the_study_has_no_such_section(made: tuple[Path, Benchmark]) -> None:
    results, benchmark = made
    without = page(results, replace(benchmark, studies=()))
    assert '<section id="study">' not in without
    assert '<a href="#study">' not in without
    assert without.count("<img ") == 9


def test_it_says_what_it_ran_on_and_what_it_left_out(text: str) -> None:
    told = section(text)
    assert "Rollouts of PPO (dense), seed 4, after training: 1,234 responses (56,789 tokens) in 6 batches" in told
    assert "group_ppo_odd (sets a key, which the study does not follow)" in told
    assert "ppo (has no grouping rule)" not in told


def test_every_figure_has_its_caption_and_files_that_are_there(made: tuple[Path, Benchmark], text: str) -> None:
    told = section(text)
    for plan in PLANS:
        assert f'id="figure-grouping-sorting-tiny-{plan.id}"' in told
        assert plan.caption(made_tables()) in told
    links = set(re.findall(r'href="([^"#:]+)"', told))
    folder = "studies/grouping/sorting.tiny"
    assert {f"{folder}/figures/{plan.id}.svg" for plan in PLANS} <= links
    assert {f"{folder}/{name}.csv" for name in COLUMNS} | {f"{folder}/study.json"} <= links
    for link in links:
        assert (made[0] / link).is_file(), link


def test_both_tables_show_values_with_their_intervals(text: str) -> None:
    rows = {
        re.sub(r"<.*?>", " ", row[0]).strip(): [
            re.sub(r"<.*?>", " ", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row[1])
        ]
        for row in re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", section(text))
    }
    assert rows["unit"][:2] == ["0.600 [0.580, 0.620]"] * 2
    assert rows["unit"][4:] == ["0.400", "0.700", "0.500", "25.0 %"]
    assert rows["Random"][1] == "0.900 [0.850, 0.950]"
    assert "Twin gradients of Sequence" in rows
    assert rows["PPO, another batch"] == ["100.0 %", "0.100 [-0.050, 0.250]", "0.400", *[MISSING] * 3]


def test_each_task_and_model_that_was_begun_has_a_study_of_its_own(
    made: tuple[Path, Benchmark], tmp_path: Path
) -> None:
    results, benchmark = made
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    two = replace(benchmark, models=benchmark.models | {"large": replace(benchmark.models["tiny"], title="Large")})
    assert "Selection sort, Large</h3>" not in page(tmp_path, two)  # none of its runs is there
    (tmp_path / "runs" / "sorting" / "large" / "ppo" / "seed1").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"sorting.large/study.json(.|\n)*snakemake studies"):
        page(tmp_path, two)
    write_study(tmp_path, "sorting", "large")
    text = page(tmp_path, two)
    ids = re.findall(r'<figure id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) == 9 + 2 * len(PLANS)
    assert "<h3>Selection sort, Large</h3>" in text


def test_text_from_files_cannot_become_markup(made: tuple[Path, Benchmark], tmp_path: Path) -> None:
    results, benchmark = made
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "studies/grouping/sorting.tiny"
    summary = made_tables()["direction_summary"]
    write_table(folder, "direction_summary", summary.assign(title=ATTACK))
    rewrite_json(folder / "study.json", arms_left_out={ATTACK: ATTACK})
    records = json.loads((folder / FIGURES / "figures.json").read_text())
    records[0] |= {"title": ATTACK, "caption": ATTACK, "alt": f'"><img src=x>{ATTACK}'}
    (folder / FIGURES / "figures.json").write_text(json.dumps(records))
    text = page(tmp_path, benchmark)
    assert ATTACK not in text
    assert text.count(html.escape(ATTACK)) > 6
    assert "<img src=x" not in text


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps(RECORD | {"counts": {}})])
def test_a_record_of_another_form_is_named(made: tuple[Path, Benchmark], content: str) -> None:
    results, benchmark = made
    file = results / "studies/grouping/sorting.tiny/study.json"
    kept = file.read_text()
    try:
        file.write_text(content)
        with pytest.raises(BadInput, match=r"study.json(.|\n)*run the study again"):
            page(results, benchmark)
    finally:
        file.write_text(kept)
    assert page(results, benchmark)
