"""Figures and sections of the studies, from tables that are not those of the default benchmark."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from groupppo.studies.shared.page import MOST_SHOWN, sections

from groupppo.config import Benchmark
from groupppo.draw.blocks import FigureBlock, Heading, Link, Table, Text
from groupppo.draw.figures import Picture, read_figures
from groupppo.errors import BadInput
from groupppo.studies.faults import NO_FAULT
from groupppo.studies.shared.study import ENDPOINTS, FIGURES, GATHERED, find_study
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
    [("grouping", "agreement", "f1_inner", ""), ("grouping", "agreement", "f1", "agreement"),
     ("streams", "stream_costs", "speedup", "costs")],
)  # fmt: skip
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


def test_captions_say_what_these_data_show() -> None:
    grouping, streams = pictures("grouping"), pictures("streams")
    assert "logit norm 0.800; unit 0.600; " in grouping["agreement"].caption
    assert "from 0.300 (Sequence) to 0.900 (Random)" in grouping["directions"].caption
    assert "Twin has the gradients of Sequence." in grouping["directions"].caption
    assert "with 0.100 for dense PPO on another batch" in grouping["directions"].caption
    at_chance = "At the density of the random control, 20.0 %: Sequence 0.300, Random 0.900."
    assert at_chance in grouping["directions"].caption
    said = streams["parameters"].caption
    assert "Split, start: 0.500 over all parameters, from 0.300 (keys and values) to 0.750 (mlp)" in said
    said = streams["costs"].caption
    assert "Stride, trained (density 12.5 %): endpoints alone 8.00x at cosine 0.500, window of 4 4.00x at 0.800" in said
    said = streams["staleness"].caption
    assert "Split: cosine 0.500 at first, 0.400 after 1 step and 0.300 after 2 steps" in said
    assert "(fresh keys and values: 0.500); after 1 step the error is 25.0 % of the policy's own move" in said


def test_captions_follow_the_data() -> None:
    tables, rows, summary = made_tables(), made_tables()["agreement"], made_tables()["direction_summary"]
    other = tables | {"agreement": rows.assign(f1=rows["f1"].where(rows["proxy"] != "unit", 0.95))}
    assert "unit 0.950; exact norms alone 0.850; " in pictures("grouping", other)["agreement"].caption
    turned = tables | {"direction_summary": summary.assign(cosine=-summary["cosine"])}
    assert "from -0.900 (Random) to -0.300 (" in pictures("grouping", turned)["directions"].caption
    summary = summary.assign(density=summary["density"].where(summary["arm"] != "sequence", 0.5))
    caption = pictures("grouping", tables | {"direction_summary": summary})["directions"].caption
    assert "control, 20.0 %: Random 0.900." in caption
    without = tables | {"direction_summary": summary[summary["arm"] != "random"]}
    assert "control" not in pictures("grouping", without)["directions"].caption


def test_an_arm_without_an_estimate_is_drawn_without_it() -> None:
    tables, summary = made_tables(), made_tables()["direction_summary"]
    columns = [name for name in summary.columns if name.startswith(("expected_cosine", "relative_variance"))]
    summary.loc[summary["arm"] == "random", columns] = np.nan
    picture = pictures("grouping", tables | {"direction_summary": summary})["directions"]
    assert "expected_cosine" not in set(picture.data[picture.data["arm"] == "random"]["panel"])
    assert "expected –" in picture.alt  # noqa: RUF001 - an en dash marks what is missing
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


def test_the_share_is_off_the_front_and_the_others_are_on_it() -> None:
    costs = made_stream_tables()["stream_costs"].set_index("kind")["pareto"]
    assert not costs["share"].any()
    assert costs[[ENDPOINTS, GATHERED, "window"]].all()


# ---- sections


@pytest.fixture
def benchmark() -> Benchmark:
    return replace(synthetic_benchmark(seeds=(4, 5)), studies=("grouping", "streams", "faults"))


@pytest.fixture
def results(tmp_path: Path, benchmark: Benchmark) -> Path:
    for name in benchmark.studies:
        write_study(tmp_path, name)
    return tmp_path


def write_study(results: Path, name: str, place: str = "sorting.tiny") -> Path:
    folder, study = results / "studies" / name / place, find_study(name)
    folder.mkdir(parents=True)
    task, model = place.split(".")
    (results / "runs" / task / model / "ppo" / "seed4").mkdir(parents=True, exist_ok=True)
    for table, rows in TABLES[name].items():
        study.write_table(folder, table, rows)
    study.draw(TABLES[name], folder)
    (folder / "study.json").write_text(json.dumps(RECORDS[name]), encoding="utf-8")
    return folder


def words(block: Text) -> str:
    return block.words if isinstance(block.words, str) else "".join(getattr(one, "text", one) for one in block.words)


def test_each_study_has_its_section_where_the_benchmark_asks_for_it(results: Path, benchmark: Benchmark) -> None:
    found = sections(results, benchmark)
    assert [(one.id, one.order) for one in found] == [("study", 60), ("streams", 61), ("faults", 62)]
    assert [one.id for one in sections(results, replace(benchmark, studies=("streams",)))] == ["streams"]
    assert sections(results, replace(benchmark, studies=())) == []
    with pytest.raises(BadInput, match="studies = 'nothing'"):
        sections(results, replace(benchmark, studies=("nothing",)))


def test_a_section_says_what_it_ran_on_and_shows_every_figure_and_file(results: Path, benchmark: Benchmark) -> None:
    grouping, streams, _ = sections(results, benchmark)
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
    section, table = sections(results, benchmark)[2], made_faults(lost=1)
    points = int((table["point"] != NO_FAULT).sum())
    said = words(section.blocks[0])
    assert f"One run of 3 steps for each of {points} injection points, seed 1" in said
    assert f"{points - 1} went on exactly as it does, 1 ended with the error" in said
    [shown] = [block for block in section.blocks if isinstance(block, Table)]
    rows = {tuple(row[:2]): list(row[2:]) for row in shown.rows}
    assert set(rows) == set(zip(table["arm"], table["point"], strict=True))
    assert set(rows["group_ppo", "rule"][:-1]) == {"yes"}
    assert rows["group_ppo_streamed", "metrics"][0] == "no"
    assert rows["group_ppo_streamed", "metrics"][-1] == "exit code 1; InjectedError: made up"


def test_each_task_and_model_that_was_begun_has_a_study_of_its_own(results: Path, benchmark: Benchmark) -> None:
    names = [f"model{number}" for number in range(MOST_SHOWN)]
    models = benchmark.models | {name: replace(benchmark.models["tiny"], title=name) for name in names}
    many = replace(benchmark, models=models, studies=("faults",))
    assert [block.text for block in sections(results, many)[0].blocks if isinstance(block, Heading)] == [
        "Selection sort, Qwen2 0.1M"
    ]  # of the others no run is there
    (results / "runs" / "sorting" / "model0" / "ppo" / "seed4").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"sorting.model0/study.json(.|\n)*snakemake studies"):
        sections(results, many)
    for name in names:
        write_study(results, "faults", f"sorting.{name}")
    blocks = sections(results, many)[0].blocks
    assert sum(isinstance(block, Heading) for block in blocks) == MOST_SHOWN
    assert "No room for 1 more tasks and models; they are in studies/faults/sorting.model2" in words(blocks[-1])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": 3}', '{"settings": {"batches": 6}, "counts": {}}'])
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_another_form_is_named(name: str, content: str, results: Path, benchmark: Benchmark) -> None:
    (results / "studies" / name / "sorting.tiny" / "study.json").write_text(content)
    with pytest.raises(BadInput, match=r"study.json(.|\n)*run the study again"):
        sections(results, benchmark)
