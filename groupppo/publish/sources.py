"""Sources in a bundle against what they were copied from: the record of its matrix, and the commit that it names."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.publish.evaluations import Difference
from groupppo.publish.files import LOCKS, RECORD, RIGHTS
from groupppo.publish.matrix import CONFIG, copied_files, read_record, written_files

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass
class Sources:
    """The sources of a bundle, of which `check` yields what is not as it was copied.

    Args:
        folder: the bundle's files. source: what its manifest says of its sources: commit, and hash of what differed.
        checked: how many are as they were copied. unchecked: what nobody can compare here, in words; empty if nothing.
    """

    folder: Path
    source: Mapping[str, Any]
    checked: int = field(default=0, init=False)
    unchecked: str = field(default="", init=False)

    def check(self) -> Iterator[Difference]:
        record = read_record(self.folder / RECORD)
        written = {f"{CONFIG}/{name}": content for name, content in written_files(record).items()}
        claims = self.folder / CONFIG / Path(record["claims"]).name
        copied = {f"{CONFIG}/{name}": place.as_posix() for name, place in copied_files(record, claims).items()}
        copied |= {name: name for name in (*LOCKS, *RIGHTS)}
        present = {f"{file.relative_to(self.folder)}" for file in (self.folder / CONFIG).rglob("*") if file.is_file()}
        for name in sorted(present - set(written) - set(copied)):
            yield name, "no such file: neither the matrix nor the claims name it", "a file"
        for name, content in written.items():
            yield from self._compared(name, content, f"what {RECORD} makes of it")
        commit = str(self.source.get("commit"))
        reason = _unknown(commit, self.source.get("uncommitted_sha256"))
        if reason:
            self.unchecked = f"{len(copied)} copied sources are unchecked: {reason}"
            return
        for name, place in sorted(copied.items()):
            content = _blob(commit, place)
            if content is None and name.startswith(f"{CONFIG}/studies/"):
                # Where studies lay before they were modules of the package.
                content = _blob(commit, f"benchmarks/studies/{Path(place).name}")
            yield from self._compared(name, content, f"{place} of commit {commit}")

    def _compared(self, name: str, content: bytes | None, whose: str) -> Iterator[Difference]:
        file = self.folder / name
        found = file.read_bytes() if file.is_file() else None
        if found == content:
            self.checked += found is not None
        else:
            yield name, whose if content is not None else f"no such file: {whose} is none", _told(found)


def _told(found: bytes | None) -> str:
    return "no file" if found is None else "another content"


def _unknown(commit: str, uncommitted: Any) -> str:
    """Why the sources cannot be compared with the repository."""
    if not _COMMIT.fullmatch(commit):
        return "the bundle names no commit."
    if uncommitted is not None:
        return f"they were copied from commit {commit} with uncommitted changes."
    if _git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return f"this repository does not have commit {commit}."
    return ""


def _blob(commit: str, place: str) -> bytes | None:
    return _git("cat-file", "blob", f"{commit}:{place}")


def _git(*arguments: str) -> bytes | None:
    """What git prints about this package's repository; None where it fails, or where there is none."""
    if not (REPOSITORY / ".git").exists():
        return None
    command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise BadInput("git", "file", str(error), "install git, by which sources are compared.") from error
    return done.stdout if done.returncode == 0 else None
