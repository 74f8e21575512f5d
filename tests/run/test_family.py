"""The processes of a run are found and ended, also by the next one where the launcher itself was killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from groupppo.errors import BadInput
from groupppo.run import family
from groupppo.run.family import MARK, SharedMemory, alone, end, marked, scratch, started_with
from groupppo.run.ray_cluster import with_secret
from tests.verl.knock import NOBODY, as_nobody

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def until(condition, seconds: float = 20.0) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(family.tempfile, "tempdir", str(tmp_path))
    return tmp_path


LAUNCHER = """
    import os, subprocess, sys, tempfile
    tempfile.tempdir = sys.argv[1]
    from groupppo.run.family import marked, scratch
    with scratch() as folder:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ | marked(folder))
        print(folder, flush=True)
        sys.stdin.read()
"""


def test_what_a_killed_launcher_left_goes_when_the_next_run_starts_and_a_living_ones_stays(temporary: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LAUNCHER), str(temporary)]
    launchers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    killed, living = (Path(launcher.stdout.readline().strip()) for launcher in launchers)
    launchers[0].kill()
    launchers[0].wait()
    assert len(started_with(killed)) == 1
    with scratch() as own:
        assert not killed.exists()
        assert not started_with(killed)
        assert living.exists()
        assert len(started_with(living)) == 1
        assert own.is_dir()
    assert not own.exists()
    end(started_with(living))
    for launcher in launchers:
        launcher.communicate()


@pytest.mark.parametrize(("host", "stays"), [(socket.gethostname(), False), ("elsewhere", True)])
def test_another_machines_folder_stays_though_its_lock_is_not_seen(temporary: Path, host: str, stays: bool) -> None:
    folder = temporary / "gppo_aaaaaaaa"
    folder.mkdir(mode=0o700)
    (folder / "host").write_text(host)
    with scratch():
        assert folder.exists() == stays


# A process's number may have two digits more than those of a small machine, on which 27 characters do.
@pytest.mark.parametrize(("characters", "used"), [(25, True), (26, False), (90, False)])
def test_the_folder_of_a_run_is_in_tmpdir_if_rays_sockets_have_room_there(
    monkeypatch: pytest.MonkeyPatch, characters: int, used: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as place:
        given = Path(place, "y" * (characters - len(place) - 1))
        given.mkdir()
        monkeypatch.setattr(family.tempfile, "tempdir", str(given))
        with scratch() as folder:
            assert folder.parent == (given if used else Path("/tmp"))
            with socket.socket(socket.AF_UNIX) as listener:
                place = folder / family._SOCKET
                place.parent.mkdir(parents=True)
                listener.bind(str(place))
        assert not folder.exists()
        assert not list(given.iterdir())


def test_a_folder_that_knows_no_sockets_or_cannot_be_written_is_passed_over_and_none_at_all_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(family.tempfile, "tempdir", str(tmp_path / "file"))
    with scratch() as folder:
        assert folder.parent == Path("/tmp")
    monkeypatch.setattr(family, "_SHORT", (str(tmp_path / "file"),))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"TMPDIR = .*\n.* at most 25 characters"), scratch():
        pass


def test_one_process_at_a_time_trains_in_a_folder_and_one_whose_holder_was_killed_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = f"""
        import sys
        from pathlib import Path
        from groupppo.run.family import alone
        with alone(Path({str(folder)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    other = [sys.executable, "-c", textwrap.dedent(code)]
    with alone(folder):
        done = subprocess.run(other, capture_output=True, text=True)
        assert done.returncode != 0
        assert f"process {os.getpid()} on {os.uname().nodename} trains this cell" in done.stderr
    assert not list(folder.iterdir())
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        with pytest.raises(BadInput, match="trains this cell"), alone(folder):
            pass
        holder.kill()
        holder.wait()
    assert (folder / ".lock").exists()
    with alone(folder):
        pass
    assert not (folder / ".lock").exists()


# Starts a process without its environment, which starts another.
BARE = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.run({sleep!r})"], env={})
"""


def test_a_process_its_descendants_and_those_that_carry_its_mark_are_one_family(tmp_path: Path) -> None:
    grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    mark = marked(tmp_path)
    root = subprocess.Popen([sys.executable, "-c", grandchild])
    stranger = subprocess.Popen([*SLEEP, str(tmp_path)], env=os.environ | {MARK: mark[MARK][:-1]})
    far = subprocess.Popen(SLEEP, env=os.environ | mark)
    bare = subprocess.Popen([sys.executable, "-c", BARE], env=os.environ | mark)
    try:
        assert until(lambda: len(family.family(root, tmp_path)) == 6)
        members = family.family(root, tmp_path)
        assert {root.pid, far.pid} < {member.pid for member in members}
        end(members)
        assert not [member for member in members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]
        assert root.poll() is not None
        assert far.poll() == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (root, stranger, far, bare):
            process.kill()
            process.wait()


def test_what_a_family_started_while_it_was_looked_for_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late, stranger = (subprocess.Popen(SLEEP) for _ in range(3))
    looks = [[psutil.Process(first.pid)], [psutil.Process(late.pid)], []]
    monkeypatch.setattr(family, "family", lambda root, folder: looks.pop(0))
    try:
        family.end_all(tmp_path)
        assert (first.poll(), late.poll(), stranger.poll(), looks) == (-signal.SIGKILL, -signal.SIGKILL, None, [])
    finally:
        for process in (first, late, stranger):
            process.kill()
            process.wait()


TITLED = """
    import ctypes, sys, time
    file = open(sys.argv[1], "w")
    sys.argv.clear()
    ctypes.CDLL(None).prctl(15, b"ray::Agent")   # PR_SET_NAME
    print("ready", flush=True)
    time.sleep(60)
"""


def test_workers_that_wrote_over_their_environment_are_known_by_their_logs_and_other_readers_are_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    marked(tmp_path / "run")
    # The command lines must not name the folder: it is reached by another name, as by Ray's session_latest.
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    plain = TITLED.replace("ray::", "less")
    agent, reader = (
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), f"{tmp_path}/latest/{name}.log"], stdout=subprocess.PIPE
        )
        for name, code in (("agent", TITLED), ("reader", plain))
    )
    try:
        for process in (agent, reader):
            assert process.stdout.readline() == b"ready\n"
        assert {process.pid for process in started_with(tmp_path / "run")} == {agent.pid}
    finally:
        for process in (agent, reader):
            process.kill()
            process.communicate()


# ---- another user of the machine


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR in which everybody may make files, like /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o1777)
        monkeypatch.setattr(family.tempfile, "tempdir", place)
        yield Path(place)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED WITH A SECOND USER: needs root")

# What anybody may make in /tmp.
TRAPS = """
    mkfifo gppo_aaaaaaaa
    mkdir gppo_ gppo_bbbbbbbb gppo_cccccccc; mkfifo gppo_bbbbbbbb/lock gppo_bbbbbbbb/mark; touch gppo_/lock
    echo -n chosen > gppo_cccccccc/mark; touch gppo_cccccccc/lock; chmod 700 gppo_cccccccc
    ln -s {victim} gppo_dddddddd
    ln -s /etc/passwd gppo_eeeeeeee
"""


@as_root
def test_what_another_user_makes_in_tmp_neither_holds_up_a_start_nor_ends_a_process(
    shared: Path, tmp_path: Path
) -> None:
    victim = tmp_path  # a folder of this user, with a mark and a process
    mark = marked(victim)
    subprocess.run(["sh", "-ec", TRAPS.format(victim=victim)], cwd=shared, preexec_fn=as_nobody, check=True)
    (shared / "gppo_ffffffff").mkdir()
    (shared / "gppo_ffffffff").chmod(0o777)
    before = sorted(os.listdir(shared))
    # Commands that a user may have root run, in his words and with his environment.
    bystanders = [
        subprocess.Popen([*SLEEP, str(shared / "gppo_cccccccc")], env=os.environ | {MARK: "chosen"}),
        subprocess.Popen(SLEEP, env=os.environ | mark),
    ]
    code = "from groupppo.run import family; family.tempfile.tempdir = {!r}; family.scratch().__enter__()"
    try:
        command = [sys.executable, "-c", code.format(str(shared))]
        subprocess.run(command, check=True, timeout=30)
        assert [process.poll() for process in bystanders] == [None, None]
        assert sorted(os.listdir(shared)) == before
    finally:
        for process in bystanders:
            process.kill()
            process.wait()


def test_a_folder_that_a_start_has_just_made_is_not_swept_by_another(shared: Path) -> None:
    (made := shared / "gppo_aaaaaaaa").mkdir(mode=0o700)  # not locked yet, and without a host
    with scratch():
        assert made.is_dir()
    (made / "host").write_text(socket.gethostname())
    with scratch():
        assert not made.exists()


@as_root
def test_a_process_of_another_user_is_none_of_the_family_though_it_knows_the_mark(tmp_path: Path) -> None:
    mark = marked(tmp_path)
    ours = subprocess.Popen(SLEEP, env=os.environ | mark)
    theirs = subprocess.Popen(["sleep", "60"], env=os.environ | mark, preexec_fn=as_nobody)
    try:
        assert psutil.Process(theirs.pid).uids().real == NOBODY
        assert [process.pid for process in started_with(tmp_path)] == [ours.pid]
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()


@as_root
def test_the_folder_of_a_run_and_what_tells_its_processes_are_its_users_alone(shared: Path) -> None:
    with scratch() as folder:
        with_secret(folder)
        marked(folder)
        for file in (folder / "mark", folder / "token"):
            assert file.stat().st_mode & 0o777 == 0o600
            assert not readable(file)
            folder.chmod(0o755)  # it is a secret even where the folder is open
            assert not readable(file)
            file.chmod(0o644)
            assert readable(file)  # the look itself works
            folder.chmod(0o700)
            assert not readable(file)
        with pytest.raises(FileExistsError):
            marked(folder)
        process = subprocess.Popen(SLEEP, env=os.environ | {MARK: "of this test"})
        try:
            assert not readable(Path(f"/proc/{process.pid}/environ"))
        finally:
            process.kill()
            process.wait()


def readable(file: Path) -> bool:
    """By another user."""
    return subprocess.run(["cat", str(file)], preexec_fn=as_nobody, capture_output=True).returncode == 0


SHARER = """
    import sys
    from multiprocessing import resource_tracker, shared_memory
    shared = shared_memory.SharedMemory(create=True, size=1 << 16)
    resource_tracker.unregister(shared._name, "shared_memory")   # as if its tracker were killed with it
    print(shared.name, flush=True)
    sys.stdin.read()
"""


def test_shared_memory_of_a_run_that_was_killed_is_removed_and_a_strangers_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SHARER)]
    ours, theirs = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    memory = SharedMemory(ours, tmp_path)
    files = [Path("/dev/shm") / process.stdout.readline().strip() for process in (ours, theirs)]
    memory.look()
    for process in (ours, theirs):
        process.kill()
        process.communicate()
    assert all(file.exists() for file in files)
    memory.remove()
    assert [file.exists() for file in files] == [False, True]
    files[1].unlink()
