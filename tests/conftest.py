"""Shared fixtures: a task and a model small enough for every test to use, and the order of the tests."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from groupppo.config import REPOSITORY, Task, WarmStart
from groupppo.run.environment import for_job

# Tests that start Ray themselves do so as a job would; those of GPUs bring their own.
for name in (
    os.environ.keys() - for_job({key: value for key, value in os.environ.items() if "_VISIBLE_" not in key}).keys()
):
    del os.environ[name]

# No test asserts a time, which on a busy machine says nothing.
settings.register_profile("patient", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=10)  # make check
settings.load_profile("patient")

# Folders of tests that start other processes, the longest highest.
LENGTH = {"cluster": 2, "verl": 1, "run": 1, "workflow": 1, "profile": 1}
# Folders that one worker takes whole: two clusters would be twice the load at once, two smoke profiles twice the work.
WHOLE = ("cluster", "profile")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first, so that no worker is left with minutes of work when the others are done."""
    items.sort(key=_length, reverse=True)


def _length(item: pytest.Item) -> int:
    return LENGTH.get(item.path.parent.name, int(item.get_closest_marker("verl") is not None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes a file at a time, or one of the folders that are taken whole."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = Path(nodeid.partition("::")[0]).parent.name
            return folder if folder in WHOLE else super()._split_scope(nodeid)

    return Scheduling(config, log)


def shared_cache(folder: Path, benchmark: str = "benchmarks/quick.yaml") -> str:
    """One cache folder for all tests of a session, in which a benchmark without faults is noted as found good.

    It is checked in this process, which spares the plan one that loads verl; a plan checks one with faults itself.
    """
    from groupppo.cli.check import check, note_of_no_faults
    from groupppo.config import load_benchmark
    from groupppo.errors import BadInput

    cache = next(place for place in folder.parents if place.name.startswith("pytest-")) / "cache"
    with contextlib.suppress(BadInput):  # the plan's to say
        good = note_of_no_faults(load_benchmark(folder / benchmark), cache)
        if not good.is_file() and not check(folder / benchmark):
            good.parent.mkdir(parents=True, exist_ok=True)
            good.touch()
    return str(cache)


@pytest.fixture(scope="session")
def small_task() -> Task:
    """Sorting one to three digits: 1,110 possible prompts, responses of at most 16 tokens."""
    return Task(
        name="small",
        title="Sort up to three digits",
        version="1.0",
        generator="sorting",
        params={"min_length": 1, "max_length": 3},
        splits={"train": 200, "dev": 30, "test": 40},
        seed=5,
        max_prompt_tokens=10,
        max_response_tokens=16,
        warmstart=WarmStart(
            target_accuracy=0.2,
            max_accuracy=0.9,
            max_steps=2000,
            batch_size=16,
            learning_rate=5e-3,
            seed=0,
            eval_every=20,
            eval_prompts=30,
        ),
        source=REPOSITORY / "benchmarks" / "tasks" / "small.yaml",
    )


@pytest.fixture(scope="session")
def small_task_folder(small_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built splits of `small_task`; copy before changing."""
    from groupppo.tasks.build import build_task

    folder = tmp_path_factory.mktemp("task")
    build_task(small_task, folder)
    return folder


@pytest.fixture(scope="session")
def small_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of 32 channels and one layer with random weights; copy before changing."""
    from groupppo.models.tiny import tiny_qwen2

    folder = tmp_path_factory.mktemp("model")
    tiny_qwen2(
        folder,
        hidden_size=32,
        layers=1,
        attention_heads=1,
        key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=64,
        seed=0,
    )
    return folder
