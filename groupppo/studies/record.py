"""What a study says about itself: on what it ran, how often, how long."""

import json
import resource
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from groupppo.measure.provenance import software, source
from groupppo.records.hashing import sha256_file, sha256_model
from groupppo.records.seal import KEY, seal

RECORD = "study.json"


class Asked(Protocol):
    """What a study was asked to do: its folders, and its settings as plain data."""

    @property
    def out(self) -> Path: ...
    @property
    def task(self) -> Path: ...
    @property
    def arms(self) -> Path: ...
    @property
    def models(self) -> dict[str, Path]: ...
    @property
    def sizes(self) -> dict[str, Any]: ...


@dataclass
class Clock:
    """Wall-clock and CPU seconds of each stage, printed as it ends."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 2)
        self.cpu_seconds[name] = round(time.process_time() - cpu_began, 2)
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_record(options: Asked, script: Path, arguments: Sequence[str], found: dict[str, Any], clock: Clock) -> None:
    """Write `study.json`: command, settings, hashes of every input, software and cost.

    Args:
        script: the study's own file. arguments: of its command line. found: counts and choices of the run, plain data.
    """
    record = {
        "command": shlex.join(["python", f"benchmarks/studies/{script.name}", *arguments]),
        "settings": options.sizes,
        **found,
        "inputs": {
            **{f"{name}_sha256": sha256_model(folder) for name, folder in options.models.items()},
            "prompts_sha256": sha256_file(options.task / "train.parquet"),
            "arms_sha256": {file.stem: sha256_file(file) for file in sorted(options.arms.glob("*.yaml"))},
            "script_sha256": sha256_file(script),
        },
        "software": software(),
        "source": source(),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "peak_bytes": peak_bytes(),
        KEY: seal(options.out.glob("*.csv")),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (options.out / RECORD).write_text(text + "\n", encoding="utf-8")
