"""A run whose worker is lost ends, though verl would wait for ever; processes that hang write their stacks."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from groupppo.run.family import ask
from groupppo.verl import endings
from groupppo.verl.endings import DID_NOT_START, STACKS, ends_with_a_lost_worker, exits_unless_started


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(endings, "_GRACE_SECONDS", 0.05)


def test_a_block_that_waits_for_ever_is_ended_and_what_was_lost_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    with ends_with_a_lost_worker(lambda: ["worker Rollout was lost"], ended.set):
        assert ended.wait(20)
    assert "\nRunFailed: worker Rollout was lost\n" in capsys.readouterr().err


def test_a_block_that_raises_by_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_GRACE_SECONDS", 60.0)
    looked, ended = threading.Event(), threading.Event()

    def look() -> list[str]:
        looked.set()
        return ["worker Rollout was lost"]

    def block() -> None:
        with ends_with_a_lost_worker(look, ended.set):
            assert looked.wait(20)
            raise ValueError("its own error")

    with pytest.raises(ValueError, match="its own"):
        block()
    assert not ended.is_set()


def test_a_run_that_lost_nobody_goes_on() -> None:
    looks, enough, ended = iter(range(6)), threading.Event(), threading.Event()

    def look() -> list[str]:
        if next(looks, None) is None:
            enough.set()
        return []

    with ends_with_a_lost_worker(look, ended.set):
        assert enough.wait(20)
    assert not ended.is_set()


RAY = """
    import json, os, signal, time
    import ray
    from groupppo.verl import endings
    from groupppo.verl.endings import dead_engines, lost_actors, watch_engines
    endings._ANSWER_SECONDS = 2.0
    before = lost_actors() + dead_engines()
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)

    @ray.remote
    class Worker:
        def pid(self): return os.getpid()
        def engine_died(self, answer=False):
            if answer is None: time.sleep(60)
            return self.died
        def set(self, died): self.died = died

    kept, ended, killed, ill = (Worker.remote() for _ in range(4))
    pids = ray.get([actor.pid.remote() for actor in (kept, ended, killed)])
    ray.kill(ended)
    while len(ray._private.state.actors(actor_state_name="DEAD")) < 1: time.sleep(0.05)
    asked = lost_actors()
    os.kill(pids[2], signal.SIGKILL)
    while len(ray._private.state.actors(actor_state_name="DEAD")) < 2: time.sleep(0.05)
    ray.get([kept.set.remote(False), ill.set.remote(True)])
    watch_engines({"well": kept, "ill": ill, "gone": killed})
    dead = dead_engines()
    ill.engine_died.remote(None)   # busy from now on
    print(json.dumps([before, asked, lost_actors(), pids[2], dead, dead_engines()]))
"""


@pytest.mark.verl
def test_an_actor_that_was_killed_is_lost_and_one_that_was_ended_is_not_and_an_engine_is_dead_if_it_is_said() -> None:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(RAY)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    before, asked, lost, pid, dead, busy = json.loads(done.stdout.splitlines()[-1])
    assert before == asked == []
    assert len(lost) == 1
    assert lost[0].startswith(f"worker Worker (process {pid}) was lost: ")
    # What vLLM says of its engine, and that a run ends with it, is in tests/cluster/test_slurm_vllm.py.
    assert dead == ["the engine of the vLLM server at ill has died"]
    assert busy == []


# ---- stacks

WAITS = """
    import os, time
    from groupppo.verl.endings import answer
    answer()
    os.fork()
    def wait_for_godot():
        os.write(1, b"here\\n")
        time.sleep(60)
    wait_for_godot()
"""


def test_a_process_and_its_fork_write_their_stacks_and_go_on(tmp_path: Path) -> None:
    file = tmp_path / "stacks.txt"
    command = [sys.executable, "-c", textwrap.dedent(WAITS)]
    with subprocess.Popen(command, env=os.environ | {STACKS: str(file)}, stdout=subprocess.PIPE) as process:
        here = [process.stdout.readline() for _ in range(2)]
        members = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        ask(file, members)
        waiting = [member.status() for member in members]
        for member in members:
            member.kill()
    assert here == [b"here\n"] * 2
    assert waiting == ["sleeping"] * 2
    text = file.read_text()
    assert text.count(" in wait_for_godot") == len(members) == 2
    assert all(f"==== process {member.pid}: " in text for member in members)


def test_a_process_that_cannot_answer_is_not_sent_a_signal_that_would_end_it(tmp_path: Path) -> None:
    file = tmp_path / "stacks.txt"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        ask(file, [psutil.Process(process.pid)])
        ended = process.poll()
        process.kill()
    assert ended is None
    assert not file.exists()


# ---- a Ray that does not start


@pytest.mark.parametrize(
    ("error", "up", "code"),
    [
        (Exception("The current node timed out during startup."), False, DID_NOT_START),
        (RuntimeError("Timed out waiting for file"), False, DID_NOT_START),
        (Exception("The rollout timed out."), True, None),
        (ValueError("no such key"), False, None),
    ],
)
def test_only_a_ray_that_did_not_start_in_time_is_told_by_the_exit_code(error, up, code) -> None:
    with pytest.raises(type(error) if code is None else SystemExit) as caught, exits_unless_started(lambda: up):
        raise error
    assert code is None or caught.value.code == code
