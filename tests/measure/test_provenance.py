"""Provenance: the lock of the device, the driver, the start, and the code."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from groupppo.measure import sensors
from groupppo.measure.provenance import lock_of, provenance, source
from groupppo.records.hashing import sha256_file
from tests.measure.fake_nvml import FakeNvml

CUDA = SimpleNamespace(
    get_device_name=lambda: "NVIDIA H100 80GB HBM3",
    device_count=lambda: 1,
    get_device_properties=lambda index: SimpleNamespace(total_memory=80 * 10**9),
)
TORCH = SimpleNamespace(cuda=CUDA, version=SimpleNamespace(cuda="12.8"))


@pytest.fixture
def of(tmp_path):
    for name in ("config.yaml", "train.parquet", "chat_template.jinja"):
        (tmp_path / name).write_text(name)

    def made(device: str):
        return provenance(device=device, config=tmp_path / "config.yaml", task_folder=tmp_path, start=tmp_path)

    return made


def test_a_chat_template_in_the_tokenizers_settings_is_hashed_as_its_text(of, tmp_path):
    in_a_file = of("cpu")["inputs"]["chat_template_sha256"]
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "chat_template.jinja"}))
    assert of("cpu")["inputs"]["chat_template_sha256"] == in_a_file
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "another"}))
    assert of("cpu")["inputs"]["chat_template_sha256"] != in_a_file


@pytest.mark.parametrize(
    ("code", "driver", "missing"), [(0, "570.86.15", None), (4, None, "NVML: Insufficient Permissions")]
)
def test_a_run_names_the_lock_of_its_device_and_on_a_gpu_the_driver_or_why_it_is_not_known(
    of, monkeypatch, code, driver, missing
):
    monkeypatch.setitem(sys.modules, "torch", TORCH)
    monkeypatch.setattr(sensors, "pynvml", FakeNvml(init=code))
    on_cpu, on_gpu = of("cpu"), of("cuda")
    assert "driver" not in on_cpu["machine"]
    assert (on_gpu["machine"]["driver"], on_gpu["machine"].get("driver_missing")) == (driver, missing)
    hashes = [record["software"]["lock_sha256"] for record in (on_cpu, on_gpu)]
    assert hashes == [sha256_file(lock_of("cpu")), sha256_file(lock_of("cuda"))]
    assert hashes[0] != hashes[1]


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, a file that git ignores, and a file that is not text."""
    for name, content in (
        (".gitignore", b"results\n"),
        ("a.py", b"x = 1\n"),
        ("results", b"big"),
        ("b.bin", b"\0\xff"),
    ):
        (tmp_path / name).write_bytes(content)
    who = ["-c", "user.name=a", "-c", "user.email=a@a"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)
    return tmp_path


def test_every_change_of_what_runs_gives_another_hash_also_in_files_that_git_does_not_have(checkout):
    committed = source(checkout)
    assert len(committed["commit"]) == 40
    (checkout / "results").write_bytes(b"another")
    assert source(checkout) == committed
    seen = [committed["uncommitted_sha256"]]
    assert seen == [None]
    changes = [("a.py", b"x = 2\n"), ("new.py", b"y = 1\n"), ("new.py", b"y = 2\n"), ("z.py", b"y = 2\n")]
    for name, content in [*changes, ("b.bin", b"\0\xfe"), ("b.bin", b"\0\xfd")]:
        (checkout / name).write_bytes(content)
        seen.append(source(checkout)["uncommitted_sha256"])
        assert source(checkout)["uncommitted_sha256"] == seen[-1]
    assert len(set(seen)) == len(seen)


def test_a_folder_in_a_checkout_that_is_not_its_own_has_no_commit_of_it(checkout, monkeypatch):
    (checkout / "unpacked").mkdir()
    assert source(checkout / "unpacked") == {"commit": None, "uncommitted_sha256": None}
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert source(checkout / "unpacked") == {"commit": None, "uncommitted_sha256": None}


def test_a_checkout_of_another_owner_is_named_by_its_commit(checkout, monkeypatch):
    own = source(checkout)
    # git's own switch for its tests: nothing is owned by whoever asks.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "-C", str(checkout), "status"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert source(checkout) == own


def test_a_checkout_that_git_does_not_read_says_why(checkout, monkeypatch):
    (checkout / ".git" / "HEAD").write_text("nonsense")
    found = source(checkout)
    assert found["commit"] is None
    assert "not a git repository" in found["commit_missing"]
    monkeypatch.setenv("PATH", str(checkout))
    assert "No such file" in source(checkout)["commit_missing"]
