"""Seconds and peak memory of one pass: this process on a CPU, events and the allocator on a GPU."""

import ctypes
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from groupppo.measure import memory as process_tree


@dataclass(frozen=True)
class Reading:
    """Seconds of one pass.

    Attributes:
        seconds: wall clock; on a GPU between two events. cpu_seconds: of this process, all threads.
    """

    seconds: float
    cpu_seconds: float


class Probe(Protocol):
    """Runs a pass and reads the machine around it."""

    # For readers of a result: what memory is.
    memory: str

    def seconds(self, run: Callable[[], object]) -> Reading: ...

    def rise(self, run: Callable[[], object]) -> int:
        """Largest memory during the pass minus memory before it, in bytes."""
        ...


class HostProbe:
    """This process on a CPU: resident memory by the kernel's high-water mark, reset before the pass.

    Args:
        exact: make one in a process that has done nothing yet, to have the C library hand every block above 1 MiB back
            to the system when it is freed. Otherwise it keeps blocks of up to 32 MiB for later, and gaps between them,
            which differ from run to run, count as memory. Passes then take some 10 % longer: time them elsewhere.
    """

    memory = (
        "resident memory of the process: the kernel's high-water mark during a pass minus memory before it, blocks "
        "above 1 MiB handed back when freed"
    )

    def __init__(self, *, exact: bool = False) -> None:
        self._library = ctypes.CDLL(None)
        if exact:
            self._library.mallopt(_MMAP_THRESHOLD, 2**20)

    def seconds(self, run: Callable[[], object]) -> Reading:
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Reading(wall, cpu)

    def rise(self, run: Callable[[], object]) -> int:
        gc.collect()
        self._library.malloc_trim(0)
        start = process_tree.begin(os.getpid())
        run()
        return process_tree.end(os.getpid(), start).rise_bytes


_MMAP_THRESHOLD = -3  # malloc.h


class CudaProbe:
    """One GPU: time between two events, peaks of torch's allocator. Never run on a GPU by us."""

    memory = "bytes allocated by torch's CUDA allocator: the peak during a pass minus what was allocated before it"

    def seconds(self, run: Callable[[], object]) -> Reading:
        gc.collect()
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cpu = time.process_time()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return Reading(start.elapsed_time(end) / 1000, time.process_time() - cpu)

    def rise(self, run: Callable[[], object]) -> int:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def probe_for(device: str, *, exact: bool = False) -> Probe:
    """The probe of a device; `exact` as in `HostProbe`."""
    return CudaProbe() if device == "cuda" else HostProbe(exact=exact)


def gpu() -> dict[str, Any]:
    """The GPU that `CudaProbe` measures."""
    properties = torch.cuda.get_device_properties(0)
    return {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
