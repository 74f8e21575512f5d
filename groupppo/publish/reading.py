"""Files of a bundle read without trust: sizes are looked at before anything is unpacked into memory."""

import atexit
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.records.plain_json import LARGEST, read_object
from groupppo.tables import SCHEMA, Only, Tables, load_tables
from groupppo.tables.schema import arrow_schema

LARGEST_JSON = LARGEST
"""Bytes of a list of checksums."""
ROWS_PER_BYTE, FREE_ROWS = 20, 10_000
EXPANSION, FREE_BYTES = 200, 64 << 20
MEMORY, MEMORY_PER_BYTE = 1 << 30, 20
SECONDS, BYTES_PER_SECOND = 10, 10_000_000
"""What reading a table may take: rows, bytes, memory and seconds of CPU; more where the file itself is large."""
_MEND = "fetch it again, or make it again from its results."


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of a file of a bundle.

    Raises:
        BadInput: as `groupppo.records.plain_json.read_object`.
    """
    return read_object(file, _MEND)


def safe_tables(folder: Path, only: Mapping[str, Only]) -> Tables:
    """`load_tables`, after a look at what the files say they unpack to; `only` holds `runs` and `evals` whole.

    Raises:
        BadInput: as `load_tables`, also for a table that is not in `only`; a table of more rows or bytes than its size
            can hold honestly; a task, model or arm that is no name of a folder, for files are looked up by them.
    """
    for name in SCHEMA:
        file = folder / f"{name}.parquet"
        found = refuse_bomb(file)
        if not found.equals(arrow_schema(name)):
            hint = "not the columns and types of this version; read it with the version that wrote it."
            raise BadInput(file, "columns", found.names, hint)
    tables = load_tables(folder, only)
    for name, table in (("runs", tables.runs), ("evals", tables.evals)):
        for column in ("task", "model", "arm"):
            for text in table[column].unique():
                if text in ("", ".", "..") or "/" in text or "\0" in text:
                    raise BadInput(folder / f"{name}.parquet", column, text, "refused: not the name of a folder.")
    return tables


def refuse_bomb(file: Path) -> pa.Schema:
    """The columns of a Parquet file, after another process has read it to its end within `MEMORY` and `SECONDS`.

    Raises:
        BadInput: it is missing or not Parquet, holds more rows or bytes than a file of its size can hold honestly, or
            takes more memory or time.
    """
    if not file.is_file():
        raise BadInput(file, "file", None, _MEND)
    size = file.stat().st_size
    word, rows, unpacked, names = _READER.ask(file, MEMORY + MEMORY_PER_BYTE * size, SECONDS + size // BYTES_PER_SECOND)
    if word == "memory":
        raise BadInput(file, "size", size, f"refused: reading it takes more than {MEMORY:,} bytes of memory.")
    if word == "time":
        raise BadInput(file, "size", size, f"refused: reading it takes more than {SECONDS} s.")
    if word != "ok":
        raise BadInput(file, "file", word, f"not Parquet; {_MEND}")
    if rows > FREE_ROWS + ROWS_PER_BYTE * size:
        raise BadInput(file, "rows", rows, "refused: more rows than a file of its size holds.")
    if unpacked > FREE_BYTES + EXPANSION * size:
        raise BadInput(file, "size", unpacked, f"refused: {', '.join(names)[:200]} unpack to far more than its size.")
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(file, "file", str(error).splitlines()[0], f"not Parquet; {_MEND}") from error


class _Reader:
    """The process of decode.py: started for the first file, and again after one that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, file: Path, memory: int, seconds: int) -> tuple[str, int, int, list[str]]:
        """A word, "ok" if all is well, rows, bytes and columns."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps([str(file.absolute()), memory, seconds]), file=process.stdin, flush=True)
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            word, rows, size, names = json.loads(answer)
            return word, rows, size, names
        ended = process.wait()
        self.close()
        word = "time" if ended == -signal.SIGXCPU else f"Arrow ends with {signal.strsignal(-ended) or ended}"
        return word, 0, 0, []

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            # -P: nothing is imported from the folder that this runs in, which may be the stranger's.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("decode.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd="/",
            )
        return self._process


_READER = _Reader()
atexit.register(_READER.close)
