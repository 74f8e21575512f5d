"""Probes: what a pass allocates and frees again is its memory; a GPU is read in the right order."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from groupppo.config import REPOSITORY
from groupppo.profile.probes import CudaProbe, HostProbe, probe_for

MB = 2**20
EXACT = """
import torch
from groupppo.profile.probes import HostProbe

torch.set_num_threads(1)
probe = HostProbe(exact=True)
kept = torch.ones(8 << 20)

def run(megabytes):
    def inner():
        for _ in range(5):
            torch.ones(megabytes << 18).sum()
    return inner

run(24)()
print(probe.rise(run(24)) / 2**20, probe.rise(run(48)) / 2**20, probe.rise(run(0)) / 2**20)
"""


def test_memory_freed_within_a_pass_counts_once_and_memory_from_before_does_not():
    done = subprocess.run([sys.executable, "-c", EXACT], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    small, large, none = map(float, done.stdout.split())
    assert small == pytest.approx(24, abs=3)
    assert large == pytest.approx(48, abs=3)
    assert none < 3


def test_seconds_are_those_of_the_pass():
    def busy():
        total = 0
        while total < 200_000:
            total += 1

    reading = HostProbe().seconds(busy)
    assert reading.cpu_seconds > 0
    assert reading.seconds >= 0.5 * reading.cpu_seconds
    assert HostProbe().seconds(lambda: None).cpu_seconds < reading.cpu_seconds


class FakeCuda:
    """torch.cuda as far as a probe calls it; notes the order of calls."""

    def __init__(self, held, peak):
        self.held, self.peak, self.calls = held, peak, []

    def __getattr__(self, name):
        def call(*_, **__):
            self.calls.append(name)
            return {"memory_allocated": self.held, "max_memory_allocated": self.peak}.get(name)

        return call

    def Event(self, **_):  # noqa: N802 - torch's name
        self.calls.append("Event")
        return SimpleNamespace(record=lambda: self.calls.append("record"), elapsed_time=lambda _end: 1500.0)


def test_a_gpu_pass_is_timed_between_events_and_read_after_it_has_finished(monkeypatch):
    fake = FakeCuda(held=70, peak=100)
    monkeypatch.setattr(torch, "cuda", fake)
    probe = probe_for("cuda", exact=True)
    assert isinstance(probe, CudaProbe)
    reading = probe.seconds(lambda: fake.calls.append("pass"))
    assert reading.seconds == 1.5
    assert fake.calls.index("record") < fake.calls.index("pass")
    assert fake.calls[-2:] == ["record", "synchronize"]
    fake.calls.clear()
    assert probe.rise(lambda: fake.calls.append("pass")) == 30
    order = [fake.calls.index(name) for name in ("reset_peak_memory_stats", "memory_allocated", "pass")]
    assert order == sorted(order)
    assert fake.calls[-2:] == ["synchronize", "max_memory_allocated"]
