"""Figures of the streamed update and their words, from made tables."""

import re
from pathlib import Path

import pandas as pd
import pytest

from groupppo.draw.figures import read_figures
from groupppo.studies import captions_streams as captions
from groupppo.studies.figures import STREAM_PLANS, write_study_figures
from groupppo.studies.figures_streams import costs_data, parameters_data, staleness_data
from groupppo.studies.names import ENDPOINTS, GATHERED, WINDOW
from groupppo.studies.stream_tables import STREAM_COLUMNS
from groupppo.studies.tables import read_table, write_table
from tests.studies.made_streams import made_stream_tables


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return made_stream_tables()


def test_every_table_comes_back_as_it_was_written(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    assert set(tables) == set(STREAM_COLUMNS)
    for name, rows in tables.items():
        write_table(tmp_path, name, rows)
        back = read_table(tmp_path, name)
        pd.testing.assert_frame_equal(back, rows[list(STREAM_COLUMNS[name])], check_dtype=False)


def test_every_figure_is_written_with_its_data_caption_and_alternative_text(
    tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    records = write_study_figures(tables, tmp_path, STREAM_PLANS)
    assert read_figures(tmp_path) == records
    assert [record.id for record in records] == ["parameters", "costs", "staleness"]
    for plan, record in zip(STREAM_PLANS, records, strict=True):
        for suffix, file in record.files.items():
            assert (tmp_path / file).stat().st_size > (1000 if suffix != "csv" else 20)
        assert len(pd.read_csv(tmp_path / record.files["csv"])) == len(plan.data(tables))
        assert re.search(r"\d", record.alt)
        assert "nan" not in (record.caption + record.alt).lower().split()


def test_the_same_tables_give_the_same_bytes_and_others_do_not(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    costs = tables["stream_costs"]
    moved = costs.assign(cosine=costs["cosine"].where(costs["kind"] != ENDPOINTS, 0.6))
    write_study_figures(tables, tmp_path / "a", STREAM_PLANS)
    write_study_figures(tables | {"stream_costs": moved}, tmp_path / "b", STREAM_PLANS)
    for file in (tmp_path / "a").iterdir():
        same = file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        assert same == (file.stem not in ("costs", "figures")), file.name


def test_what_is_drawn_is_the_tables(tables: dict[str, pd.DataFrame]) -> None:
    drawn = parameters_data(tables)
    assert drawn.groupby("measure")["value"].max().to_dict() == {"cosine": 0.75, "norm_ratio": 0.7}
    assert costs_data(tables).query("kind == 'share'")["pareto"].eq(False).all()
    assert costs_data(tables).query("kind != 'share'")["pareto"].all()
    kinds = staleness_data(tables).groupby("measure")["kv"].unique()
    assert sorted(kinds["cosine"]) == ["recompute", "reuse"]
    assert list(kinds["moved"]) == list(kinds["log_prob_error"]) == ["reuse"]


def test_captions_say_what_these_data_show(tables: dict[str, pd.DataFrame]) -> None:
    told = captions.parameters(tables)
    assert "Split, start: 0.500 over all parameters, from 0.300 (keys and values) to 0.750 (mlp)" in told
    told = captions.costs(tables)
    assert "Stride, trained (density 12.5 %): endpoints alone 8.00x at cosine 0.500, " in told
    assert "window of 4 4.00x at 0.800" in told
    assert "Cosine x speed-up of the update is largest for endpoints alone." in told
    # Against the window: 0.3 / (0.8 * 7 / 8 - 0.5 * 3 / 4) = 12 / 13; against the exact update 0.5 / 0.625 = 4 / 5.
    assert "more than 92.3 % of a dense step" in told
    told = captions.staleness(tables)
    assert "Split: cosine 0.500 at first, 0.400 after 1 step and 0.300 after 2 steps" in told
    assert "(fresh keys and values: 0.500); after 1 step the error is 25.0 % of the policy's own move" in told


def test_captions_follow_the_data(tables: dict[str, pd.DataFrame]) -> None:
    progress, costs = tables["stream_progress"], tables["stream_costs"]
    better = tables | {
        "stream_progress": progress.assign(best=progress["kind"] == WINDOW),
        "stream_costs": costs.assign(speedup=costs["speedup"].where(costs["kind"] != WINDOW, 7.0)),
    }
    told = captions.costs(better)
    assert "largest for window of 4." in told
    assert "By whole steps" not in told
    exact = tables | {"stream_progress": progress.assign(best=progress["kind"] == GATHERED)}
    assert "largest for gathered (exact)." in captions.costs(exact)


def test_the_best_ways_are_listed_for_each_share(tables: dict[str, pd.DataFrame]) -> None:
    """Half of a step: 0.5 / (1/2 + 1/16) < 0.8 / (1/2 + 1/8) < 1 / (1/2 + 1/4)."""
    assert dict(captions.best_ways(tables["stream_progress"])) == {1.0: ["endpoints alone"], 0.5: ["gathered (exact)"]}
