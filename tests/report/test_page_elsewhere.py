"""What was not measured for the results that show it says so: in the table, the verdict, its row, the head of the page,
the section's first sentence and the picture; and never what was."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from groupppo.config import REPOSITORY, Benchmark
from groupppo.draw.style import figure_style
from groupppo.profile.config import Profile, load_profile, measured_folder
from groupppo.profile.tables import ProfileTables, tables_of, write_tables
from groupppo.publish.reading import difference
from groupppo.records.where import COLUMNS, UNRECORDED, Found, Where, find, where_of
from groupppo.report.figures import draw_figures, verdicts
from groupppo.report.figures.profile import (
    draw_profile,
    memory_data,
    memory_figure,
    speedup_data,
    speedup_figure,
)
from groupppo.report.page import write_report
from groupppo.tables import Tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide, verdicts_text
from groupppo.verdicts.quantities import COSTS
from tests.report.conftest import collected

PLACE = "results/reference/profile/measured"
TOLD = f"from {PLACE} (published), measured 2026-11-22 to 2026-11-23 on AMD EPYC"
Made = tuple[Path, Benchmark, Tables]
FIRST = f"Not measured in this results folder: {TOLD}."


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile(REPOSITORY / "benchmarks" / "profile.yaml")


@pytest.fixture(scope="module")
def published(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, ProfileTables]:
    """The published profile, found where nothing was measured."""
    found = measured_folder(profile, tmp_path_factory.mktemp("results"))
    return found, tables_of(profile, found.path, found)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Results of a benchmark whose profile nobody has put in yet."""
    home = tmp_path_factory.mktemp("collected")
    tables, benchmark = collected(home, seeds=(1, 2, 3), steps=8)
    return home, replace(benchmark, profile=REPOSITORY / "benchmarks" / "profile.yaml"), tables


def judged_with(made: Made, variants: pd.DataFrame) -> dict:
    _, benchmark, tables = made
    return decide(load_claims(benchmark.claims), tables, benchmark, variants)


def page_of(made: Made, out: Path, profile: Profile, found: Found, *, own: bool) -> tuple[str, str]:
    """report.html and report.md of results with the profile in `found`."""
    home, benchmark, tables = made
    shutil.copytree(home, out)
    shutil.copytree(found.path, out / "profile" / "measured")
    costs = write_tables(profile, found.path, out / "profile" / "tables", None if own else found)
    draw_profile(costs, profile, out / "profile" / "figures")
    judged = judged_with(made, costs.variants)
    (out / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    draw_figures(tables, benchmark, out / "figures", judged)
    page = write_report(out, benchmark).read_text(encoding="utf-8")
    return page, (out / "report.md").read_text(encoding="utf-8")


def row_of(page: str, sentence: str, estimate: str) -> str:
    """The row of the table of verdicts with a claim and an estimate."""
    table = page[page.index('id="verdict-table"') : page.index("</table>")]
    [row] = [row for row in table.split("<tr") if sentence in row and f"<td>{estimate}" in row]
    return row


def test_the_place_is_a_value_in_every_row_of_the_table(published: tuple[Found, ProfileTables]) -> None:
    found, tables = published
    assert found == Found(REPOSITORY / PLACE, published=True)
    assert set(tables.variants["measured_in"]) == {PLACE}
    assert tables.variants["published"].all()
    assert where_of(tables.variants).told() == TOLD
    seconds = tables.variants[tables.variants["setting"] == "r1024"]
    assert where_of(seconds).measured == "2026-11-23"


def test_a_machine_s_own_results_come_first_and_are_not_published(tmp_path: Path) -> None:
    def place(home: Path) -> Path | None:
        return home / "x" if (home / "x").exists() else None

    assert find(tmp_path, place) is None
    (tmp_path / "reference" / "x").mkdir(parents=True)
    assert find(tmp_path, place) == Found(tmp_path / "reference" / "x", published=True)
    (tmp_path / "x").mkdir()
    assert find(tmp_path, place) == Found(tmp_path / "x", published=False)


def test_the_place_is_a_value_of_the_verdict_and_there_is_none_for_runs_and_own_measurements(
    made: Made, profile: Profile, published: tuple[Found, ProfileTables]
) -> None:
    judged = judged_with(made, published[1].variants)["verdicts"]
    of_profile = [verdict for verdict in judged if verdict["quantity"] in COSTS]
    assert len(of_profile) > 5
    for verdict in judged:
        if verdict in of_profile:
            where = Where(**verdict["elsewhere"])
            assert (where.folder, where.published, where.machine) == (PLACE, True, "AMD EPYC")
        else:
            assert verdict["elsewhere"] is None
    own = tables_of(profile, published[0].path)
    assert where_of(own.variants).here
    assert all(verdict["elsewhere"] is None for verdict in judged_with(made, own.variants)["verdicts"])


def test_tables_of_before_do_not_become_the_results_own(made: Made, published: tuple[Found, ProfileTables]) -> None:
    before = published[1].variants.drop(columns=list(COLUMNS))
    assert where_of(before) == UNRECORDED
    for verdict in judged_with(made, before)["verdicts"]:
        assert (verdict["elsewhere"] is not None) == (verdict["quantity"] in COSTS)
    with figure_style():
        assert "do not record" in told(speedup_figure(speedup_data(replace(published[1], variants=before))))


def test_the_page_says_it_in_the_row_the_head_the_section_and_the_caption(
    made: Made, profile: Profile, published: tuple[Found, ProfileTables], tmp_path: Path
) -> None:
    page, markdown = page_of(made, tmp_path / "quick", profile, published[0], own=False)
    read_once = row_of(page, "75 % less memory", "0.10x")
    assert "not measured here" in read_once
    assert f"from {PLACE} (published), measured 2026-11-23 on AMD EPYC" in read_once
    assert "a count, the same on every machine" not in read_once
    counted = row_of(page, "16x faster", "18.00x")
    assert "on AMD EPYC; a count, the same on every machine" in counted
    assert "not measured here" not in row_of(page, "93.75 %", "92.0 %")
    answer = re.search(r'<p class="answer">(.*?)</p>', page).group(1)
    assert "verdicts on what was run here" in answer
    assert re.search(r"verdicts on published measurements, not made here: 2 supported", answer)
    section = page[page.index('<section id="profile">') :]
    assert re.search(r"<p>(.*?)</p>", section, re.DOTALL).group(1).startswith(FIRST)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", section, re.DOTALL)
    assert sum("Not measured in this results folder" in caption for caption in captions) == 2
    marked = page.count('<span class="under"><span class="warning">not measured here</span></span>')
    assert markdown.count("(not measured here)") == marked > 5


def test_what_was_measured_for_the_results_is_shown_as_theirs(
    made: Made, profile: Profile, published: tuple[Found, ProfileTables], tmp_path: Path
) -> None:
    page, markdown = page_of(made, tmp_path / "quick", profile, published[0], own=True)
    assert ">not measured here<" not in page
    assert "Not measured in this results folder" not in page
    assert "(not measured here)" not in markdown
    section = page[page.index('<section id="profile">') :]
    assert "Measured 2026-11-22 to 2026-11-23 on AMD EPYC." in section


def told(figure: Figure) -> str:
    """The line above a figure's panels, on one line."""
    return " ".join(figure.get_suptitle().split())


def test_the_picture_says_it_itself(profile: Profile, published: tuple[Found, ProfileTables]) -> None:
    found, tables = published
    with figure_style():
        for data, draw in ((speedup_data, speedup_figure), (memory_data, memory_figure)):
            assert told(draw(data(tables))) == FIRST
            own = told(draw(data(tables_of(profile, found.path))))
            assert own == "Measured 2026-11-22 to 2026-11-23 on AMD EPYC."


def test_an_interval_from_elsewhere_says_it_in_the_overview(made: Made, published: tuple[Found, ProfileTables]) -> None:
    on_gpu = published[1].variants.assign(device="cuda")
    claims = load_claims(made[1].claims)
    data = verdicts.data(judged_with(made, on_gpu), claims)
    places = data.set_index("id")["measured_in"]
    assert places["speedup-update-streamed-seconds"].startswith(f"from {PLACE} (published)")
    assert (places.drop("speedup-update-streamed-seconds") == "").all()
    with figure_style():
        figure = verdicts.draw(data, made[1])
    labels = [" ".join(panel.get_ylabel().split()) for panel in figure.axes]
    assert sum("Not measured here: from results/reference" in label for label in labels) == 1


def test_verify_finds_measurements_that_were_made_one_s_own(
    made: Made, published: tuple[Found, ProfileTables], tmp_path: Path
) -> None:
    judged = judged_with(made, published[1].variants)
    decided, claimed = tmp_path / "decided.json", tmp_path / "claimed.json"
    for file in (decided, claimed):
        file.write_text(verdicts_text(judged))
    assert difference(decided, claimed) is None
    chosen = next(verdict for verdict in judged["verdicts"] if verdict["id"] == "memory-update-exact")
    chosen["elsewhere"] = None
    claimed.write_text(verdicts_text(judged))
    found = difference(decided, claimed)
    assert found is not None
    assert '"elsewhere": null' in found[1]


def test_both_costs_of_a_streamed_update_are_judged_and_told_what_is_paid_first(
    made: Made, published: tuple[Found, ProfileTables], tmp_path: Path, profile: Profile
) -> None:
    judged = {verdict["id"]: verdict for verdict in judged_with(made, published[1].variants)["verdicts"]}
    whole, bare = (judged[f"speedup-update-streamed{end}"] for end in ("-whole", ""))
    assert (whole["verdict"], round(whole["estimate"], 2)) == ("refuted", 3.43)
    assert (bare["verdict"], round(bare["estimate"], 2)) == ("supported", 18.00)
    assert list(judged).index("speedup-update-streamed-whole") < list(judged).index("speedup-update-streamed")
    memory = [judged[f"memory-update-exact{end}"] for end in ("", "-512", "-1024")]
    assert [round(verdict["estimate"], 2) for verdict in memory] == [0.10, 0.50, 0.47]
    assert [verdict["verdict"] for verdict in memory] == ["supported", "refuted", "refuted"]
    records = {record.id: record for record in draw_profile(published[1], profile, tmp_path)}
    caption = records["profile_speedup"].caption
    at = [caption.index(number) for number in ("3.43x in operations", "18.00x in operations")]
    assert at == sorted(at)
    for number in ("0.10x at", "0.50x at", "0.47x at"):
        assert number in records["profile_memory"].caption
