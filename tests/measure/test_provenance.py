"""Provenance: the lock of the device, the node's clock and the driver."""

import sys
from types import SimpleNamespace

import pytest

from groupppo.measure import provenance as module
from groupppo.measure.hashing import sha256_file
from groupppo.measure.provenance import lock_of, provenance
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


def test_a_run_on_a_cpu_names_its_lock_and_its_clock_and_no_driver(of):
    record = of("cpu")
    assert record["software"]["lock_sha256"] == sha256_file(lock_of("cpu"))
    assert record["clock_skew_seconds"] == 0.0
    assert "driver" not in record["machine"]


def test_a_run_on_a_gpu_names_the_gpu_lock_and_the_driver(of, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", TORCH)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    record = of("cuda")
    assert record["software"]["lock_sha256"] == sha256_file(lock_of("cuda")) != sha256_file(lock_of("cpu"))
    assert record["machine"]["driver"] == "570.86.15"
    assert "driver_missing" not in record["machine"]


def test_a_driver_that_does_not_tell_its_version_leaves_the_reason(of, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", TORCH)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(init=4))
    machine = of("cuda")["machine"]
    assert machine["driver"] is None
    assert "Insufficient Permissions" in machine["driver_missing"]


def test_the_clock_is_the_results_folders(of, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module, "clock_skew", lambda folder: asked.append(folder) or -1.26)
    assert of("cpu")["clock_skew_seconds"] == -1.3
    assert asked == [tmp_path]
