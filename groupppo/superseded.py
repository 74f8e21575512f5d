"""Finished results that are to be made again: set aside until the new ones are there, and found again till then.

Snakemake removes a job's outputs as the job starts, and when it fails or cannot be submitted. Here they move into
`superseded/` beside their place instead, with what Snakemake recorded of how they were made. They come back when the
same is asked for again, and go when a successor has finished: there is never more than one generation of them.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "superseded"
# What stays in the folder of a run: what its next attempt goes on from, and what a failed one said.
_STAYS = re.compile(rf"global_step_\d+|latest_checkpointed_iteration\.txt|failed|{FOLDER}")


class Superseded:
    """The results of one job, in their place or set aside.

    Args:
        outputs: the files and folders that the job declares.
        own_folder: whether all else that is in their folder is the job's, too.
    """

    def __init__(self, outputs: Sequence[Path], *, own_folder: bool):
        self.outputs, self.own_folder = outputs, own_folder
        self.note = _aside(outputs[0]).with_name(f"{outputs[0].name}.record")

    @property
    def kept(self) -> bool:
        """Whether all of them are set aside."""
        return self.note.is_file() and all(map(os.path.lexists, map(_aside, self.outputs)))

    @property
    def there(self) -> bool:
        """Whether all of them are in their place."""
        return all(map(os.path.lexists, self.outputs))

    def set_aside(self, records: Mapping[str, Any]) -> None:
        """Move what is in its place; nothing happens where no output is. Older results make room for a whole set.

        Args:
            records: of each output, how it was made; as JSON.
        """
        if not any(map(os.path.lexists, self.outputs)):
            return
        if self.there:
            self.drop()
        self.note.parent.mkdir(exist_ok=True)
        if not self.note.exists():
            new = self.note.with_name(f"{self.note.name}.new")
            new.write_text(json.dumps(records), encoding="utf-8")
            new.rename(self.note)
        for path in self._in_place():
            place = _aside(path)
            place.parent.mkdir(exist_ok=True)
            if not os.path.lexists(place):  # or else of a move that was interrupted
                path.rename(place)

    def records(self) -> dict[str, Any]:
        """What `set_aside` was given."""
        records: dict[str, Any] = json.loads(self.note.read_text(encoding="utf-8"))
        return records

    def put_back(self) -> None:
        """Move all back, in the place of what another attempt left; for results that are `kept`."""
        for path in self._in_place():
            _remove(path)
        for path in self._set_aside():
            path.rename(path.parents[1] / path.name)
        self.drop()

    def drop(self) -> None:
        """Remove what is set aside."""
        for path in [*self._set_aside(), self.note]:
            _remove(path)
        for folder in {_aside(path).parent for path in self.outputs}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _in_place(self) -> list[Path]:
        folder = self.outputs[0].parent
        if self.own_folder:
            return [path for path in folder.iterdir() if not _STAYS.fullmatch(path.name)]
        return [path for path in self.outputs if os.path.lexists(path)]

    def _set_aside(self) -> list[Path]:
        folder = self.note.parent
        if self.own_folder:
            return [path for path in folder.iterdir() if path != self.note] if folder.is_dir() else []
        return [path for path in map(_aside, self.outputs) if os.path.lexists(path)]


def _aside(path: Path) -> Path:
    return path.parent / FOLDER / path.name


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
