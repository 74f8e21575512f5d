"""The processes of a run: the plug-in inside a Ray worker, and workers forked instead of started."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from ray._private.utils import update_envs

from groupppo.verl.forkserver import ADDRESS

LOOK = """
    import json, ray
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)

    @ray.remote
    def look():
        import groupppo.verl.engine
        from verl.plugin.platform import get_platform
        from verl.workers.engine.base import EngineRegistry
        from verl.workers.rollout.base import get_rollout_class
        engine = EngineRegistry.get_engine_cls("language_model", "fsdp2")
        return [get_platform().device_name, engine.__name__, get_rollout_class("transformers").__name__]

    print(json.dumps(ray.get(look.remote())))
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


@pytest.mark.verl
def test_platform_engine_and_rollout_are_registered_inside_a_ray_worker(tmp_path: Path) -> None:
    done = python(LOOK, GROUPPPO_PLATFORM="cpu", GROUPPPO_HIDDEN_PACKAGES="vllm")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ["cpu", "EndpointPolicyEngine", "TransformersAdapter"]


@pytest.mark.verl
def test_a_worker_whose_plugin_was_not_loaded_says_so_instead_of_training() -> None:
    """What a worker imports first; Ray is not needed to see it fail."""
    done = python("import groupppo.verl.engine", GROUPPPO_PLATFORM="cpu", VERL_USE_EXTERNAL_PLUGINS="none")
    assert done.returncode != 0
    assert "groupppo.verl.plugin was not loaded" in done.stderr


DRAWN = """
    import importlib, os
    from groupppo.verl import forkserver
    forkserver.load_ray()
    for module in forkserver.MODULES:
        importlib.import_module(module)
    import ray
    from ray._raylet import JobID, TaskID

    def drawn():
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, TaskID.for_fake_task(JobID.from_int(1)).binary())
            os._exit(0)
        os.wait()
        return os.read(reading, 100)

    fresh = len({drawn() for _ in range(3)})
    ray.ActorClassID.from_random()
    print(fresh, len({drawn() for _ in range(3)}))
"""


@pytest.mark.verl
def test_forked_workers_draw_ids_of_their_own() -> None:
    """Unlike forks of a process in which Ray's library has drawn one: two workers of equal ids end each other."""
    done = python(DRAWN, GROUPPPO_PLATFORM="cpu", GROUPPPO_HIDDEN_PACKAGES="vllm")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "3 1"


SERVER = """
    import sys, time
    from pathlib import Path
    from groupppo.verl import forkserver
    forkserver.MODULES = ()
    forkserver.load_ray()
    forkserver.start(Path(sys.argv[1]) / "fork.socket")
    print(forkserver.__file__, flush=True)
    sys.stdin.read()
"""

WORKER = """
    import os, sys, time
    print(os.environ["GREETING"], sys.argv[1:], os.getcwd(), "ray" in sys.modules, flush=True)
    if sys.argv[1] == "wait":
        time.sleep(60)
    sys.exit(int(sys.argv[1]))
"""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], ADDRESS: str(folder / "fork.socket"), "GREETING": "x"} | variables


class TestForkServer:
    @pytest.fixture
    def client(self, tmp_path: Path):
        """Command that stands for a Python interpreter; the server lives as long as the test."""
        command = [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path)]
        parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
        yield [sys.executable, parent.stdout.readline().strip(), str(tmp_path / "worker.py")]
        server = psutil.Process(parent.pid).children()[0]
        parent.stdin.close()
        parent.wait(timeout=10)
        assert not psutil.wait_procs([server], timeout=10)[1]  # it ends with its parent

    def test_a_forked_worker_has_the_callers_arguments_environment_folder_and_exit_code(
        self, client: list[str], tmp_path: Path
    ) -> None:
        variables = environment(tmp_path, GREETING="hello")
        done = subprocess.run([*client, "7", "a b"], env=variables, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 7
        assert done.stdout == f"hello ['7', 'a b'] {tmp_path} True\n"

    def test_the_runtime_environments_variables_are_set_as_ray_sets_them(
        self, client: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = {"GREETING": "${WHO} and ${NOBODY} at $WHERE"}
        monkeypatch.setenv("WHO", "you")
        monkeypatch.setenv("WHERE", "home")
        monkeypatch.delenv("GREETING", raising=False)
        update_envs(asked)
        by_ray = os.environ["GREETING"]
        assert by_ray == "you and  at home"
        context = ["--language=PYTHON", f"--serialized-runtime-env-context={json.dumps({'env_vars': asked})}"]
        variables = environment(tmp_path, WHO="you", WHERE="home")
        done = subprocess.run([*client, "0", *context, "--x=1"], env=variables, capture_output=True, text=True)
        assert done.stdout.startswith(f"{by_ray} ['0', '--x=1'] ")

    def test_a_worker_that_ray_wants_behind_another_command_is_refused(self, client: list[str], tmp_path: Path) -> None:
        context = f"--serialized-runtime-env-context={json.dumps({'command_prefix': ['cd', '/', '&&']})}"
        done = subprocess.run([*client, "0", context], env=environment(tmp_path), capture_output=True, text=True)
        assert done.returncode == 1
        assert "cannot run behind ['cd'" in done.stderr

    def test_workers_run_side_by_side(self, client: list[str], tmp_path: Path) -> None:
        variables = environment(tmp_path)
        started = [subprocess.Popen([*client, str(code)], env=variables, stdout=subprocess.PIPE) for code in range(5)]
        assert [process.wait(timeout=30) for process in started] == [0, 1, 2, 3, 4]
        for process in started:
            process.stdout.close()

    def test_a_worker_ends_with_the_process_that_its_server_was_forked_from(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path)]
        (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
            client = [sys.executable, parent.stdout.readline().strip(), str(tmp_path / "worker.py"), "wait"]
            with subprocess.Popen(client, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout.readline().startswith("x")
                ((worker,),) = [server.children() for server in psutil.Process(parent.pid).children()]
                parent.kill()
                assert process.wait(timeout=30) != 0
        gone = not psutil.wait_procs([worker], timeout=10)[1]
        assert gone or worker.status() == psutil.STATUS_ZOMBIE  # where nobody reaps orphans

    def test_ending_the_client_ends_its_worker(self, client: list[str], tmp_path: Path) -> None:
        process = subprocess.Popen([*client, "wait"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline().startswith("x")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 30
        process.stdout.close()
