"""Tables read back: whole or in part, refused where they are damaged; their columns say what may be missing."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from groupppo.errors import BadInput
from groupppo.tables import SCHEMA, Only, collect, load_table, load_tables
from tests.synthetic import write_results


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_truncated_table_is_named(results, left):
    folder, benchmark = results
    collect(folder, benchmark)
    file = folder / "tables" / "stages.parquet"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(BadInput, match="collect the results again") as caught:
        load_tables(folder / "tables")
    assert caught.value.file == str(file)


def test_a_missing_table_and_one_of_other_columns_are_named(results):
    folder, benchmark = results
    collect(folder, benchmark)
    file = folder / "tables" / "evals.parquet"
    pd.read_parquet(file).rename(columns={"stderr": "error"}).to_parquet(file)
    with pytest.raises(BadInput, match="not the columns and types"):
        load_tables(folder / "tables")
    file.unlink()
    with pytest.raises(BadInput, match=r"evals.parquet: file = missing"):
        load_tables(folder / "tables")


def test_a_flipped_bit_inside_a_table_is_found(results):
    folder, benchmark = results
    collect(folder, benchmark)
    file = folder / "tables" / "steps.parquet"
    values = pq.read_metadata(file).row_group(0).column(len(SCHEMA["steps"]) - 1)
    damaged = bytearray(file.read_bytes())
    damaged[values.data_page_offset + values.total_compressed_size - 9] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(BadInput, match="damaged") as caught:
        load_tables(folder / "tables")
    assert caught.value.file == str(file)


def test_a_part_of_a_table_is_the_same_rows_and_columns_of_the_whole(results):
    folder, benchmark = results
    collect(folder, benchmark)
    whole = load_table(folder / "tables", "steps")
    only = Only(("arm", "seed", "step", "value"), {"metric": ("reward/mean", "group/density"), "arm": ("ppo", "grpo")})
    part = load_table(folder / "tables", "steps", only)
    chosen = whole[whole["metric"].isin(only.where["metric"]) & whole["arm"].isin(only.where["arm"])]
    assert 0 < len(chosen) < len(whole)
    expected = chosen[list(only.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected, check_categorical=False, check_dtype=False)
    assert set(part["arm"]) == {"ppo", "grpo"}


def test_a_table_that_was_not_asked_for_cannot_be_used_by_mistake(results):
    folder, benchmark = results
    collect(folder, benchmark)
    tables = load_tables(folder / "tables", {"runs": Only()})
    assert len(tables.runs) == 6
    with pytest.raises(AttributeError, match="NoneType"):
        len(tables.steps.index)


def test_the_rows_of_a_cell_are_those_of_its_task_and_model(tmp_path):
    benchmark = write_results(tmp_path, steps=3, tasks=("sorting", "chain"))
    collect(tmp_path, benchmark)
    tables = load_tables(tmp_path / "tables")
    for name in SCHEMA:
        rows = tables.cell(name, "chain", "tiny")
        pd.testing.assert_frame_equal(rows, getattr(tables, name).query("task == 'chain'"))
        assert len(rows) < len(getattr(tables, name))
    assert tables.cell("steps", "chain", "no such model").empty


def test_a_reader_of_one_metric_skips_the_row_groups_of_others(results, monkeypatch):
    folder, benchmark = results
    monkeypatch.setattr("groupppo.tables.collecting.ROW_GROUP", 10)
    collect(folder, benchmark)
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **b: read.append(a[1]) or whole(*a, **b))
    part = load_table(folder / "tables", "steps", Only(where={"metric": ["reward/mean"]}))
    assert len(part) == 3 * 2 * 5
    assert len(read) == 3 < pq.read_metadata(folder / "tables/steps.parquet").num_row_groups


def test_a_column_that_may_be_missing_says_so():
    rest = {"cap", "end", "size_mean", "size_p50"}
    for columns in SCHEMA.values():
        for column in columns:
            assert ("missing" in column.description.replace("`missing`", "")) == (
                column.missing and column.name not in rest
            )
