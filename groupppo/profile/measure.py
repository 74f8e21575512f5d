"""Measuring a setting: all its variants in one process, taking turns, so that a slow minute hits all of them alike.

Seconds: after a pass to warm up come the rounds, each in the reverse order of the one before. Raw readings are kept;
ratios are taken later, within rounds. Memory: one pass under the counter of operations, then one whose memory is read.
A variant that cannot run, runs out of memory or fails leaves a row with the reason.
"""

import ctypes
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from groupppo.measure.provenance import machine, software, source
from groupppo.measure.stages import ProcessTreeProbe
from groupppo.profile import Setting
from groupppo.profile.bench import Bench, Outcome, guarded
from groupppo.update.variants import MEASURED, find

_ATEN = torch.ops.aten


def _per_query_head(formula: Callable[..., int], query: int) -> Callable[..., int]:
    """A formula of torch's for attention, told that keys and values have the query's heads: torch 2.11 refuses others.

    Args:
        query: place of the query's shape among the arguments; those of keys and values follow.
    """

    def flops(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        batch, heads = shapes[query][:2]
        grouped = [(batch, heads, *shape[2:]) for shape in shapes[query + 1 : query + 3]]
        return formula(*shapes[: query + 1], *grouped)

    return flops


# torch's counter has no formula for its flash attention on CPUs nor for products added in place.
_FORMULAS: dict[Any, Callable[..., int]] = {_ATEN.addmm_: flop_registry[_ATEN.addmm].__wrapped__}
for _name in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu"):
    for _end, _query in (("", 0), ("_backward", 1)):
        _stock = flop_registry[getattr(_ATEN, f"_scaled_dot_product_{_name.removesuffix('_for_cpu')}{_end}")]
        _FORMULAS[getattr(_ATEN, f"_scaled_dot_product_{_name}{_end}")] = _per_query_head(_stock.__wrapped__, _query)


@dataclass
class Counted:
    """What a pass did.

    Attributes:
        flops: a multiply-add is two; matrix products and attention, the latter over all pairs of queries and keys.
        operations: the same by torch's operation.
        saved_bytes: the largest size at any moment of what autograd kept for the backward pass, parameters left out.
        held: how often autograd holds a storage now, by its address.
    """

    flops: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    saved_bytes: int = 0
    saved_now: int = 0
    held: dict[int, int] = field(default_factory=dict)


@contextmanager
def count() -> Iterator[Counted]:
    """Count what runs inside; the result is complete after the block."""
    counted = Counted()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(tensor, counted), lambda held: held.tensor)
    with hooks, FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        yield counted
    counted.flops = counter.get_total_flops()
    counted.operations = {str(name): flops for name, flops in counter.get_flop_counts().get("Global", {}).items()}


class _Held:
    """One saved tensor; its storage counts from the first such object to the last."""

    def __init__(self, tensor: Tensor, counted: Counted):
        self.tensor, self.counted = tensor, counted
        base = tensor._base if tensor._base is not None else tensor
        storage = tensor.untyped_storage()
        self.key, self.size = storage._cdata, 0 if base.is_leaf and base.requires_grad else storage.nbytes()
        if counted.held.setdefault(self.key, 0) == 0:
            counted.saved_now += self.size
            counted.saved_bytes = max(counted.saved_bytes, counted.saved_now)
        counted.held[self.key] += 1

    def __del__(self) -> None:
        self.counted.held[self.key] -= 1
        if self.counted.held[self.key] == 0:
            self.counted.saved_now -= self.size


class HostProbe:
    """This process on a CPU: resident memory by the kernel's high-water mark, reset before the pass.

    Args:
        exact: in a process that has done nothing yet, have the C library hand every block above 1 MiB back when it is
            freed. Otherwise it keeps blocks of up to 32 MiB for later, and gaps between them, which differ from run to
            run, count as memory. Passes take some 10 % longer: time them elsewhere.
    """

    memory = (
        "resident memory of the process: the kernel's high-water mark during a pass minus memory before it, blocks "
        "above 1 MiB handed back when freed"
    )

    def __init__(self, *, exact: bool = False) -> None:
        if exact:
            ctypes.CDLL(None).mallopt(-3, 2**20)  # M_MMAP_THRESHOLD of malloc.h

    def seconds(self, run: Callable[[], object]) -> dict[str, float]:
        """Of one pass: wall clock, and CPU seconds of all threads of this process."""
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"seconds": wall, "cpu_seconds": cpu}

    def rise(self, run: Callable[[], object]) -> int:
        """Largest memory during the pass minus memory before it, in bytes."""
        gc.collect()
        probe = ProcessTreeProbe(settle=psutil.heap_trim)
        probe.begin()
        run()
        return probe.end().rise_bytes


class CudaProbe:
    """One GPU: time between two events, peaks of torch's allocator. Never run on a GPU by us."""

    memory = "bytes allocated by torch's CUDA allocator: the peak during a pass minus what was allocated before it"

    def seconds(self, run: Callable[[], object]) -> dict[str, float]:
        gc.collect()
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cpu = time.process_time()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return {"seconds": start.elapsed_time(end) / 1000, "cpu_seconds": time.process_time() - cpu}

    def rise(self, run: Callable[[], object]) -> int:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def measure_seconds(setting: Setting) -> dict[str, Any]:
    """Run every variant of a setting `rounds` times, in turns.

    Returns:
        for each variant its outcome and `rounds`, one row per pass with its turn (`place`), the machine's load average
        of a minute and the `reading`.
    """
    probe, bench = HostProbe() if setting.device == "cpu" else CudaProbe(), Bench(setting)
    outcomes = [Outcome(name) for name in setting.variants]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in setting.variants}
    for outcome in outcomes:
        bench.prepare(outcome)
        if outcome.status == MEASURED:
            with guarded(outcome):
                bench.passes(outcome)()
    for number in range(setting.rounds):
        running = [outcome for outcome in outcomes if outcome.status == MEASURED]
        for place, outcome in enumerate(running if number % 2 == 0 else running[::-1]):
            run, load = bench.passes(outcome), os.getloadavg()[0]
            with guarded(outcome):
                reading = {"round": number, "place": place, "load": load, "reading": probe.seconds(run)}
                rounds[outcome.variant].append(reading)
    return {"results": [asdict(outcome) | {"rounds": rounds[outcome.variant]} for outcome in outcomes]}


def measure_memory(setting: Setting) -> dict[str, Any]:
    """Count every variant's operations and read its memory; call in a process of its own.

    Returns:
        for each variant its outcome; `work`, the sizes that the formulas of `update.flops` take; and of one that ran
        `flops` and `saved_bytes` as `Counted`, `held_bytes` kept from before the pass, `rise_bytes`, the largest memory
        during a pass minus memory before it, and `gradient_norm`, equal for equal gradients up to rounding.
    """
    probe = HostProbe(exact=True) if setting.device == "cpu" else CudaProbe()
    bench, results = Bench(setting), []
    for outcome in map(Outcome, setting.variants):
        numbers: dict[str, Any] = {"work": asdict(bench.work(find(outcome.variant)))}
        bench.prepare(outcome)
        if outcome.status == MEASURED:
            with guarded(outcome):
                run = bench.passes(outcome)
                with count() as counted:
                    run()
                numbers |= {"flops": counted.flops, "saved_bytes": counted.saved_bytes}
                kept = bench.prepared[outcome.variant]
                numbers |= {"held_bytes": kept.nbytes if kept else 0, "gradient_norm": bench.gradient_norm}
                numbers["rise_bytes"] = probe.rise(bench.passes(outcome))
        results.append(asdict(outcome) | numbers)
    weights = sum(parameter.nbytes for parameter in bench.model.parameters())
    return {"memory": probe.memory, "held": {"weights": weights, "gradients": weights}, "results": results}


MEASURES = {"seconds": measure_seconds, "memory": measure_memory}


def write_measured(out: Path, what: str, setting: Setting, command: str) -> None:
    """Measure what MEASURES names, and write it with the machine, the software and the command that was given."""
    measured = MEASURES[what](setting)
    content = {
        "setting": asdict(setting),
        "command": command,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(setting.device),
        "software": software(),
        "source": source(),
        **measured,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
