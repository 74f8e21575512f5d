"""The check of a node: each thing that it may lack is named with its hint, and a sound node passes."""

import os
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure import start_check
from groupppo.measure.provenance import PACKAGES, lock_of
from groupppo.measure.start_check import Needs, check_node, check_versions, clock_skew, free_memory
from tests.measure.fake_nvml import FakeNvml


@pytest.fixture
def needs():
    return Needs("cpu", lock_of("cpu"), PACKAGES, disk_bytes=1, memory_bytes=1)


def found(folder, needs):
    with pytest.raises(BadInput) as error:
        check_node(folder, needs)
    assert error.value.hint
    return error.value


def test_a_sound_node_passes_and_nothing_is_left_in_the_folder(tmp_path, needs):
    node = check_node(tmp_path / "new" / "run", needs)
    assert node.driver is None
    assert node.clock_skew_seconds == 0.0
    assert min(node.free_disk_bytes, node.free_memory_bytes) > 1
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_too_little_disk_and_memory_are_named_with_what_is_needed(tmp_path, needs):
    disk = found(tmp_path, replace(needs, disk_bytes=10**18))
    assert (disk.key, disk.file) == ("free disk (GB)", str(tmp_path))
    assert "1000000000.0 GB" in disk.hint
    memory = found(tmp_path, replace(needs, memory_bytes=10**18))
    assert memory.key == "free memory (GB)"
    assert memory.file.startswith("node ")


@pytest.mark.parametrize("folder", ["file/run", "closed/run"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, needs, folder):
    (tmp_path / "file").write_text("no folder")
    if folder.startswith("closed"):  # a privileged user may write anywhere

        def refused(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(start_check.os, "fsync", refused)
    error = found(tmp_path / folder, needs)
    assert error.file == str(tmp_path / folder)
    assert error.value in ("Not a directory", "Permission denied")
    assert not list(tmp_path.glob("closed/run/*"))


def test_a_file_system_that_does_not_keep_what_is_written_is_named(tmp_path, monkeypatch, needs):
    monkeypatch.setattr(start_check.uuid, "uuid4", lambda: SimpleNamespace(hex="token"))
    monkeypatch.setattr(start_check.os, "fsync", lambda _: (tmp_path / ".token.check").write_text("other"))
    assert "does not keep" in found(tmp_path, needs).hint


def test_a_file_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch, needs):
    free = threading.Event()
    monkeypatch.setattr(start_check, "_PATIENCE", 0.05)
    monkeypatch.setattr(start_check, "clock_skew", lambda _: free.wait(30))
    assert "did not answer" in found(tmp_path, needs).hint
    free.set()


@pytest.mark.parametrize(("ahead", "seen"), [(3600.0, 3600.0), (-3600.0, -3600.0), (2.0, 2.0), (0.0, 0.0)])
def test_the_file_servers_clock_is_compared_with_the_nodes(tmp_path, monkeypatch, needs, ahead, seen):
    real = os.fsync

    def stamped_by_the_server(descriptor):
        real(descriptor)
        moment = time.time() + ahead
        os.utime(descriptor, (moment, moment))

    monkeypatch.setattr(start_check.os, "fsync", stamped_by_the_server)
    assert clock_skew(tmp_path) == pytest.approx(seen, abs=0.5)
    if abs(ahead) < start_check.MAX_SKEW:
        check_node(tmp_path, needs)
        return
    error = found(tmp_path, needs)
    assert "clock" in error.key
    assert error.value == pytest.approx(-ahead, abs=0.5)


@pytest.mark.parametrize(("pin", "installed"), [("numpy==0.0.1", True), ("numpy-that-is-not==1.0", False)])
def test_a_package_that_is_not_the_locks_is_named_with_both_versions(tmp_path, pin, installed):
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"# a comment\n{pin}\n")
    name, version = pin.split("==")
    with pytest.raises(BadInput) as error:
        check_versions(lock, [name])
    assert (error.value.key, error.value.value is not None) == (name, installed)
    assert version in error.value.hint
    check_versions(lock, ["pandas"])  # not in this lock


def test_every_package_that_decides_a_run_is_in_a_lock():
    text = [line.lower() for name in ("cpu", "gpu") for line in (REPOSITORY / f"requirements/{name}.lock").open()]
    for package in PACKAGES:
        assert any(line.startswith(f"{package.lower()}==") for line in text)
    assert lock_of("cuda").name == "gpu.lock"


def test_a_node_for_a_gpu_run_needs_a_driver(tmp_path, monkeypatch, needs):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert check_node(tmp_path, replace(needs, device="cuda")).driver == "570.86.15"
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(init=9))
    error = found(tmp_path, replace(needs, device="cuda"))
    assert (error.key, error.value) == ("NVIDIA driver", None)
    assert "Driver Not Loaded" in error.hint
    check_node(tmp_path, needs)  # a run on a CPU needs none


def limited_1(folder, limit, used, cached=0):
    """A control group of version 1; `inactive_file` alone is the group's without those below it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {cached}\n")


def test_limits_of_version_1_are_looked_at_below_memory_alone(tmp_path):
    own = tmp_path / "own"
    own.write_text("11:cpu,cpuacct:/slurm/job_7\n9:hugetlb,memory:/slurm/job_7\n0::/init.scope\n")
    limited_1(tmp_path / "memory", 9223372036854771712, 10**9)  # none
    limited_1(tmp_path / "memory/slurm/job_8", 10, 10)
    limited_1(tmp_path / "cpu,cpuacct/slurm/job_7", 10, 10)
    assert free_memory(tmp_path, own) > 1_000_000
    limited_1(tmp_path / "memory/slurm/job_7", 3000, 2500, cached=500)
    assert free_memory(tmp_path, own) == 1000
    limited(tmp_path / "init.scope", 2000, 1900)  # both versions, where Linux shows both
    assert free_memory(tmp_path, own) == 100


def limited(folder, limit, used, cached=0):
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("max", limit), ("current", used), ("stat", f"anon 2000\ninactive_file {cached}")):
        (folder / f"memory.{file}").write_text(f"{text}\n")


def test_memory_is_what_the_tightest_limit_of_the_job_leaves_where_that_is_less(tmp_path):
    own = tmp_path / "own"
    own.write_text("9:name=systemd:/\n0::/slurm/job_7/step_0\n")
    node = free_memory(tmp_path / "none", own)
    limited(tmp_path / "slurm/job_7/step_0", "max", 2500)
    assert min(free_memory(tmp_path, own), node) > 1_000_000
    limited(tmp_path / "slurm/job_7", 3000, 2500, cached=500)
    assert free_memory(tmp_path, own) == 1000
    limited(tmp_path, 2000, 1900)  # a container's own
    assert free_memory(tmp_path, own) == 100
    limited(tmp_path / "slurm/job_8", 10, 10)  # another job's
    assert free_memory(tmp_path, own) == 100
