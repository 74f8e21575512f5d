"""The warm start stops at the target, leaves room, repeats exactly, and learns from the train split alone."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from groupppo.errors import BadInput, RunFailed
from groupppo.models import warmstart
from groupppo.models.hub import check_model_folder
from groupppo.models.warmstart import LOGS, WORTH_SAMPLING, warm_start
from groupppo.records.hashing import sha256_folder
from groupppo.tasks.base import Example


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def with_settings(task, **settings):
    return replace(task, warmstart=replace(task.warmstart, **settings))


@pytest.fixture(scope="module")
def finished(small_task, small_model_folder, small_task_folder, tmp_path_factory):
    """A finished warm start: its folder and last row."""
    out = tmp_path_factory.mktemp("start")
    return out, warm_start(small_task, small_model_folder, small_task_folder, out)


def test_it_stops_at_the_target_and_writes_a_whole_model(finished, small_task):
    out, last = finished
    check_model_folder(out)
    assert small_task.warmstart.target_accuracy <= last["sampled_accuracy"] <= small_task.warmstart.max_accuracy
    assert json.loads((out / "warmstart.json").read_text()) == {"task": "small"} | last


def test_every_evaluation_is_a_row_and_only_the_last_reached_the_target(finished, small_task):
    out, last = finished
    rows = [json.loads(line) for line in (out / "warmstart.jsonl").read_text().splitlines()]
    assert rows[-1] == last
    assert [row["step"] for row in rows] == list(range(20, last["step"] + 1, 20))
    for row in rows[:-1]:
        assert row["greedy_accuracy"] is None
        assert row["sampled_accuracy"] is None or row["sampled_accuracy"] < small_task.warmstart.target_accuracy
        worth = row["demonstration_probability"] >= WORTH_SAMPLING * small_task.warmstart.target_accuracy
        assert (row["sampled_accuracy"] is not None) == worth
    assert rows[0]["loss"] > rows[-1]["loss"]
    assert last["greedy_accuracy"] is not None


def test_the_same_seed_gives_the_same_folder_and_another_seed_gives_another(
    finished, small_task, small_model_folder, small_task_folder, tmp_path
):
    out, _ = finished
    warm_start(small_task, small_model_folder, small_task_folder, tmp_path / "again")
    warm_start(with_settings(small_task, seed=1), small_model_folder, small_task_folder, tmp_path / "other")
    assert sha256_folder(tmp_path / "again", exclude=LOGS) == sha256_folder(out, exclude=LOGS)
    assert sha256_folder(tmp_path / "other", exclude=LOGS) != sha256_folder(out, exclude=LOGS)


@pytest.mark.parametrize(("setting", "value"), [("max_steps", 3), ("max_accuracy", 0.1)])
def test_too_few_steps_and_too_good_a_model_are_failures_that_name_the_setting(
    small_task, small_model_folder, small_task_folder, tmp_path, setting, value
):
    task = with_settings(small_task, **{setting: value})
    with pytest.raises(RunFailed, match=f"{setting} {value}"):
        warm_start(task, small_model_folder, small_task_folder, tmp_path)
    rows = (tmp_path / "warmstart.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["sampled_accuracy"] is not None
    assert not (tmp_path / "model.safetensors").exists()


def test_a_dev_split_with_fewer_prompts_than_an_evaluation_needs_is_refused(
    small_task, small_model_folder, small_task_folder, tmp_path
):
    with pytest.raises(BadInput, match="at most 30") as error:
        warm_start(with_settings(small_task, eval_prompts=31), small_model_folder, small_task_folder, tmp_path)
    assert (error.value.key, error.value.value) == ("warmstart.eval_prompts", 31)


def test_it_never_opens_the_test_split(small_task, small_model_folder, small_task_folder, tmp_path):
    folder = shutil.copytree(small_task_folder, tmp_path / "task")
    (folder / "test.parquet").unlink()
    with pytest.raises(RunFailed):
        warm_start(with_settings(small_task, max_steps=1), small_model_folder, folder, tmp_path / "out")
    (folder / "dev.parquet").unlink()
    with pytest.raises(BadInput, match=r"dev\.parquet"):
        warm_start(with_settings(small_task, max_steps=1), small_model_folder, folder, tmp_path / "out")


def test_a_batch_has_labels_on_response_tokens_only(small_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(small_model_folder)
    examples = [Example("sort 2", "2|#2", "2", 1), Example("sort 21", "1|2;2|#12", "12", 2)]
    tokens, labels = next(warmstart._batches(tokenizer, examples, batch_size=2, seed=0))
    assert tokens.shape == labels.shape
    texts = {tokenizer.decode(row[row != warmstart.IGNORED]) for row in labels}
    assert texts == {"2|#2<|end|>", "1|2;2|#12<|end|>"}
    learned = labels != warmstart.IGNORED
    assert torch.equal(tokens[learned], labels[learned])
    assert {tokenizer.decode(row).replace("<|pad|>", "") for row in tokens} == {
        "<|user|>sort 2<|assistant|>2|#2<|end|>",
        "<|user|>sort 21<|assistant|>1|2;2|#12<|end|>",
    }


def test_one_pass_sees_every_example_once(small_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(small_model_folder)
    examples = [Example(f"sort {number}", f"#{number}", str(number), 1) for number in range(50)]
    batches = warmstart._batches(tokenizer, examples, batch_size=8, seed=0)
    seen = []
    while len(seen) < 50:
        seen += [tokenizer.decode(row[row != warmstart.IGNORED]) for row in next(batches)[1]]
    assert sorted(seen) == sorted(f"#{number}<|end|>" for number in range(50))
