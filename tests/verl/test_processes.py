"""The processes of a run: the platform that they must have, and workers forked instead of started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ray._private.utils import update_envs
from verl.plugin.platform import get_platform

from groupppo.verl import PLATFORM, require_platform
from groupppo.verl.forkserver import ADDRESS


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def test_a_process_whose_plugin_was_not_loaded_says_so_instead_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLATFORM, get_platform().device_name)
    require_platform()
    monkeypatch.setenv(PLATFORM, "another")
    with pytest.raises(RuntimeError, match=r"groupppo\.verl\.plugin was not loaded"):
        require_platform()


DRAWN = """
    import os
    from groupppo.verl import forkserver
    forkserver.load_ray()
    import ray
    from ray._raylet import JobID, TaskID

    @ray.remote
    class Actor: ...

    def drawn():
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, TaskID.for_fake_task(JobID.from_int(1)).binary())
            os._exit(0)
        os.wait()
        return os.read(reading, 100)

    fresh = len({drawn() for _ in range(3)})
    ray.ActorClassID.from_random()   # as `@ray.remote` does without the patch
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


Client = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Starts workers by a server that lives as long as the tests here."""
    folder = tmp_path_factory.mktemp("fork")
    with server(folder) as (parent, client):
        yield client
        child = psutil.Process(parent.pid).children()[0]
        parent.stdin.close()
        parent.wait(timeout=10)
        assert not psutil.wait_procs([child], timeout=10)[1]  # it ends with its parent


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The process that the server is forked from, and what starts a worker in a folder with variables."""
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(folder)]
    (folder / "worker.py").write_text(textwrap.dedent(WORKER))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        script = parent.stdout.readline().strip()

        def start(*arguments: str, cwd: Path = folder, **variables: str) -> subprocess.Popen[str]:
            environment = {"PATH": os.environ["PATH"], ADDRESS: str(folder / "fork.socket"), "GREETING": "x"}
            command = [sys.executable, script, str(folder / "worker.py"), *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return subprocess.Popen(command, env=environment | variables, cwd=cwd, text=True, **pipes)

        yield parent, start


def test_a_forked_worker_has_the_callers_arguments_environment_folder_and_exit_code(
    client: Client, tmp_path: Path
) -> None:
    with client("7", "a b", cwd=tmp_path, GREETING="hello") as process:
        assert process.communicate()[0] == f"hello ['7', 'a b'] {tmp_path} True\n"
        assert process.returncode == 7


def test_the_runtime_environments_variables_are_set_as_ray_sets_them(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"GREETING": "${WHO} and ${NOBODY} at $WHERE"}
    monkeypatch.setenv("WHO", "you")
    monkeypatch.setenv("WHERE", "home")
    monkeypatch.delenv("GREETING", raising=False)
    update_envs(asked)
    by_ray = os.environ["GREETING"]
    assert by_ray == "you and  at home"
    context = ["--language=PYTHON", f"--serialized-runtime-env-context={json.dumps({'env_vars': asked})}"]
    with client("0", *context, "--x=1", WHO="you", WHERE="home") as process:
        assert process.communicate()[0].startswith(f"{by_ray} ['0', '--x=1'] ")


def test_a_worker_that_ray_wants_behind_another_command_is_refused(client: Client) -> None:
    context = json.dumps({"command_prefix": ["cd", "/", "&&"]})
    with client("0", f"--serialized-runtime-env-context={context}") as process:
        assert "cannot run behind ['cd'" in process.communicate()[1]
        assert process.returncode == 1


def test_workers_run_side_by_side_and_one_ends_with_its_client(client: Client) -> None:
    started = [client("wait"), *(client(str(code)) for code in range(3))]
    assert started[0].stdout.readline().startswith("x")
    for code, process in enumerate(started[1:]):
        process.communicate(timeout=30)
        assert process.returncode == code
    started[0].send_signal(signal.SIGTERM)
    started[0].communicate(timeout=30)
    assert started[0].returncode == 128 + signal.SIGTERM


def test_a_worker_ends_with_the_process_that_its_server_was_forked_from(tmp_path: Path) -> None:
    with server(tmp_path) as (parent, start), start("wait") as process:
        assert process.stdout.readline().startswith("x")
        ((worker,),) = [server.children() for server in psutil.Process(parent.pid).children()]
        parent.kill()
        assert process.wait(timeout=30) != 0
    gone = not psutil.wait_procs([worker], timeout=10)[1]
    assert gone or worker.status() == psutil.STATUS_ZOMBIE  # where nobody reaps orphans
