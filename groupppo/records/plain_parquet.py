"""Parquet that anybody may have written: another process (`decode.py`) reads it to its end before this one does."""

import atexit
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput

ROWS_PER_BYTE, FREE_ROWS = 20, 10_000
EXPANSION, FREE_BYTES = 200, 64 << 20
MEMORY, MEMORY_PER_BYTE = 1 << 30, 20
SECONDS, BYTES_PER_SECOND = 10, 10_000_000
"""What reading a table may take: rows, bytes, memory and seconds of CPU; more where the file itself is large."""
_HINT = "fetch it again, or make it again from its results."


def refuse_bomb(file: Path) -> pa.Schema:
    """The columns of a Parquet file, after another process has read it to its end within `MEMORY` and `SECONDS`.

    Raises:
        BadInput: it is missing or not Parquet, holds more rows or bytes than a file of its size can hold honestly, or
            takes more memory or time.
    """
    if not file.is_file():
        raise BadInput(file, "file", None, _HINT)
    size = file.stat().st_size
    word, rows, unpacked, names = _READER.ask(file, MEMORY + MEMORY_PER_BYTE * size, SECONDS + size // BYTES_PER_SECOND)
    if word in ("memory", "time"):
        most = f"{MEMORY:,} bytes of memory" if word == "memory" else f"{SECONDS} s"
        raise BadInput(file, "size", size, f"refused: reading it takes more than {most}.")
    if word != "ok":
        raise BadInput(file, "file", word, f"not Parquet; {_HINT}")
    if rows > FREE_ROWS + ROWS_PER_BYTE * size:
        raise BadInput(file, "rows", rows, "refused: more rows than a file of its size holds.")
    if unpacked > FREE_BYTES + EXPANSION * size:
        hint = f"refused: {', '.join(names)[:200]} unpack to far more than its size."
        raise BadInput(file, "size", unpacked, hint)
    return pq.read_schema(file)


class _Reader:
    """The process of decode.py: started for the first file, and again after one that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, file: Path, memory: int, seconds: int) -> tuple[str, int, int, list[str]]:
        """A word, "ok" if all is well, rows, bytes and columns."""
        if self._process is None or self._process.poll() is not None:
            # -P: nothing is imported from the folder that this runs in, which may be the stranger's.
            command = [sys.executable, "-P", str(Path(__file__).with_name("decode.py"))]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd="/"
            )
        process = self._process
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
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_READER = _Reader()
atexit.register(_READER.close)
