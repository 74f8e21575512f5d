"""Finished results that are to be made again: set aside until the new ones are there, and found again till then.

Snakemake removes a job's outputs as the job starts. Here they move into `superseded/` beside their place, in a folder
that gets its name when it is whole, by one rename. Whoever is killed in between leaves it under a name that says so:
what was half moved aside moves back, and what was half moved back goes on doing so.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "superseded"
NOTE = ".made_from.json"
# What stays in the folder of a run: what its next attempt goes on from, what a failed one said, who holds it.
_STAYS = re.compile(rf"(damaged_)?global_step_\d+|latest_checkpointed_iteration\.txt|failed|\.lock|{FOLDER}")
_TRIES = 10


class Superseded:
    """The results of one job, in their place or set aside.

    Args:
        outputs: the files and folders that the job declares, all in one folder.
        own_folder: whether all else that is in their folder is the job's, too.
    """

    def __init__(self, outputs: Sequence[Path], *, own_folder: bool):
        if len({path.parent for path in outputs}) > 1:
            raise ValueError(f"outputs in more than one folder: {', '.join(map(str, outputs))}")
        self.outputs, self.own_folder = outputs, own_folder
        self.place = outputs[0].parent
        name = outputs[0].name
        self.generation = self.place / FOLDER / name
        self._leaving, self._returning = (self.generation.with_name(f".{name}.{way}") for way in ("out", "back"))

    @property
    def kept(self) -> bool:
        """Whether a generation is set aside, or on its way back."""
        return self._note is not None

    @property
    def returning(self) -> bool:
        """Whether a move back was interrupted; `put_back` goes on with it."""
        return self._returning.is_dir()

    @property
    def there(self) -> bool:
        """Whether all outputs are in their place."""
        return all(map(os.path.lexists, self.outputs))

    def records(self) -> dict[str, Any] | None:
        """What `set_aside` was given; None where its file was damaged, so that nobody knows what these results are."""
        try:
            found = json.loads(self._note.read_text(encoding="utf-8")) if self._note else None
        except ValueError:
            return None
        return found if isinstance(found, dict) and set(map(str, self.outputs)) <= set(found) else None

    def settle(self) -> None:
        """Undo a move aside that was interrupted: no successor had begun."""
        if self._leaving.is_dir():
            for path in self._in(self._leaving):
                if not os.path.lexists(self.place / path.name):
                    path.rename(self.place / path.name)
            _discard(self._leaving)

    def set_aside(self, records: Mapping[str, Any]) -> None:
        """Move what is in its place, in the place of an older generation; nothing happens where no output is.

        Args:
            records: of each output, how it was made; as JSON.
        """
        self.settle()
        if not any(map(os.path.lexists, self.outputs)):
            return
        for _ in range(_TRIES):  # another job's last generation may take the folder above with it
            with contextlib.suppress(FileNotFoundError):
                self._leaving.mkdir(parents=True)
                break
        with (self._leaving / NOTE).open("w", encoding="utf-8") as note:
            json.dump(records, note)
            note.flush()
            os.fsync(note.fileno())
        for path in self._in_place():
            path.rename(self._leaving / path.name)
        if self.generation.is_dir():
            _discard(self.generation)
        self._leaving.rename(self.generation)

    def put_back(self) -> None:
        """Move all back, in the place of what another attempt left; for results that are `kept`."""
        if not self.returning:
            for path in self._in_place():
                _remove(path)
            self.generation.rename(self._returning)
        for path in self._in(self._returning):
            path.rename(self.place / path.name)
        _discard(self._returning)
        self._tidy()

    def drop(self) -> None:
        """Remove what is set aside."""
        if self.generation.is_dir():
            _discard(self.generation)
        self._tidy()

    @property
    def _note(self) -> Path | None:
        notes = (folder / NOTE for folder in (self._returning, self.generation))
        return next((note for note in notes if note.is_file()), None)

    def _in_place(self) -> list[Path]:
        if self.own_folder:
            return [path for path in self.place.iterdir() if not _STAYS.fullmatch(path.name)]
        return [path for path in self.outputs if os.path.lexists(path)]

    def _in(self, folder: Path) -> Iterator[Path]:
        return (path for path in list(folder.iterdir()) if path.name != NOTE)

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):  # others are in it, or it is gone
            self.generation.parent.rmdir()


def _discard(folder: Path) -> None:
    """Take a folder's name at once, so that nobody sees half of it; what cannot be removed is left under another."""
    trash = folder.with_name(f".{folder.name}.{os.getpid()}.trash")
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
