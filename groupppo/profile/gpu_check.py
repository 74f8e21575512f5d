"""The checks of a GPU one after another, each in a process of its own and in bounded time, and the record of them.

    record = run_checks(Place("cuda", False, Path("results/gpu"), time.monotonic() + 600))

A process of its own makes a crash, such as an illegal access to memory, a result of its check, and gives its memory
back. It is a fork of this one, which has imported everything and must not have touched the GPU. Rows are written as
they come, so that those before a crash, or before time ran out, stand.
"""

import gc
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from groupppo.measure.provenance import source
from groupppo.profile import gpu
from groupppo.profile.bench import free_bytes
from groupppo.profile.gpu import Number, Place, Row, judged
from groupppo.records.storage import write_whole
from groupppo.update.variants import FAILED, MEASURED, NO_MEMORY, NOT_RUN

FORMAT, VERSION, FILE = "groupppo gpu check", 1, "gpu_check.json"
CRASHED, NO_TIME = "crashed", "out of time"
STATUSES = (MEASURED, NOT_RUN, NO_MEMORY, FAILED, CRASHED, NO_TIME)
WRONG = (FAILED, CRASHED, NO_TIME)
"""What makes the command's exit code 1; what did not fit into memory is a result."""
ITSELF = "the check itself"
_GRACE = 20.0
"""Seconds that a check which is told to end may take to end what it started."""


@dataclass(frozen=True)
class Check:
    """A part that runs apart, for at most so many `seconds`; parts of one name are one check in the record."""

    name: str
    seconds: float
    run: Callable[[Place], Iterator[Row]]


@dataclass(frozen=True)
class Record:
    """The content of gpu_check.json.

    Attributes:
        format, version: FORMAT and VERSION. device: "cuda" or "cpu". small: whether shapes were those of a test.
        began: when, in UTC. limit_seconds, seconds: allowed, and taken. source: commit of the code, as in provenance.
        took: seconds of each check. rows: all that was tried. answer: what works here, in a line.
        sha256: of all the rest, as `digest` takes it: who edits a number has to edit this, too.
    """

    format: str
    version: int
    device: str
    small: bool
    began: str
    limit_seconds: float
    seconds: float
    source: dict[str, str | None]
    took: dict[str, float]
    rows: tuple[Row, ...]
    answer: str
    sha256: str


def checks(place: Place) -> list[Check]:
    """All checks, the shortest first; a slow card's limits sum up to less than ten minutes without `runs`."""
    shapes = [(title, again) for title in place.shapes for again in (False, True)]
    return [
        Check("machine", 40, gpu.seen),
        Check("recursions", 60, gpu.recursions),
        Check("exact", 40, gpu.exact),
        Check("loop", 60, gpu.loop),
        Check("attention", 60, gpu.attention),
        *(Check("updates", 75, partial(gpu.updates, title=title, checkpointing=again)) for title, again in shapes),
        Check("runs", math.inf, gpu.runs),
    ]


NAMES = ("machine", "recursions", "exact", "loop", "attention", "updates", "runs")


def run_checks(place: Place, only: Sequence[str] = NAMES, note: Callable[[Row], object] = lambda row: None) -> Record:
    """Run checks and write `place.out`/gpu_check.json.

    Args:
        only: names of checks. note: called with every row when its check has ended.
    """
    began, start, limit = datetime.now(UTC), time.monotonic(), place.left
    place.out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (place.out / f"{name}.txt").unlink(missing_ok=True)
    gc.collect()
    gc.freeze()  # what was imported is not looked through again in every child
    rows, took = list[Row](), dict[str, float]()
    for check in checks(place):
        if check.name not in only:
            continue
        since = time.monotonic()
        blind = any(row.check == "machine" and row.status != MEASURED for row in rows)
        found = _skipped(check, "the machine was not seen") if blind else _alone(check, place)
        took[check.name] = took.get(check.name, 0.0) + time.monotonic() - since
        for row in found:
            note(row)
        rows += found
    gc.unfreeze()
    record = Record(
        format=FORMAT,
        version=VERSION,
        device=place.device,
        small=place.small,
        began=began.isoformat(timespec="seconds"),
        limit_seconds=round(limit, 3),
        seconds=time.monotonic() - start,
        source=source(),
        took=took,
        rows=tuple(rows),
        answer=answer(rows),
        sha256="",
    )
    record = replace(record, sha256=digest(asdict(record)))
    write_whole(place.out / FILE, json.dumps(asdict(record), indent=1, allow_nan=False) + "\n")
    return record


def digest(record: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a record without its own: JSON with sorted keys and no blanks."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def by_check(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.check, []).append(row)
    return found


def answer(rows: Sequence[Row]) -> str:
    """What works on this machine, what does not, and what was not tried, in a line."""
    named = (row.numbers.get("gpu") or row.numbers.get("cpu") for row in rows if row.name == "machine")
    works, wrong, untried = list[str](), list[str](), list[str]()
    for name, own in by_check(rows).items():
        count = {status: sum(row.status == status for row in own) for status in STATUSES}
        rest = ", ".join(f"{count[status]} {status}" for status in STATUSES[1:] if count[status])
        if not count[MEASURED] and not any(count[status] for status in WRONG):
            untried.append(f"{name} ({own[0].reason or rest})")
        elif any(count[status] for status in WRONG):
            wrong.append(f"{name} ({rest} of {len(own)})")
        else:
            works.append(f"{name} ({count[MEASURED]} of {len(own)}{f'; {rest}' if rest else ''})")
    parts = {"works": works, "does not": wrong, "was not tried": untried}
    said = "; ".join(f"{label}: {', '.join(those)}" for label, those in parts.items() if those)
    return f"On {next(named, None) or 'this machine'} {said or 'nothing was tried'}."


def _skipped(check: Check, reason: str) -> list[Row]:
    return [Row(check.name, ITSELF, status=NOT_RUN, reason=reason)]


def _alone(check: Check, place: Place) -> list[Row]:
    """The rows of a check that runs in a fork of this process, and one more where it did not end by itself."""
    if place.left < 1:
        return _skipped(check, "no time was left")
    file, log = place.out / f"{check.name}.jsonl", place.out / f"{check.name}.txt"
    process = multiprocessing.get_context("fork").Process(target=_inside, args=(check, place, file, log))
    process.start()
    limit = min(check.seconds, place.left)
    process.join(limit)
    late = process.is_alive()
    if late:
        process.terminate()
        process.join(_GRACE)
        process.kill()
        process.join()
    # The last line of a process that was killed may be half of one.
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = [Row(**json.loads(line)) for line in lines]
    if late:
        rows.append(Row(check.name, ITSELF, status=NO_TIME, reason=f"ended after {limit:.0f} s"))
    elif process.exitcode:
        said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        by = signal.Signals(-process.exitcode).name if process.exitcode < 0 else said[-1][:500]
        rows.append(Row(check.name, ITSELF, status=CRASHED, reason=by))
    file.unlink()
    return rows


def _inside(check: Check, place: Place, file: Path, log: Path) -> None:
    """A check in its own process: rows to a file, all that is printed to a log."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it started is ended on the way out
    # Not closed: the traceback of an error that nobody expects is written when all is over.
    sys.stdout = sys.stderr = said = log.open("a", buffering=1)
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    with file.open("w", encoding="utf-8") as out:
        try:
            for row in check.run(place):
                print(json.dumps(asdict(decided(row))), file=out, flush=True)
        except torch.OutOfMemoryError as error:
            numbers: dict[str, Number] = {"peak_bytes": torch.cuda.max_memory_allocated()}
            numbers |= {"free_bytes": free_bytes(place.device)}
            row = Row(check.name, ITSELF, numbers, status=NO_MEMORY, reason=str(error))
            print(json.dumps(asdict(row)), file=out, flush=True)


def decided(row: Row) -> Row:
    """With its status by its numbers and bounds, and None for what JSON cannot hold; one without numbers as it is."""
    if row.status not in (MEASURED, FAILED) or not row.numbers:
        return row
    numbers = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.numbers.items()
    }
    wrong = judged(numbers, row.bounds)
    return replace(row, numbers=numbers, status=FAILED if wrong else MEASURED, reason=wrong)
