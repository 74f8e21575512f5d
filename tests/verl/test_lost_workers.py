"""A run whose worker is lost ends, though nothing would ever have told verl."""

import json
import os
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest

from groupppo.errors import RunFailed
from groupppo.verl import lost_workers
from groupppo.verl.launch import FAILED, train
from groupppo.verl.lost_workers import ended_with_a_lost_worker
from tests.verl.conftest import MakeCell
from tests.verl.test_interrupted import killed


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_workers, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(lost_workers, "_GRACE_SECONDS", 0.05)


def test_a_block_that_waits_for_ever_is_ended_and_what_was_lost_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    with ended_with_a_lost_worker(lambda: ["worker Rollout was lost"], ended.set):
        assert ended.wait(20)
    assert "\nRunFailed: worker Rollout was lost\n" in capsys.readouterr().err


def test_a_block_that_raises_by_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_workers, "_GRACE_SECONDS", 60.0)
    looked, ended = threading.Event(), threading.Event()

    def look() -> list[str]:
        looked.set()
        return ["worker Rollout was lost"]

    def block() -> None:
        with ended_with_a_lost_worker(look, ended.set):
            assert looked.wait(20)
            raise ValueError("its own error")

    with pytest.raises(ValueError, match="its own"):
        block()
    assert not ended.is_set()


def test_a_run_that_lost_nobody_goes_on() -> None:
    looks, ended = [], threading.Event()
    enough = threading.Event()

    def look() -> list[str]:
        looks.append(1)
        if len(looks) > 5:
            enough.set()
        return []

    with ended_with_a_lost_worker(look, ended.set):
        assert enough.wait(20)
    assert not ended.is_set()


RAY = """
    import json, os, signal, time
    import ray
    from groupppo.verl.lost_workers import lost_actors
    before = lost_actors()
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)

    @ray.remote
    class Worker:
        def pid(self): return os.getpid()

    kept, ended, killed = Worker.remote(), Worker.remote(), Worker.remote()
    pids = ray.get([actor.pid.remote() for actor in (kept, ended, killed)])
    ray.kill(ended)
    while len(ray._private.state.actors(actor_state_name="DEAD")) < 1: time.sleep(0.05)
    asked = lost_actors()
    os.kill(pids[2], signal.SIGKILL)
    while len(ray._private.state.actors(actor_state_name="DEAD")) < 2: time.sleep(0.05)
    print(json.dumps([before, asked, lost_actors(), pids[2]]))
"""


@pytest.mark.verl
def test_an_actor_whose_process_was_killed_is_lost_and_one_that_was_ended_is_not() -> None:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(RAY)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    before, asked, lost, pid = json.loads(done.stdout.splitlines()[-1])
    assert before == asked == []
    assert len(lost) == 1
    assert lost[0].startswith(f"worker Worker (process {pid}) was lost: ")


@pytest.mark.verl
def test_a_run_whose_vllm_engine_was_killed_ends_and_keeps_what_it_can_be_resumed_from(make_cell: MakeCell) -> None:
    """vLLM computes in a process of its own, whose end no actor's death tells. tests/verl/test_interrupted.py has the
    other server, and the attempts after it, which do not depend on the server."""
    before = set(psutil.Process().children(recursive=True))
    cell = make_cell("ppo", rollout="vllm", steps=20, checkpoint_every=1)
    with killed(cell, "VLLM::EngineCore", after=1), pytest.raises(RunFailed):
        train(cell)
    status = json.loads((cell.out / FAILED / "status.json").read_text())
    assert "EngineDeadError" in status["cause"]  # neither a limit on time nor an end by itself
    assert 1 <= status["steps"] < 20
    assert list(cell.out.glob("global_step_*/seal/seal.json"))
    assert {each for each in psutil.Process().children(recursive=True) if each.status() != "zombie"} <= before
