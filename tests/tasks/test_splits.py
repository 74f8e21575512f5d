"""Splits: exact counts, no prompt in two of them, and a place that depends on the prompt alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.tasks.rows import SHARES, draw_splits, find_repeat, split_of


def prompts(task):
    return {split: [example.prompt for example in part] for split, part in draw_splits(task).items()}


def test_each_split_has_exactly_the_number_asked_of_distinct_prompts(small_task):
    drawn = prompts(small_task)
    assert {split: len(set(texts)) for split, texts in drawn.items()} == small_task.splits


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


@given(st.text())
def test_the_split_of_a_prompt_never_changes(prompt):
    assert split_of(prompt) in SHARES
    assert split_of(prompt) == split_of(prompt)


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
