"""The files of docs/howto/own.md, end to end on the CPU: own data, own model folder, own reward."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import load_benchmark
from groupppo.config.allowed import VARIABLE
from groupppo.errors import BadInput
from groupppo.evaluate import evaluate
from groupppo.models import build_model
from groupppo.models.warmstart import start_as_published
from groupppo.run.launch import train
from groupppo.tasks.build import build_task
from groupppo.tasks.reward import scorer
from groupppo.verl.compose import Cell
from tests.docs.pages import DOCS, steps, write
from tests.verl.conftest import rows

pytestmark = pytest.mark.verl


def test_own_data_own_model_and_own_reward_train_and_are_evaluated(
    tmp_path: Path, small_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "reward_file")
    home, built = tmp_path / "project", tmp_path / "built"
    home.mkdir()
    for step in steps(DOCS / "howto" / "own.md"):
        if step.path is not None:
            write(home, step.path, step.text)
        elif "digits.jsonl" in step.text:
            subprocess.run(["bash", "-e", "-c", step.text], cwd=home, check=True)
    (home / "benchmarks" / "models" / "ours").symlink_to(small_model_folder)
    monkeypatch.setattr("groupppo.models.REPOSITORY", small_model_folder)
    write(home, "benchmarks/claims/group_ppo.yaml", "")
    for arm in ("ppo", "group_ppo"):
        text = (DOCS.parent / "benchmarks" / "arms" / f"{arm}.yaml").read_text()
        write(home, f"benchmarks/arms/{arm}.yaml", text)
    benchmark = load_benchmark(home / "benchmarks" / "own.yaml")
    task, model = replace(benchmark.tasks["digits"], max_prompt_tokens=40), benchmark.models["ours"]
    build_task(task, built / "task")
    build_model(model, built / "model")
    start_as_published(task, built / "model", built / "task", built / "start")

    settings = replace(benchmark.train, steps=2)
    arm = benchmark.arms["group_ppo"]
    cell = Cell(task, model, arm, 1, settings, built / "task", built / "start", tmp_path / "run")
    train(cell)
    status = json.loads((cell.out / "status.json").read_text())
    assert (status["status"], status["steps"]) == ("finished", 2)
    earned = [row["reward/mean"] for row in rows(cell)]
    assert 0 < sum(earned) < 2  # the last digit is right by chance

    judged = []
    cells = {"model": model.name, "arm": arm.name, "training_seed": 1, "temperature": 1.0, "published": True}
    result = evaluate(cell.out / "checkpoint", task, built / "task", tmp_path / "eval", benchmark.evaluation, **cells)
    for file in (tmp_path / "eval").glob("samples_digits_sampled_*.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            judged += [scorer(task)(text, row["doc"]["answer"]) for text in row["resps"][0]]
    assert result["metrics"]["mean@4"]["value"] == pytest.approx(sum(judged) / len(judged))
    assert 0 < sum(judged) < len(judged)

    monkeypatch.delenv(VARIABLE)
    for run in (
        lambda: train(replace(cell, out=tmp_path / "again")),
        lambda: evaluate(built / "start", task, built / "task", tmp_path / "eval", benchmark.evaluation, **cells),
    ):
        with pytest.raises(BadInput, match="reward_file"):
            run()
