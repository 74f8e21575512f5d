"""Weights reach the vLLM server of the same run and no other's, though each run is the first job of its own Ray."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.verl
JOB = "01000000"  # of the first job of any Ray


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """What is imported with vLLM silences the loggers of other tests."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where a run's sender and receiver meet, ours and verl's, for a run with a folder."""
    import groupppo.verl.cpu  # noqa: F401, I001  answers for the version of vLLM

    from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

    from groupppo.verl.vllm_rollout import Adapter, WorkerExtension

    stock = f"ipc:///tmp/rl-colocate-zmq-{JOB}-replica-0-rank-0.sock"  # vllm_rollout.py:141
    monkeypatch.setattr(ServerAdapter, "__init__", lambda self: setattr(self, "zmq_handle", stock))
    monkeypatch.setenv("VERL_RAY_JOB_ID", JOB)

    def of(folder: Path) -> tuple[str, str, str]:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        worker: Any = object.__new__(WorkerExtension)
        worker.local_rank, worker.model_runner = 0, SimpleNamespace(vllm_config=None)
        receiver = worker._get_zmq_handle()
        return Adapter().zmq_handle, receiver, super(WorkerExtension, worker)._get_zmq_handle()

    return of


def test_both_sides_meet_in_the_runs_own_folder(sides: Any, tmp_path: Path) -> None:
    sender, receiver, _ = sides(tmp_path)
    assert sender == receiver
    assert Path(sender.removeprefix("ipc://")).parent == tmp_path


def test_two_runs_on_one_machine_have_two_sockets_where_verl_has_one(sides: Any, tmp_path: Path) -> None:
    first, second = sides(tmp_path / "first"), sides(tmp_path / "second")
    assert first[0] != second[0]
    assert first[2] == second[2]  # verl's own, which this is for


@pytest.mark.parametrize(("platform", "name"), [("cpu", "CPUWorkerExtension"), ("", "WorkerExtension")])
def test_vllms_linear_layers_are_changed_on_a_cpu_alone(
    sides: Any, monkeypatch: pytest.MonkeyPatch, platform: str, name: str
) -> None:
    from groupppo.verl.vllm_rollout import Server

    monkeypatch.setenv("GROUPPPO_PLATFORM", platform)
    assert Server._get_worker_extension_cls(None).rpartition(".")[2] == name
