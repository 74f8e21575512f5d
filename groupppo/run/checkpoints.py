"""What an interrupted run goes on from: verl's last checkpoint, sealed with the rows that were written up to it.

verl names a checkpoint as its latest before the row of its step is written, and a workflow deletes the rows of a job
that failed. So the launcher copies the rows into a checkpoint once its step's row is there, and has the system write
all of it out. Only a sealed checkpoint is resumed from, and only by the run that wrote it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from groupppo.records.code import code_sha256
from groupppo.records.folders import RunFolder
from groupppo.records.hashing import sha256_file, sha256_model
from groupppo.records.storage import write_whole
from groupppo.verl.compose import Cell

STEPS, STAGES = RunFolder.STEPS, RunFolder.STAGES
TRACKER = "latest_checkpointed_iteration.txt"
"""verl's file that names the checkpoint to resume from."""
MOST_FAILURES = 2
"""A checkpoint from which so many attempts made no step is taken for broken."""
_FOLDER, _SEAL, _DAMAGED = "global_step_", "seal", "damaged_"
_CODE = ("groupppo.verl", "groupppo.algorithm", "groupppo.tasks")


@dataclass(frozen=True)
class Seal:
    """What a checkpoint was sealed with.

    Attributes:
        step: after which it was saved. run: `identity` of the run. elapsed: `elapsed_seconds` of its last row.
        files: bytes of each file, by its path in the checkpoint. rows: SHA-256 of the rows that it was sealed with.
        resumed_after: steps after which the run had been resumed. failures: attempts from it that made no step.
    """

    step: int
    run: str
    elapsed: float
    files: dict[str, int]
    rows: str
    resumed_after: list[int] = field(default_factory=list)
    failures: int = 0


def identity(cell: Cell, config: DictConfig) -> str:
    """SHA-256 of what decides a run's rows: config, inputs, this package's code, and the packages that compute."""
    total = hashlib.sha256(OmegaConf.to_yaml(config).encode())
    total.update(sha256_model(cell.start).encode())
    files = [cell.task_folder / "train.parquet", *([cell.density_source] if cell.density_source else [])]
    for file in files:
        total.update(sha256_file(file).encode())
    total.update(code_sha256(Path(__file__), entries=_CODE).encode())
    for package in ("torch", "transformers", "verl"):
        total.update(f"{package}=={version(package)}".encode())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints in a run's folder, one attempt long; made with what the last attempt left.

    Args:
        run: its `identity`, or None for a run without checkpoints before its end. last: its last step.
    """

    def __init__(self, folder: Path, run: str | None, last: int):
        self.folder, self.run, self.last = folder, run, last
        self.notes: list[str] = []
        """What a user should know of what the last attempt left."""
        self.sealed = self._newest()
        self.resumed = self.sealed
        """Where this attempt begins; None for the first step."""
        self.drop_unsealed()
        for name in (STEPS, STAGES, TRACKER):
            (folder / name).unlink(missing_ok=True)
        if self.sealed is not None:
            for name in (STEPS, STAGES):
                write_whole(folder / name, (self._place(self.sealed.step) / _SEAL / name).read_text(encoding="utf-8"))
            write_whole(folder / TRACKER, str(self.sealed.step))

    @property
    def resumed_after(self) -> list[int]:
        """Steps after which the run was resumed, this attempt's last."""
        return [] if self.resumed is None else [*self.resumed.resumed_after, self.resumed.step]

    @property
    def kept_seconds(self) -> float:
        """Seconds of training that this attempt did not repeat."""
        return 0.0 if self.resumed is None else self.resumed.elapsed

    def look(self) -> None:
        """Seal verl's latest checkpoint if it is new and its step's row is written."""
        if self.run is None:
            return
        step = self._latest()
        if step is None or step >= self.last or (self.sealed is not None and step <= self.sealed.step):
            return
        rows = list(self._rows())
        if not rows or rows[-1]["step"] < step:
            return
        place = self._place(step)
        rows = [row for row in rows if row["step"] <= step]
        (place / _SEAL).mkdir(exist_ok=True)
        _write(place / _SEAL / STEPS, rows)
        _write(place / _SEAL / STAGES, (row for row in read_rows(self.folder / STAGES) if row["step"] <= step))
        files = {}
        for file in sorted(file for file in place.rglob("*") if file.is_file()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            files[file.relative_to(place).as_posix()] = file.stat().st_size
        older = self.sealed
        self._seal(Seal(step, self.run, rows[-1]["elapsed_seconds"], files, _rows_of(place), self.resumed_after))
        if older is not None:
            shutil.rmtree(self._place(older.step))

    def failed(self) -> None:
        """Count an attempt that ended by an error; one that made no step speaks against its checkpoint."""
        self.look()
        if self.resumed is not None and self.sealed == self.resumed:
            rows = list(read_rows(self.folder / STEPS))
            if not rows or rows[-1]["step"] <= self.resumed.step:
                self._seal(replace(self.resumed, failures=self.resumed.failures + 1))

    def drop_unsealed(self) -> None:
        """Remove what no attempt could go on from: it takes room that a full disk does not have."""
        for checkpoint in self.folder.glob(f"{_FOLDER}*"):
            if self.sealed is None or checkpoint != self._place(self.sealed.step):
                shutil.rmtree(checkpoint)

    def finish(self) -> None:
        """Let the seconds since training began go on where the last attempt's ended."""
        if self.resumed is not None:
            _write(self.folder / STEPS, list(self._rows()))

    def remove(self) -> None:
        """Remove all checkpoints of a run that needs them no more."""
        for checkpoint in (*self.folder.glob(f"{_FOLDER}*"), *self.folder.glob(f"{_DAMAGED}{_FOLDER}*")):
            shutil.rmtree(checkpoint)
        (self.folder / TRACKER).unlink(missing_ok=True)

    def _newest(self) -> Seal | None:
        """The seal of the newest checkpoint that is this run's; one that is not what was sealed is set aside."""
        usable = []
        for place in (file.parents[1] for file in list(self.folder.glob(f"{_FOLDER}*/{_SEAL}/{_SEAL}.json"))):
            try:
                values = dict(json.loads((place / _SEAL / f"{_SEAL}.json").read_text(encoding="utf-8")))
                # One of another version of this file has other fields, and is another run's, too.
                if set(values) != set(Seal.__dataclass_fields__) or values["run"] != self.run:
                    continue
                seal = Seal(**values)
                damage = _damage(place, seal)
            except (OSError, ValueError, TypeError) as error:
                damage = f"{_SEAL}.json cannot be read ({error})"
            if damage:
                self._set_aside(place, damage)
            elif seal.failures < MOST_FAILURES:
                usable.append(seal)
            else:
                self.notes.append(f"{place}: {MOST_FAILURES} attempts made no step from it; it is given up")
        return max(usable, key=lambda seal: seal.step, default=None)

    def _set_aside(self, place: Path, damage: str) -> None:
        """Keep one damaged checkpoint until the run has finished: what is wrong may be the disk's."""
        for older in self.folder.glob(f"{_DAMAGED}{_FOLDER}*"):
            shutil.rmtree(older)
        aside = place.rename(place.with_name(f"{_DAMAGED}{place.name}"))
        self.notes.append(
            f"{place}: {damage}; it is not resumed from, and kept as {aside.name} until the run has finished"
        )

    def _latest(self) -> int | None:
        file = self.folder / TRACKER
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        return int(text) if text else None  # empty for a moment while verl writes it

    def _rows(self) -> Iterator[dict[str, Any]]:
        after = 0 if self.resumed is None else self.resumed.step
        for row in read_rows(self.folder / STEPS):
            if row["step"] > after:
                row["elapsed_seconds"] += self.kept_seconds
            yield row

    def _seal(self, seal: Seal) -> None:
        _write(self._place(seal.step) / _SEAL / f"{_SEAL}.json", [asdict(seal)])
        self.sealed = seal

    def _place(self, step: int) -> Path:
        return self.folder / f"{_FOLDER}{step}"


def _damage(place: Path, seal: Seal) -> str:
    """What of a checkpoint is not as it was sealed: its step, the size of a file or its rows; empty if all is."""
    if place.name != f"{_FOLDER}{seal.step}":
        return f"{_SEAL}.json is of step {seal.step}"
    try:
        sizes = {name: (place / name).stat().st_size for name in seal.files}
        rows = _rows_of(place)
    except OSError as error:
        return str(error)
    for name, size in seal.files.items():
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes, and had {size}"
    return "" if rows == seal.rows else "its rows are not those that it was sealed with"


def _rows_of(place: Path) -> str:
    return "".join(sha256_file(place / _SEAL / name) for name in (STEPS, STAGES))


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Whole rows of a file of JSON lines; none if it is missing."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    # A process that was killed may leave half a row.
    return (json.loads(line) for line in lines if line.endswith("\n"))


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
