"""Measuring a setting: all its variants in one process, taking turns, so that a slow minute hits all of them alike.

    python -m groupppo.profile.measure seconds benchmarks/profile.yaml r512 results/profile/measured/r512.seconds.json
    python -m groupppo.profile.measure memory  benchmarks/profile.yaml r512 results/profile/measured/r512.memory.json

Seconds: after a pass to warm up come the rounds, each in the reverse order of the one before. Raw readings are kept;
ratios are taken later, within rounds. Memory: one pass under the counter of operations, then one whose memory is read.
A variant that cannot run, runs out of memory or fails leaves a row with the reason.
"""

import argparse
import ctypes
import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from groupppo.errors import BadInput
from groupppo.measure import memory as process_tree
from groupppo.measure.provenance import machine, software, source
from groupppo.profile.bench import Bench, Outcome, guarded
from groupppo.profile.config import Setting, load_profile
from groupppo.profile.counter import count
from groupppo.update.variants import MEASURED, find


@dataclass(frozen=True)
class Reading:
    """Seconds of one pass.

    Attributes:
        seconds: wall clock; on a GPU between two events. cpu_seconds: of this process, all threads.
    """

    seconds: float
    cpu_seconds: float


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
        """Largest memory during the pass minus memory before it, in bytes."""
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


def probe_for(device: str, *, exact: bool = False) -> HostProbe | CudaProbe:
    """The probe of a device; `exact` as in `HostProbe`."""
    return CudaProbe() if device == "cuda" else HostProbe(exact=exact)


def gpu() -> dict[str, Any]:
    """The GPU that `CudaProbe` measures."""
    properties = torch.cuda.get_device_properties(0)
    return {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}


@dataclass
class Round:
    """One pass of one variant. `place`: its turn in the round. `load`: the machine's load average of a minute."""

    round: int
    place: int
    load: float
    reading: Reading


@dataclass
class Seconds(Outcome):
    rounds: list[Round] = field(default_factory=list)


@dataclass
class Memory(Outcome):
    """Operations and bytes of one variant.

    Attributes:
        flops: counted while it ran. rise_bytes: largest memory during a pass minus memory before it.
        saved_bytes: the most that autograd kept for the backward pass. held_bytes: kept from before the pass, such as
            keys and values. gradient_norm: over all parameters, equal for equal gradients up to rounding.
        work: the sizes that the formulas of `update.flops` take.
    """

    flops: int = 0
    rise_bytes: int = 0
    saved_bytes: int = 0
    held_bytes: int = 0
    gradient_norm: float = 0.0
    work: dict[str, Any] = field(default_factory=dict)


def measure_seconds(setting: Setting, *, command: str) -> dict[str, Any]:
    """Run every variant of a setting `rounds` times, in turns.

    Args:
        command: what was typed, for the record.

    Returns:
        the content of a result file: setting, machine, and one `Seconds` for each variant.
    """
    probe, bench = probe_for(setting.device), Bench(setting)
    results = [Seconds(name) for name in setting.variants]
    for result in results:
        bench.prepare(find(result.variant), result)
        if result.status == MEASURED:
            with guarded(result):
                bench.passes(result)()
    for number in range(setting.rounds):
        running = [result for result in results if result.status == MEASURED]
        for place, result in enumerate(running if number % 2 == 0 else running[::-1]):
            run, load = bench.passes(result), os.getloadavg()[0]
            with guarded(result):
                result.rounds.append(Round(number, place, load, probe.seconds(run)))
    return _record(setting, command) | {"results": [asdict(result) for result in results]}


def measure_memory(setting: Setting, *, command: str) -> dict[str, Any]:
    """Count every variant's operations and read its memory; call in a process of its own.

    Returns:
        the content of a result file: setting, machine, and one `Memory` for each variant.
    """
    probe = probe_for(setting.device, exact=True)
    bench = Bench(setting)
    results = [Memory(name) for name in setting.variants]
    for result in results:
        variant = find(result.variant)
        result.work = asdict(bench.work(variant))
        bench.prepare(variant, result)
        if result.status != MEASURED:
            continue
        with guarded(result):
            run = bench.passes(result)
            with count() as counted:
                run()
            result.flops, result.saved_bytes = counted.flops, counted.saved_bytes
            result.held_bytes, result.gradient_norm = bench.held_bytes(variant), bench.gradient_norm
            result.rise_bytes = probe.rise(bench.passes(result))
    held = {"weights": bench.weight_bytes, "gradients": bench.weight_bytes}
    record = _record(setting, command) | {"memory": probe.memory, "held": held}
    return record | {"results": [asdict(result) for result in results]}


MEASURES = {"seconds": measure_seconds, "memory": measure_memory}


def write(out: Path, content: dict[str, Any]) -> None:
    """Write a result file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _record(setting: Setting, command: str) -> dict[str, Any]:
    return {
        "setting": asdict(setting) | {"density": str(setting.density)},
        "command": command,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | (gpu() if setting.device == "cuda" else {}),
        "software": software(),
        "source": source(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one setting of a profile.")
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("profile")
    parser.add_argument("setting")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    measured = load_profile(asked.profile).measured
    if asked.setting not in measured:
        raise BadInput(asked.profile, "measured", asked.setting, f"name one of: {', '.join(measured)}.")
    command = f"python -m groupppo.profile.measure {asked.what} {asked.profile} {asked.setting} {asked.out}"
    write(asked.out, MEASURES[asked.what](measured[asked.setting], command=command))


if __name__ == "__main__":
    main()
