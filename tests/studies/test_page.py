"""Figures and sections of the studies, from tables that are not those of the default benchmark."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from groupppo.config import Benchmark
from groupppo.draw.blocks import FigureBlock, Heading, Link, Section, Table, Text
from groupppo.draw.figures import Picture, read_figures
from groupppo.errors import BadInput
from groupppo.report.sections.studies import MOST_SHOWN, sections
from groupppo.studies.faults import NO_FAULT
from groupppo.studies.shared.study import FIGURES, find_study
from tests.studies.made import made_faults, made_stream_tables, made_tables
from tests.synthetic import synthetic_benchmark

COUNTS = {"responses": 1234, "tokens": 56789, "mean_reward": 0.6}
RECORDS = {
    "grouping": {
        "settings": {"batches": 6},
        "counts": COUNTS,
        "arms_left_out": {
            "ppo": "has no grouping rule",
            "odd": "sets a key, which the study does not follow",
        },
    },
    "streams": {"settings": {"batches": 6}, "counts": {"start": COUNTS | {"mean_reward": 0.4}, "trained": COUNTS}},
    "faults": {"settings": {"steps": 3, "run_seed": 1}},
}
TABLES = {"grouping": made_tables(), "streams": made_stream_tables(), "faults": {"faults": made_faults(lost=1)}}
DRAWN = ("grouping", "streams")


def pictures(name: str, tables: dict[str, pd.DataFrame] | None = None) -> dict[str, Picture]:
    return {picture.id: picture for picture in find_study(name).figures(tables or TABLES[name])}


# ---- figures


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_written_with_its_data_caption_and_alternative_text(name: str, tmp_path: Path) -> None:
    find_study(name).draw(TABLES[name], tmp_path)
    records = read_figures(tmp_path / FIGURES)
    assert [record.id for record in records] == list(pictures(name))
    for picture, record in zip(pictures(name).values(), records, strict=True):
        for suffix, file in record.files.items():
            assert (tmp_path / FIGURES / file).stat().st_size > (1000 if suffix != "csv" else 20)
        assert len(pd.read_csv(tmp_path / FIGURES / record.files["csv"])) == len(picture.data) > 0
        assert (record.caption, record.alt) == (picture.caption, picture.alt)
        assert re.search(r"\d", record.alt)
        assert "nan" not in (record.caption + record.alt).lower().split()


@pytest.mark.parametrize(
    ("name", "table", "column", "figure"),
    [("grouping", "agreement", "f1_inner", ""), ("streams", "stream_costs", "speedup", "costs")],
)
def test_the_same_tables_give_the_same_bytes_and_others_do_not(
    name: str, table: str, column: str, figure: str, tmp_path: Path
) -> None:
    study, tables = find_study(name), TABLES[name]
    changed = tables | {table: tables[table].assign(**{column: tables[table][column] * 0.9})}
    study.draw(tables, tmp_path / "a")
    study.draw(changed, tmp_path / "b")
    for file in (tmp_path / "a" / FIGURES).iterdir():
        same = file.read_bytes() == (tmp_path / "b" / FIGURES / file.name).read_bytes()
        assert same == (not figure or file.stem not in (figure, "figures")), file.name


def test_words_follow_the_data() -> None:
    assert "0.200 (log-ratio, float32) to 0.850 (exact norms alone)" in pictures("grouping")["agreement"].alt
    directions = pictures("grouping")["directions"]
    assert "cosine with dense PPO: 0.100 (PPO, another batch) to 1.000 (PPO)." in directions.alt
    assert "Twin has the gradients of Sequence." in directions.caption
    said = pictures("streams")["parameters"].alt
    assert "cosine with the exact gradient, Split, start: 0.300 (keys and values) to 0.750 (mlp)." in said
    tables, rows = made_tables(), made_tables()["agreement"]
    other = tables | {"agreement": rows.assign(f1=rows["f1"].where(rows["proxy"] != "unit", 0.95))}
    assert "0.200 (log-ratio, float32) to 0.950 (unit)" in pictures("grouping", other)["agreement"].alt


def test_an_arm_without_an_estimate_is_drawn_without_it() -> None:
    tables, summary = made_tables(), made_tables()["direction_summary"]
    columns = [name for name in summary.columns if name.startswith(("expected_cosine", "relative_variance"))]
    summary.loc[summary["arm"] == "random", columns] = np.nan
    picture = pictures("grouping", tables | {"direction_summary": summary})["directions"]
    assert "expected_cosine" not in set(picture.data[picture.data["arm"] == "random"]["panel"])
    picture.draw()


def test_what_is_drawn_of_streams_is_the_tables() -> None:
    drawn = pictures("streams")
    assert drawn["parameters"].data.groupby("panel")["value"].max().to_dict() == {"cosine": 0.75, "norm_ratio": 0.7}
    speeds = drawn["costs"].data.query("panel == 'speedup' and checkpoint == 'start' and arm == 'split'")
    assert dict(zip(speeds["way"], speeds["value"], strict=True)) == {
        "endpoints alone": 8.0, "window of 4": 4.0, "share of 25.0 %": 3.0, "gathered (exact)": 2.0}  # fmt: skip
    kinds = drawn["staleness"].data.groupby("panel")["kv"].unique()
    assert sorted(kinds["cosine"]) == ["recompute", "reuse"]
    assert list(kinds["moved"]) == list(kinds["log_prob_error"]) == ["reuse"]


# ---- sections


@pytest.fixture
def benchmark() -> Benchmark:
    return replace(synthetic_benchmark(seeds=(4, 5)), studies=("grouping", "streams", "faults"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of each study, drawn once."""
    home = tmp_path_factory.mktemp("drawn")
    for name, tables in TABLES.items():
        find_study(name).draw(tables, home / name)
    return home


@pytest.fixture
def results(tmp_path: Path, drawn: Path, benchmark: Benchmark) -> Path:
    for name in benchmark.studies:
        write_study(tmp_path, name)
        if name in DRAWN:
            shutil.copytree(drawn / name / FIGURES, tmp_path / "studies" / name / "sorting.tiny" / FIGURES)
    return tmp_path


def write_study(results: Path, name: str, place: str = "sorting.tiny") -> None:
    folder, (task, model) = results / "studies" / name / place, place.split(".")
    folder.mkdir(parents=True)
    (results / "runs" / task / model / "ppo" / "seed4").mkdir(parents=True, exist_ok=True)
    for table, rows in TABLES[name].items():
        find_study(name).write_table(folder, table, rows)
    (folder / "study.json").write_text(json.dumps(RECORDS[name]), encoding="utf-8")


def shown(folder: Path, benchmark: Benchmark) -> list[Section]:
    return list(sections(SimpleNamespace(folder=folder, benchmark=benchmark)))


def words(block: Text) -> str:
    return block.words if isinstance(block.words, str) else "".join(getattr(one, "text", one) for one in block.words)


def test_each_study_has_its_section_where_the_benchmark_asks_for_it(results: Path, benchmark: Benchmark) -> None:
    found = shown(results, benchmark)
    assert [(one.id, one.order) for one in found] == [("grouping", 60), ("streams", 61), ("faults", 62)]
    assert [one.id for one in shown(results, replace(benchmark, studies=("streams",)))] == ["streams"]
    assert shown(results, replace(benchmark, studies=())) == []
    with pytest.raises(BadInput, match="studies = 'nothing'"):
        shown(results, replace(benchmark, studies=("nothing",)))


def test_a_section_says_what_it_ran_on_and_shows_every_figure_and_file(results: Path, benchmark: Benchmark) -> None:
    grouping, streams, _ = shown(results, benchmark)
    said = words(grouping.blocks[0])
    assert "Rollouts of PPO (dense), seed 4, after training: 1,234 responses (56,789 tokens) in 6 batches" in said
    assert "odd (sets a key, which the study does not follow)" in said
    assert "ppo (has no grouping rule)" not in said
    said = words(streams.blocks[0])
    assert "Rollouts of PPO (dense), seed 4, in 6 batches for each checkpoint. start: 1,234 responses" in said
    assert "mean reward 0.400; trained: 1,234 responses (56,789 tokens), mean reward 0.600." in said
    [densities] = [block for block in grouping.blocks if isinstance(block, Table)]
    assert "4 of 12 have a density within the claimed 5.0 % to 20.0 %" in densities.caption
    assert ["variance_split", "unit", "float32", "30.0 %", "60.0 %", "30.0 %", "10.0 %"] in densities.rows
    for section, name in ((grouping, "grouping"), (streams, "streams")):
        figures = [block for block in section.blocks if isinstance(block, FigureBlock)]
        assert [block.anchor for block in figures] == [f"figure-{name}-sorting-tiny-{one}" for one in pictures(name)]
        links = [piece.to for piece in section.blocks[-1].words if isinstance(piece, Link)]
        assert len(links) == len(TABLES[name]) + 1
        for path in [*links, *(f"{block.folder}/{block.record.files['svg']}" for block in figures)]:
            assert (results / path).is_file(), path


def test_the_study_of_faults_counts_what_went_on_and_shows_every_point(results: Path, benchmark: Benchmark) -> None:
    section, table = shown(results, benchmark)[2], made_faults(lost=1)
    points = int((table["point"] != NO_FAULT).sum())
    said = words(section.blocks[0])
    assert f"One run of 3 steps for each of {points} injection points, seed 1" in said
    assert f"{points - 1} went on exactly as it does, 1 ended with the error" in said
    [points_table] = [block for block in section.blocks if isinstance(block, Table)]
    rows = {tuple(row[:2]): list(row[2:]) for row in points_table.rows}
    assert set(rows) == set(zip(table["arm"], table["point"], strict=True))
    assert set(rows["group_ppo", "rule"][:-1]) == {"yes"}
    assert rows["group_ppo_streamed", "metrics"][0] == "no"
    assert rows["group_ppo_streamed", "metrics"][-1] == "exit code 1; InjectedError: made up"


def test_each_task_and_model_that_was_begun_has_a_study_of_its_own(results: Path, benchmark: Benchmark) -> None:
    names = [f"model{number}" for number in range(MOST_SHOWN)]
    models = benchmark.models | {name: replace(benchmark.models["tiny"], title=name) for name in names}
    many = replace(benchmark, models=models, studies=("faults",))
    assert [block.text for block in shown(results, many)[0].blocks if isinstance(block, Heading)] == [
        "Selection sort, Qwen2 0.1M"
    ]  # of the others no run is there
    (results / "runs" / "sorting" / "model0" / "ppo" / "seed4").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"sorting.model0/study.json(.|\n)*snakemake studies"):
        shown(results, many)
    for name in names:
        write_study(results, "faults", f"sorting.{name}")
    blocks = shown(results, many)[0].blocks
    assert sum(isinstance(block, Heading) for block in blocks) == MOST_SHOWN
    assert "No room for 1 more tasks and models; they are in studies/faults/sorting.model2" in words(blocks[-1])


def test_a_record_of_another_form_is_named(results: Path, benchmark: Benchmark) -> None:
    for name in RECORDS:
        for content in ("{", "[]", "{}", '{"settings": 3}', '{"settings": {"batches": 6}, "counts": {}}'):
            (results / "studies" / name / "sorting.tiny" / "study.json").write_text(content)
            with pytest.raises(BadInput, match=r"study.json(.|\n)*run the study again"):
                shown(results, replace(benchmark, studies=(name,)))
