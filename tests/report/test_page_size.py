"""However many runs, tasks and models there are, the page stays below 5 MB, and no verdict is dropped."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from groupppo.config import Benchmark
from groupppo.draw import blocks, style
from groupppo.draw.blocks import FigureBlock, FigureRecord, Page, Section
from groupppo.draw.figures import few_colours
from groupppo.report import render
from groupppo.report.figures import draw_figures
from groupppo.report.figures import verdicts as overview
from groupppo.report.page import write_report
from groupppo.report.render import largest_picture
from groupppo.report.sections.verdicts import verdict_table
from groupppo.tables import load_tables
from tests.report.conftest import build, collected, results_of, table_of

MOST = 5_000_000
CELLS = 200


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Benchmark]:
    results = tmp_path_factory.mktemp("small")
    return results, build(results, seeds=(1, 2), steps=4, failed={("grpo", 2): "out of memory"})


def widened(benchmark: Benchmark, models: int) -> Benchmark:
    """The benchmark with copies of its model."""
    model = benchmark.models["tiny"]
    copies = {f"tiny_{i}": replace(model, name=f"tiny_{i}", title=f"Tiny Qwen2, copy {i}") for i in range(models)}
    return replace(benchmark, models=copies)


def copied(judged: dict, benchmark: Benchmark) -> dict:
    """The verdicts on one model as those on each of several, told apart by their estimates."""
    entries = []
    for entry in judged["verdicts"]:
        for place, model in enumerate(benchmark.models if entry["model"] else [""]):
            rows = entry["evidence"]["rows"].replace("'tiny'", repr(model))
            changed = {"model": model, "evidence": entry["evidence"] | {"rows": rows}}
            shift = 0 if entry["estimate"] is None else 1e-6 * place
            entries.append(entry | changed | ({"estimate": entry["estimate"] + shift} if shift else {}))
    return judged | {"verdicts": entries}


def test_the_text_of_thousands_of_verdicts_and_the_largest_pictures_fit_into_five_megabytes(small, tmp_path):
    results, benchmark = small
    wide = widened(benchmark, CELLS)
    judged = copied(json.loads((results / "verdicts.json").read_text()), wide)
    for name in ("figures", "tables"):
        (tmp_path / name).symlink_to(results / name)
    (tmp_path / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    text = write_report(tmp_path, wide).read_text(encoding="utf-8")
    words = re.sub(r'src="data:[^"]*"', "", text)
    assert len(judged["verdicts"]) > 2500
    assert len(words.encode()) + render.PICTURES * 4 / 3 < MOST


def test_of_many_runs_the_first_are_listed_and_the_table_of_all_is_named(small, monkeypatch):
    results, benchmark = small
    assert len(table_of(results, benchmark, "matrix").cells) == 6
    monkeypatch.setattr(blocks, "MOST_ROWS", 5)
    assert len(table_of(results, benchmark, "matrix").cells) == 5
    assert len(table_of(results, benchmark, "verdicts").cells) > 5, "no verdict is left out"
    text = write_report(results, benchmark).read_text(encoding="utf-8")
    assert text.count('The first 5 of 6; all are in <a href="tables/runs.parquet">tables/runs.parquet</a>.') == 1


def test_no_verdict_is_dropped_and_those_without_a_number_and_one_reason_are_one_row(small, tmp_path):
    results, benchmark = small
    wide = widened(benchmark, 4)
    judged = copied(json.loads((results / "verdicts.json").read_text()), wide)
    judged["verdicts"] = [entry | {"asked": True} for entry in judged["verdicts"]]

    def rows() -> dict[str, list[tuple[int, str, str]]]:
        """Verdicts, place and reason of the rows of each claim."""
        (tmp_path / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
        made = results_of(tmp_path, load_tables(results / "tables"), replace(wide, profile=None))
        found: dict[str, list[tuple[int, str, str]]] = {}
        for row in verdict_table(made).cells:
            marks = [line for line in row[2].lines if isinstance(line, str)]
            cells = int(marks[0].split()[0]) if marks else 1
            found.setdefault(row[1].text.text, []).append((cells, row[0].lines[0] if row[0].lines else "", row[5].text))
        return found

    shown = rows()
    assert sum(cells for own in shown.values() for cells, _, _ in own) == len(judged["verdicts"])
    assert {cells for own in shown.values() for cells, _, _ in own} == {1, 4}
    for name, own in shown.items():
        if own[0][0] == 4:
            assert own[0][1] == "all 4 tasks and models"
            assert {entry["estimate"] for entry in judged["verdicts"] if entry["id"] == name} == {None}
    # Negative control: another reason is another row.
    claim = next(name for name, own in shown.items() if own[0][0] == 4)
    one = next(entry for entry in judged["verdicts"] if entry["id"] == claim)
    one["reason"] = "Another."
    apart = rows()[claim]
    assert [(cells, reason == "Another.") for cells, _, reason in apart] == [(1, True), (3, False)]
    assert "Tiny Qwen2, copy 1; " in apart[1][1]


def test_a_figure_shows_the_first_tasks_and_models_and_its_data_has_all(tmp_path, monkeypatch):
    monkeypatch.setattr("groupppo.report.figures.MOST_FACETS", 1)
    monkeypatch.setattr("groupppo.draw.figures.MOST_FACETS", 1)
    tables, benchmark = collected(tmp_path, tasks=("sorting", "chain"), seeds=(1, 2), steps=4)
    records = {record.id: record for record in draw_figures(tables, benchmark, tmp_path)}
    for name in ("reward", "accuracy", "parity", "density", "stage_seconds", "stage_memory"):
        assert "Drawn are the first 1 of 2 tasks and models" in records[name].caption
        assert "Running sum" not in records[name].alt
        assert set(pd.read_csv(tmp_path / f"{name}.csv")["task"]) == {"sorting", "chain"}


def test_the_overview_draws_some_verdicts_of_every_claim():
    data = pd.DataFrame([{"id": f"claim{i}", "model": str(k)} for i in range(12) for k in range(10)])
    shown = overview.drawn_verdicts(data)
    assert len(shown) <= overview.MOST_ROWS
    assert (shown.groupby("id").size() == 2).all()
    assert set(shown["model"]) == {"0", "1"}
    few = data.head(overview.MOST_ROWS)
    assert len(overview.drawn_verdicts(few)) == len(few)
    many = pd.DataFrame([{"id": str(i)} for i in range(50) for _ in range(2)])
    assert len(overview.drawn_verdicts(many)) == 50


def record(folder: Path, name: str, size: int, svg: int = 0) -> FigureRecord:
    """A picture of at least `size` bytes of coloured noise, its drawing of `svg` bytes, too large for a page if 0."""
    folder.mkdir(exist_ok=True)
    side = int((size / 3) ** 0.5) + 1
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / f"{name}.png")
    (folder / f"{name}.svg").write_text("x" * (svg or render.LARGEST_SVG + 1), encoding="utf-8")
    return FigureRecord(name, name, name, {"svg": f"{name}.svg", "png": f"{name}.png"}, name)


def test_pictures_that_are_too_large_together_are_reduced_the_largest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "PICTURES", 300_000)
    records = [record(tmp_path / "figures", *sizes) for sizes in (("a", 400_000), ("b", 200_000), ("c", 1, 30_000))]
    files = [tmp_path / "figures" / name for name in ("a.png", "b.png", "c.svg")]
    assert largest_picture(files) == (300_000 - 30_000) // 2
    text = page_of_figures(tmp_path, records)
    sources = re.findall(r'<img src="([^"]*)"', text)
    assert sum(map(len, sources)) <= 300_000 * 4 / 3 + 100
    assert text.count("The picture here is reduced") == 2
    assert sources[2].startswith("data:image/svg+xml")
    # Negative control: with room for all they stay as they are.
    monkeypatch.setattr(render, "PICTURES", 10_000_000)
    assert largest_picture(files) is None
    assert "is reduced" not in page_of_figures(tmp_path, records)


def page_of_figures(folder: Path, records: list[FigureRecord]) -> str:
    section = Section("figures", "Figures", "Figures", 0, [FigureBlock(one, "figures") for one in records])
    return render.html(Page("Figures", "", "Skip", [], [section]), folder)


def test_a_reduced_picture_keeps_the_colours_of_thin_lines():
    colours = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in style.ARM_COLOURS]
    down, across = np.mgrid[150:255:400j, 150:255:400j]
    shades = np.stack([down, across, np.full_like(down, 200)], axis=-1)
    picture = np.where(np.arange(400)[:, None, None] < 300, shades, 255).astype(np.uint8)
    for place, colour in enumerate(colours):
        picture[310 + 10 * place, :40] = colour

    def farthest(palette: Image.Image) -> int:
        kept = np.asarray(palette.convert("RGB")).astype(int)
        lines = [np.abs(kept[310 + 10 * place, 5] - colour).sum() for place, colour in enumerate(colours)]
        return int(max(lines))

    drawn = Image.fromarray(picture)
    assert farthest(few_colours(drawn)) < 10
    # Negative control: a palette shared out by area gives lines another arm's colour.
    assert farthest(drawn.quantize(256, dither=Image.Dither.NONE)) > 100
