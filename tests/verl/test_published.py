"""Models as Qwen2.5 and Llama-3.2 are published, through the launcher on a CPU: templates, tokenizers, ends, shards."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from groupppo.config import Task
from groupppo.measure.provenance import provenance
from groupppo.models.hub import check_model_folder, hub_model
from groupppo.models.warmstart import start_as_published
from groupppo.run.launch import environment, train
from groupppo.tasks.rows import check_prompt_lengths
from tests.published import llama_3_2, qwen2_5
from tests.verl.conftest import MakeCell, rows

LLAMA = {"pad_token": "<|finetune_right_pad_id|>", "chat_template_set": {"date_string": "26 Jul 2024"}}


@pytest.mark.verl
@pytest.mark.parametrize(
    ("publish", "params", "arm", "rollout"),
    [(qwen2_5, {}, "group_ppo", "vllm"), (llama_3_2, LLAMA, "grpo", "transformers")],
)
def test_a_model_trains_as_it_is_published(
    make_cell: MakeCell,
    small_task: Task,
    small_task_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    publish: Callable[[Path], Path],
    params: dict[str, Any],
    arm: str,
    rollout: str,
) -> None:
    snapshot = publish(tmp_path / "snapshots" / "0123456789abcdef")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    hub_model(tmp_path / "model", seed=0, repo="of/theirs", revision="main", **params)
    task = replace(small_task, max_prompt_tokens=300, warmstart=None)
    lengths = start_as_published(task, tmp_path / "model", small_task_folder, tmp_path / "start")
    assert 50 < lengths["train"]["prompt_tokens"]["max"] <= 300

    cell = make_cell(arm, steps=2, rollout=rollout)
    given = {"repo": "of/theirs", "revision": "main"} | params
    cell = replace(cell, task=task, start=tmp_path / "start", model=replace(cell.model, factory="hub", params=given))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert environment(cell)["HF_HUB_OFFLINE"] == "1"
    train(cell)
    steps = rows(cell)
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        # A penalty or a cut distribution in the rollouts would part the two, as would another prompt.
        assert row["training/rollout_probs_diff_max"] < 1e-5
        assert row["prompt_length/max"] == check_prompt_lengths(task, small_task_folder, cell.start)
    check_model_folder(cell.out / "checkpoint", padded=True)
    start, trained = (AutoTokenizer.from_pretrained(folder) for folder in (cell.start, cell.out / "checkpoint"))
    chat = [{"role": "user", "content": "sort 12"}]
    texts = [each.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for each in (start, trained)]
    assert texts[0] == texts[1]
    assert (
        AutoConfig.from_pretrained(cell.out / "checkpoint").architectures
        == json.loads((snapshot / "config.json").read_text())["architectures"]
    )
    noted = json.loads((cell.out / "provenance.json").read_text())["inputs"]["chat_template_sha256"]
    again = provenance(
        device="cpu", config=cell.out / "config.yaml", task_folder=small_task_folder, start=cell.out / "checkpoint"
    )
    assert noted == again["inputs"]["chat_template_sha256"] is not None
