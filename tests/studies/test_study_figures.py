"""Tables, figures and their words, from tables that are not those of the default benchmark."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groupppo.draw.figures import read_figures
from groupppo.errors import BadInput
from groupppo.studies import captions
from groupppo.studies.figures import PLANS, write_study_figures
from groupppo.studies.figures_directions import directions_data
from groupppo.studies.figures_rules import causes_data, published_data, thresholds_data
from groupppo.studies.tables import COLUMNS, DENSE, DENSE_OTHER, read_table, write_table
from tests.studies.made import made_tables


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return made_tables()


def test_every_table_comes_back_as_it_was_written(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    assert set(tables) == set(COLUMNS)
    for name, rows in tables.items():
        write_table(tmp_path, name, rows)
        back = read_table(tmp_path, name)
        pd.testing.assert_frame_equal(back, rows[list(COLUMNS[name])], check_dtype=False)
    with pytest.raises(ValueError, match="documented"):
        write_table(tmp_path, "scores", tables["scores"].rename(columns={"proxy": "name"}))


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n"])
def test_a_table_that_is_missing_or_another_is_named(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(BadInput, match=r"scores.csv(.|\n)*run the study"):
        read_table(tmp_path, "scores")


def test_every_figure_is_written_with_its_data_caption_and_alternative_text(
    tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    records = write_study_figures(tables, tmp_path)
    assert read_figures(tmp_path) == records
    assert [record.id for record in records] == [plan.id for plan in PLANS]
    for plan, record in zip(PLANS, records, strict=True):
        for suffix, file in record.files.items():
            assert (tmp_path / file).stat().st_size > (1000 if suffix != "csv" else 20)
        assert len(pd.read_csv(tmp_path / record.files["csv"])) == len(plan.data(tables))
        assert len(record.alt) > 60
        assert re.search(r"\d", record.alt)
        assert "nan" not in (record.caption + record.alt).lower().split()
    assert json.loads((tmp_path / "figures.json").read_text())[0]["id"] == "thresholds"


def test_the_same_tables_give_the_same_bytes_and_others_do_not(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    write_study_figures(tables, tmp_path / "a")
    write_study_figures(tables | {"published": tables["published"].assign(density=0.5)}, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        same = file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        assert same == (file.stem not in ("published", "figures")), file.name


def test_precision_is_shown_only_where_a_rule_reads_the_rollouts_log_probabilities(tables) -> None:
    labels = causes_data(tables)["label"].tolist()
    assert "stride" in labels
    assert "public code (float32)" in labels
    assert "public code (bfloat16)" in labels
    assert labels.count("literal") == 1
    assert len(labels) == len(set(labels))
    lines = thresholds_data(tables)["label"].unique().tolist()
    assert lines == [f"variance split, {s}" for s in ("unit", "log-ratio (float32)", "log-ratio (bfloat16)")]


def test_a_gap_of_zero_is_left_to_the_table(tables) -> None:
    assert (tables["published"]["mean_gap"] == 0).any()
    assert (published_data(tables)["mean_gap"] > 0).all()


def test_captions_say_what_these_data_show(tables) -> None:
    assert "unit goes from 80.0 % to 10.0 %" in captions.thresholds(tables)
    assert "log-ratio (float32) stays at 10.0 %" in captions.thresholds(tables)
    assert "from 2.0 % to 30.0 %" in captions.published(tables)
    assert "float32 rollouts, 2.0e-07 nats, it is 2.0 %" in captions.published(tables)
    assert "logit norm 0.800; unit 0.600; " in captions.agreement(tables)
    assert "the better control 0.350" in captions.agreement(tables)
    assert "from 0.300 (Sequence) to 0.900 (Random)" in captions.directions(tables)
    assert "Twin has the gradients of Sequence." in captions.directions(tables)
    assert "with 0.100 for dense PPO on another batch" in captions.directions(tables)
    assert "At the density of the random control, 20.0 %: Sequence 0.300, Random 0.900." in captions.directions(tables)


def test_captions_follow_the_data(tables) -> None:
    rows = tables["agreement"]
    other = tables | {"agreement": rows.assign(f1=rows["f1"].where(rows["proxy"] != "unit", 0.95))}
    assert "unit 0.950; logit norm 0.800; " in captions.agreement(other)
    summary = tables["direction_summary"]
    turned = tables | {"direction_summary": summary.assign(cosine=-summary["cosine"])}
    assert "from -0.900 (Random) to -0.300 (" in captions.directions(turned)
    summary = summary.assign(density=summary["density"].where(summary["arm"] != "sequence", 0.5))
    assert "control, 20.0 %: Random 0.900." in captions.directions(tables | {"direction_summary": summary})
    summary = summary[summary["arm"] != "random"]
    assert "control" not in captions.directions(tables | {"direction_summary": summary})
    inside = tables["density"].assign(density=0.1)
    assert "Of 7 bars 7 have" in captions.causes(tables | {"density": inside})
    assert "Of 7 bars 7 have" not in captions.causes(tables)


def test_an_arm_without_an_estimate_is_drawn_without_it(tables, tmp_path: Path) -> None:
    summary = tables["direction_summary"].copy()
    columns = [name for name in summary.columns if name.startswith(("expected_cosine", "relative_variance"))]
    summary.loc[summary["arm"] == "random", columns] = np.nan
    without = tables | {"direction_summary": summary}
    drawn = directions_data(without)
    assert "expected_cosine" not in set(drawn[drawn["arm"] == "random"]["panel"])
    assert "expected_cosine" in set(directions_data(tables)[directions_data(tables)["arm"] == "random"]["panel"])
    records = write_study_figures(without, tmp_path)
    assert "expected –" in records[-1].alt  # noqa: RUF001 - an en dash marks what is missing


def test_the_noise_floor_and_dense_ppo_are_no_arms(tables) -> None:
    drawn = directions_data(tables)
    assert {DENSE, DENSE_OTHER} <= set(drawn["arm"])
    titles = drawn[~drawn["arm"].isin((DENSE, DENSE_OTHER))]["title"].unique()
    assert list(titles) == ["Sequence", "Twin", "Random"]
