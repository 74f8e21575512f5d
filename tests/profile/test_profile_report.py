"""Figures and page of a profile: they show the tables, say so in words, and fetch nothing."""

import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from groupppo.draw.blocks import Page, Section
from groupppo.draw.figures import read_figures
from groupppo.draw.style import figure_style
from groupppo.errors import BadInput
from groupppo.profile.config import measured_folder
from groupppo.profile.tables import tables_of, write_tables
from groupppo.records.where import Found
from groupppo.report.figures.profile import (
    bound_data,
    draw_profile,
    memory_data,
    memory_figure,
    profile_pictures,
    sixteen_data,
    sixteen_figure,
    speedup_data,
    speedup_figure,
)
from groupppo.report.render import html
from groupppo.report.sections.profile import profile_sections, write_profile_page


@pytest.fixture(scope="module")
def tables(measured):
    return tables_of(measured.profile, measured.folder)


@pytest.fixture(scope="module")
def drawn(measured, tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    records = draw_profile(tables, measured.profile, out / "figures")
    return {record.id: record for record in records}, out


def test_every_figure_has_pictures_data_a_caption_and_an_alternative_text(drawn):
    records, out = drawn
    assert list(records) == ["profile_speedup", "profile_bound", "profile_memory", "profile_sixteen"]
    assert read_figures(out / "figures") == list(records.values())
    for record in records.values():
        assert record.caption.endswith(".")
        assert record.alt.endswith(".")
        assert (out / "figures" / record.files["svg"]).read_text().rstrip().endswith("</svg>")
        assert (out / "figures" / record.files["png"]).read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(out / "figures" / record.files["csv"])) > 0


def test_captions_are_computed_from_the_data(measured, tables, drawn):
    records, _ = drawn
    low, high = tables.counted["update_bound"].min(), bound_data(tables)["update_bound"].max()
    assert f"{high:.2f}x" in records["profile_bound"].caption
    assert f"{low:.2f}x" not in records["profile_bound"].caption  # of another density
    assert "2 rounds" in records["profile_speedup"].caption
    assert "cut cross-entropy: not run, needs" in records["profile_speedup"].caption
    for found in speedup_data(tables).itertuples():
        assert f"{found.title} {found.flops_speedup:.2f}x in operations" in records["profile_speedup"].alt
    assert "6.2 %" in records["profile_sixteen"].caption
    other = replace(measured.profile, counted=replace(measured.profile.counted, need=4.0))
    assert "25.0 %" in profile_pictures(tables, other)[3].caption


def test_bars_of_memory_stack_to_the_model_and_marks_are_the_measurement(tables):
    data = memory_data(tables)
    whole = tables.variants.set_index(["setting", "variant"])
    for (setting, variant), rows in data.groupby(["setting", "variant"]):
        assert rows["bytes"].sum() == pytest.approx(whole.loc[(setting, variant), "model_bytes"])
        assert (rows["rise_bytes"] == whole.loc[(setting, variant), "rise_bytes"]).all()
    with figure_style():
        figure = memory_figure(data)
    assert all(panel.get_xlim()[0] == 0 for panel in figure.axes)
    assert "MB" in figure.axes[-1].get_xlabel()


def test_a_variant_that_the_model_is_not_about_has_a_mark_and_no_bar(measured, tables):
    variants = tables.variants.copy()
    chosen = variants["variant"] == "dense_fused"
    variants.loc[chosen, [name for name in variants if name.startswith("model_")]] = None
    picture = profile_pictures(replace(tables, variants=variants), measured.profile)[2]
    assert picture.data[picture.data["variant"] == "dense_fused"]["bytes"].isna().all()
    with figure_style():
        picture.draw()
    assert "dense, fused head (ours): measured only." in picture.caption


def overhang(figure) -> float:
    """Inches by which anything drawn leaves the picture."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)


def test_nothing_leaves_the_picture_whatever_the_speed_up(measured, tables):
    wide = speedup_data(tables).assign(seconds_speedup_high=300.0, seconds_speedup_low=0.1)
    with figure_style():
        assert overhang(speedup_figure(wide)) < 0.05
        assert overhang(sixteen_figure(sixteen_data(tables, measured.profile))) < 0.05


@pytest.fixture(scope="module")
def page(measured, tables, drawn):
    return write_profile_page(drawn[1], measured.profile, tables, measured.folder).read_text()


def test_the_page_says_which_targets_are_met_and_shows_every_variant_or_why_it_is_missing(page, tables):
    assert "1 of 2 targets set beforehand is met." in page
    assert "<td>missed</td>" in page
    assert "<td>met</td>" in page
    for title in tables.variants["title"]:
        assert title.replace("'", "&#39;") in page
    assert "needs an NVIDIA GPU" in page


def test_the_page_fetches_nothing_and_runs_only_its_own_script(page):
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#", "figures/", "tables/")) for source in sources)
    assert len(re.findall("<script", page)) == 1


def test_texts_of_a_profile_are_escaped_and_a_page_without_figures_is_refused(measured, tables, drawn, tmp_path):
    named = replace(measured.profile, title="<b>bold</b>")
    text = write_profile_page(drawn[1], named, tables, measured.folder).read_text()
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold" in text
    with pytest.raises(BadInput, match="draw the figures"):
        write_profile_page(tmp_path, measured.profile, tables, measured.folder)


def test_in_the_page_of_a_benchmark_its_links_lead_into_its_own_folder(measured, tables, drawn, tmp_path):
    home = tmp_path / "profile"
    shutil.copytree(drawn[1] / "figures", home / "figures")
    write_tables(measured.profile, measured.folder, home / "tables")
    parts = profile_sections(tmp_path, "profile/", measured.profile, tables, measured.folder)
    blocks = [block for part in parts for block in part.blocks]
    text = html(Page("title", "eyebrow", "skip", [], [Section("profile", "Costs", "Costs", 70, blocks)]), tmp_path)
    ids = re.findall(r'id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    links = [link for link in re.findall(r'href="([^"]*)"', text) if link.startswith("profile/")]
    assert len(links) == 3 * 4 + len(vars(tables))
    assert all((tmp_path / link).is_file() for link in links)


def test_a_machine_s_own_measurements_come_before_the_published_ones_if_they_are_complete(measured, tmp_path):
    own, published = (tmp_path / place / measured.profile.name / "measured" for place in (".", "reference"))
    with pytest.raises(BadInput, match="measure it first"):
        measured_folder(measured.profile, tmp_path)
    shutil.copytree(measured.folder, published)
    assert measured_folder(measured.profile, tmp_path) == Found(published, published=True)
    shutil.copytree(measured.folder, own)
    assert measured_folder(measured.profile, tmp_path) == Found(own, published=False)
    next(own.iterdir()).unlink()
    assert measured_folder(measured.profile, tmp_path) == Found(published, published=True)
