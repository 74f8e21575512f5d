"""The check of a node: each thing that it may lack is named with its hint, and a sound node passes."""

import os
import sys
import threading
import time
from dataclasses import replace

import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure import start_check
from groupppo.measure.provenance import PACKAGES, lock_of
from groupppo.measure.start_check import Needs, check_node, check_versions, clock_skew


@pytest.fixture
def needs():
    return Needs(lock_of("cpu"), PACKAGES, disk_bytes=1, memory_bytes=1)


def found(folder, needs):
    with pytest.raises(BadInput) as error:
        check_node(folder, needs)
    assert error.value.hint
    return error.value


def test_a_sound_node_passes_and_nothing_is_left_in_the_folder(tmp_path, needs):
    check_node(tmp_path / "new" / "run", needs)
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


@pytest.mark.parametrize("ahead", [3600.0, -3600.0, 2.0, 0.0])
def test_the_file_servers_clock_is_compared_with_the_nodes(tmp_path, monkeypatch, needs, ahead):
    real = os.fsync

    def stamped_by_the_server(descriptor):
        real(descriptor)
        moment = time.time() + ahead
        os.utime(descriptor, (moment, moment))

    monkeypatch.setattr(start_check.os, "fsync", stamped_by_the_server)
    assert clock_skew(tmp_path) == pytest.approx(ahead, abs=0.5)
    if abs(ahead) < start_check.MAX_SKEW:
        check_node(tmp_path, needs)
    else:
        assert "clock" in found(tmp_path, needs).key


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


BUILDS = {
    "missing": (None, "", None),
    "of another version": ("2.7.4", "", "2.7.4"),
    "built for another torch": ("2.8.3", "raise ImportError('undefined symbol: _ZN3c105ErrorC2')", "2.8.3"),
    "built here": ("2.8.3", "", ...),
    "built here, with a build's own suffix": ("2.8.3+cu130torch211", "", ...),
}


@pytest.mark.parametrize(("version", "code", "value"), BUILDS.values(), ids=BUILDS)
def test_flash_attention_is_looked_for_before_anything_starts(tmp_path, monkeypatch, needs, version, code, value):
    if version is not None:
        (tmp_path / "flash_attn").mkdir()
        (tmp_path / "flash_attn" / "__init__.py").write_text(code)
        (tmp_path / f"flash_attn-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {version}\n"
        (tmp_path / f"flash_attn-{version}.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    asked = replace(needs, flash_attention=True)
    if value is ...:
        check_node(tmp_path / "run", asked)
        monkeypatch.delitem(sys.modules, "flash_attn")
        return
    error = found(tmp_path / "run", asked)
    assert (error.key, error.value) == ("flash-attn", value)
    assert "flash-attn==2.8.3" in error.hint
    assert "train.attention: sdpa" in error.hint
    assert ("undefined symbol" in error.hint) == bool(code)
    check_node(tmp_path / "run", needs)  # a run that does without


def test_the_compiler_that_triton_looks_for_is_looked_for(tmp_path, monkeypatch, needs):
    asked = replace(needs, compiler=True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(tmp_path / "run", asked).key == "C compiler"
    check_node(tmp_path / "run", needs)
    monkeypatch.setenv("CC", "a compiler")
    check_node(tmp_path / "run", asked)


@pytest.mark.parametrize("call", ["mkdir", "fsync"])
def test_a_file_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch, needs, call):
    answers = threading.Event()
    monkeypatch.setattr(start_check, "PATIENCE", 0.5)
    where = start_check.os if call == "fsync" else type(tmp_path)
    with monkeypatch.context() as stuck:
        stuck.setattr(where, call, lambda *_, **__: answers.wait(30))
        assert "did not answer" in found(tmp_path, needs).hint
        answers.set()
    check_node(tmp_path, needs)
