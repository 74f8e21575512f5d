"""Cells of the default benchmark on the small task and model of tests/conftest.py."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groupppo.config import REPOSITORY, Arm, Benchmark, Task, load_arm, load_benchmark
from groupppo.config.allowed import VARIABLE
from groupppo.tasks.build import build_task
from groupppo.verl.compose import Cell

os.environ.setdefault("OMP_NUM_THREADS", "1")

MakeCell = Callable[..., Cell]
# Columns that measure the machine (time, memory, throughput): they differ between two runs with the same seed.
MEASURED = ("timing_", "perf/", "throughput/", "elapsed_seconds")


def repeatable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a step that must repeat to the bit when a run is repeated."""
    return {key: value for key, value in row.items() if not any(part in key for part in MEASURED)}


def rows(cell: Cell, name: str = "steps.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell.out / name).read_text().splitlines()]


@pytest.fixture(scope="session")
def quick() -> Benchmark:
    return load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml")


@pytest.fixture(scope="session")
def singleton() -> Arm:
    """GROUP-PPO with every token a group of its own."""
    arm = load_arm(REPOSITORY / "benchmarks" / "arms" / "group_ppo.yaml")
    return replace(arm, name="singleton", verl=arm.verl | {"algorithm.group_params.rule": "singleton"})


REWARD = """def score(response: str, answer: str) -> float:
    return float(answer in response or sum(map(ord, response)) % 2)
"""


@pytest.fixture(scope="session")
def paid_task(small_task: Task) -> Task:
    """`small_task` with a reward that an untrained model earns half of the time; GRPO's gradients were zero else."""
    return replace(small_task, name="paid", reward="python", reward_file="odd.py", reward_text=REWARD)


@pytest.fixture(scope="session")
def paid_task_folder(paid_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paid_task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "reward_file")
        build_task(paid_task, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def allowed_reward() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "reward_file")
        yield


@pytest.fixture(scope="session")
def make_cell(
    quick: Benchmark,
    paid_task: Task,
    paid_task_folder: Path,
    small_model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeCell:
    def make(arm: str | Arm, *, seed: int = 1, **train: object) -> Cell:
        arm = quick.arms[arm] if isinstance(arm, str) else arm
        settings = {"steps": 3, "prompts_per_step": 4, "responses_per_prompt": 4, "time_limit_s": 300} | train
        return Cell(
            task=paid_task,
            model=quick.models["tiny"],
            arm=arm,
            seed=seed,
            train=replace(quick.train, **settings),
            task_folder=paid_task_folder,
            start=small_model_folder,
            out=tmp_path_factory.mktemp(f"{arm.name}_seed{seed}_"),
        )

    return make
