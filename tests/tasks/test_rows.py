"""Splits, by the text of a prompt alone; a task folder: its rows, its card, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groupppo.config import Task
from groupppo.errors import BadInput
from groupppo.records.hashing import sha256_file, sha256_folder
from groupppo.tasks.build import build_task, draw_splits
from groupppo.tasks.reward import score
from groupppo.tasks.rows import SHARES, check_splits, prompt_sha256, read_examples, split_of, write_split
from groupppo.tasks.tokenizer import byte_tokenizer, chat_ids


def prompts(task: Task) -> dict[str, list[str]]:
    return {split: [example.prompt for example in part] for split, part in draw_splits(task).items()}


def test_the_size_of_one_split_moves_no_prompt_of_another(small_task: Task) -> None:
    before, after = prompts(small_task), prompts(replace(small_task, splits=small_task.splits | {"test": 60}))
    assert after["train"] == before["train"]
    assert after["test"][: len(before["test"])] == before["test"]


def test_another_seed_draws_other_prompts_but_keeps_each_in_its_split(small_task: Task) -> None:
    first, second = prompts(small_task), prompts(replace(small_task, seed=6))
    assert first != second
    for drawn in (first, second):
        assert all(split_of(prompt) == split for split, part in drawn.items() for prompt in part)
    assert [split_of(f"sort {number}") for number in range(1000, 1003)] == ["dev", "train", "train"]  # of the version


def test_splits_get_their_shares_of_all_prompts() -> None:
    splits = [split_of(f"sort {number}") for number in range(5000)]
    for split, share in SHARES.items():
        assert abs(splits.count(split) / 50 - share) < 2


def test_too_few_distinct_prompts_is_an_error_that_names_the_split(small_task: Task) -> None:
    with pytest.raises(BadInput, match="distinct prompts came") as error:
        draw_splits(replace(small_task, splits={"train": 200, "dev": 30, "test": 400}))
    assert (error.value.file, error.value.key) == (str(small_task.source), "splits.test")


@pytest.fixture
def folder(small_task_folder: Path, tmp_path: Path) -> Path:
    """A copy of the built task that a test may damage."""
    return shutil.copytree(small_task_folder, tmp_path / "task")


def test_rows_have_verls_columns_and_a_demonstration_that_earns_the_reward(small_task_folder: Path) -> None:
    for index, row in enumerate(pq.read_table(small_task_folder / "test.parquet").to_pylist()):
        assert list(row) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        (message,) = row["prompt"]
        assert message["role"] == "user"
        assert row["reward_model"]["style"] == "rule"
        assert score(row["extra_info"]["demonstration"], row["reward_model"]["ground_truth"]) == 1.0
        assert row["extra_info"]["prompt_sha256"] == prompt_sha256(message["content"])
        assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (index, "test")


def test_the_same_spec_gives_the_same_bytes_and_another_seed_gives_others(
    small_task: Task, small_task_folder: Path, tmp_path: Path
) -> None:
    build_task(small_task, tmp_path / "again")
    build_task(replace(small_task, seed=6), tmp_path / "other")
    assert sha256_folder(tmp_path / "again") == sha256_folder(small_task_folder)
    assert sha256_file(tmp_path / "other" / "train.parquet") != sha256_file(small_task_folder / "train.parquet")


def test_the_card_holds_counts_hashes_and_token_lengths(small_task: Task, small_task_folder: Path) -> None:
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
    [("max_prompt_tokens", len("sort 123") + 2), ("max_response_tokens", len("1|23;2|3;3|#123") + 1)],
)
def test_a_text_longer_than_the_task_allows_is_an_error_with_the_length_it_needs(
    small_task: Task, tmp_path: Path, key: str, longest: int
) -> None:
    build_task(replace(small_task, **{key: longest}), tmp_path)
    with pytest.raises(BadInput, match=f"at least {longest}") as error:
        build_task(replace(small_task, **{key: longest - 1}), tmp_path)
    assert (error.value.key, error.value.value) == (key, longest - 1)


@pytest.mark.parametrize(("other", "where"), [("test", "twice in this split"), ("train", "in train.parquet as well")])
def test_a_repeated_prompt_is_an_error_within_a_split_and_across_two(folder: Path, other: str, where: str) -> None:
    check_splits(folder)
    examples = read_examples(folder / "test.parquet")
    repeated = read_examples(folder / f"{other}.parquet")[0]
    write_split(folder / "test.parquet", "small", "test", [*examples, repeated])
    with pytest.raises(BadInput, match=where) as error:
        check_splits(folder)
    assert error.value.file == str(folder / "test.parquet")
    assert (error.value.key, error.value.value) == ("prompt", repeated.prompt)


@pytest.mark.parametrize(
    ("damage", "key", "hint"),
    [
        ("truncated", "file", "not a whole Parquet file"),
        ("gone", "file", "does not exist"),
        ("empty", "rows", "a split needs prompts"),
        ("prompt", "column prompt", "it has to be list"),
        ("extra_info", "column extra_info", "it has to be struct"),
        ("ground_truth", "column reward_model", "it has to be struct"),
    ],
)
def test_a_damaged_split_is_an_error_that_names_the_file_and_what_is_wrong(
    folder: Path, damage: str, key: str, hint: str
) -> None:
    path = folder / "dev.parquet"
    table = pq.read_table(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "gone":
        path.unlink()
    elif damage == "empty":
        pq.write_table(table.slice(0, 0), path)
    elif damage == "ground_truth":
        column = pa.array([{"style": "rule"}] * table.num_rows)
        pq.write_table(table.set_column(table.schema.get_field_index("reward_model"), "reward_model", column), path)
    else:
        pq.write_table(table.drop_columns([damage]), path)
    with pytest.raises(BadInput, match=hint) as error:
        check_splits(folder)
    assert (error.value.file, error.value.key) == (str(path), key)
