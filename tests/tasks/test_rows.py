"""Splits, by the text of a prompt alone; a task folder: its rows, its card, and what is refused."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groupppo.errors import BadInput
from groupppo.records.hashing import sha256_file, sha256_folder
from groupppo.tasks.build import build_task
from groupppo.tasks.reward import score
from groupppo.tasks.rows import (
    SHARES,
    check_splits,
    draw_splits,
    find_repeat,
    prompt_sha256,
    read_examples,
    read_rows,
    split_of,
    write_split,
)
from groupppo.tasks.tokenizer import byte_tokenizer, chat_ids


def prompts(task):
    return {split: [example.prompt for example in part] for split, part in draw_splits(task).items()}


def test_a_prompt_never_sits_in_two_splits(small_task):
    drawn = prompts(small_task)
    assert find_repeat(drawn) is None
    drawn["test"].append(drawn["train"][3])
    assert find_repeat(drawn) == (drawn["train"][3], "train", "test")


def test_the_size_of_one_split_moves_no_prompt_of_another(small_task):
    larger = replace(small_task, splits=small_task.splits | {"test": 60})
    before, after = prompts(small_task), prompts(larger)
    assert after["train"] == before["train"]
    assert after["test"][: len(before["test"])] == before["test"]


def test_another_seed_draws_other_prompts_but_keeps_each_in_its_split(small_task):
    first, second = prompts(small_task), prompts(replace(small_task, seed=6))
    assert first != second
    for split, others in [("train", ("dev", "test")), ("dev", ("train", "test"))]:
        for other in others:
            assert not set(first[split]) & set(second[other])


def test_the_split_of_known_prompts_is_part_of_the_task_version():
    assert [split_of(f"sort {number}") for number in range(1000, 1003)] == ["dev", "train", "train"]


def test_splits_get_their_shares_of_all_prompts():
    counts = dict.fromkeys(SHARES, 0)
    for number in range(5000):
        counts[split_of(f"sort {number}")] += 1
    for split, share in SHARES.items():
        assert abs(counts[split] / 50 - share) < 2


def test_too_few_distinct_prompts_is_an_error_that_names_the_split(small_task):
    with pytest.raises(BadInput, match="distinct prompts came") as error:
        draw_splits(replace(small_task, splits={"train": 200, "dev": 30, "test": 400}))
    assert (error.value.key, error.value.value) == ("splits.test", 400)
    assert error.value.file == str(small_task.source)


@pytest.fixture
def folder(small_task_folder, tmp_path):
    """A copy of the built task that a test may damage."""
    return shutil.copytree(small_task_folder, tmp_path / "task")


def test_rows_have_verls_columns_and_a_demonstration_that_earns_the_reward(small_task_folder):
    rows = read_rows(small_task_folder / "test.parquet")
    for index, row in enumerate(rows):
        assert list(row) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        (message,) = row["prompt"]
        assert message["role"] == "user"
        assert row["reward_model"]["style"] == "rule"
        assert score(row["extra_info"]["demonstration"], row["reward_model"]["ground_truth"]) == 1.0
        assert row["extra_info"]["prompt_sha256"] == prompt_sha256(message["content"])
        assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (index, "test")


def test_the_same_spec_gives_the_same_bytes_and_another_seed_gives_others(small_task, small_task_folder, tmp_path):
    build_task(small_task, tmp_path / "again")
    build_task(replace(small_task, seed=6), tmp_path / "other")
    assert sha256_folder(tmp_path / "again") == sha256_folder(small_task_folder)
    assert sha256_file(tmp_path / "other" / "train.parquet") != sha256_file(small_task_folder / "train.parquet")


def test_the_card_holds_counts_hashes_and_token_lengths(small_task, small_task_folder):
    card = json.loads((small_task_folder / "card.json").read_text())
    tokenizer = byte_tokenizer(64)
    for split, count in small_task.splits.items():
        described = card["splits"][split]
        examples = read_examples(small_task_folder / f"{split}.parquet")
        assert described["prompts"] == count == len(examples) == sum(described["sizes"].values())
        assert described["sha256"] == sha256_file(small_task_folder / f"{split}.parquet")
        assert described["prompt_tokens"]["max"] == max(len(chat_ids(tokenizer, item.prompt)) for item in examples)
        assert described["response_tokens"]["max"] == max(len(item.demonstration) + 1 for item in examples)
    assert card["spec"]["params"] == small_task.params
    assert "source" not in card["spec"]


@pytest.mark.parametrize(
    ("key", "longest"),
    [
        ("max_prompt_tokens", len("sort 123") + 2),
        ("max_response_tokens", len("1|23;2|3;3|#123") + 1),
    ],
)
def test_a_text_longer_than_the_task_allows_is_an_error_with_the_length_it_needs(small_task, tmp_path, key, longest):
    build_task(replace(small_task, **{key: longest}), tmp_path)
    with pytest.raises(BadInput, match=f"at least {longest}") as error:
        build_task(replace(small_task, **{key: longest - 1}), tmp_path)
    assert (error.value.key, error.value.value) == (key, longest - 1)


@pytest.mark.parametrize(("other", "where"), [("test", "twice in this split"), ("train", "in train.parquet as well")])
def test_a_repeated_prompt_is_an_error_within_a_split_and_across_two(folder, other, where):
    examples = read_examples(folder / "test.parquet")
    repeated = read_examples(folder / f"{other}.parquet")[0]
    write_split(folder / "test.parquet", "small", "test", [*examples, repeated])
    with pytest.raises(BadInput, match=where) as error:
        check_splits(folder)
    assert error.value.file == str(folder / "test.parquet")
    assert (error.value.key, error.value.value) == ("prompt", repeated.prompt)


def test_a_truncated_file_is_an_error(folder):
    path = folder / "dev.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="not a whole Parquet file") as error:
        check_splits(folder)
    assert error.value.file == str(path)


def test_a_missing_file_and_an_empty_split_are_errors(folder):
    write_split(folder / "dev.parquet", "small", "dev", [])
    with pytest.raises(BadInput) as error:
        check_splits(folder)
    assert (error.value.key, error.value.value) == ("rows", 0)
    (folder / "dev.parquet").unlink()
    with pytest.raises(BadInput, match="does not exist"):
        check_splits(folder)


@pytest.mark.parametrize("column", ["data_source", "prompt", "ability", "reward_model", "extra_info"])
def test_a_missing_column_is_an_error_that_names_it(folder, column):
    path = folder / "train.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(BadInput) as error:
        check_splits(folder)
    assert (error.value.file, error.value.key) == (str(path), f"column {column}")


@pytest.mark.parametrize(("column", "part"), [("reward_model", "ground_truth"), ("prompt", "content")])
def test_a_missing_part_of_a_column_is_an_error_that_names_it(folder, column, part):
    path = folder / "train.parquet"
    table = pq.read_table(path)
    rows = table.column(column).to_pylist()
    for row in rows:
        for item in row if isinstance(row, list) else [row]:
            del item[part]
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(rows)), path)
    with pytest.raises(BadInput) as error:
        check_splits(folder)
    assert error.value.key == f"column {column}.{part}"
