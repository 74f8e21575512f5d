"""Are two mathematical expressions equal? Asked of math-verify in a process of its own, so that nothing hangs us.

math-verify's own timeouts use signals, which rewards, computed in threads, cannot. Here the process is killed when
its time is up, and the next question starts another. Only LaTeX is parsed, by a grammar: nothing a response says is
evaluated as Python, which math-verify's parser of plain expressions would do.

    python -m groupppo.tasks.judge      # one JSON object a line: {"truth": "1/2", "answer": "\\\\frac{1}{2}"}
"""

import json
import selectors
import subprocess
import sys
import threading
import time
from typing import Any

SECONDS = 5.0
STARTUP_SECONDS = 120.0
MEMORY_BYTES = 4 * 2**30
# A longer answer is no answer to a question of these tasks, and parsing takes time that grows with it.
LONGEST_ANSWER = 400

EQUAL, DIFFERENT, UNPARSED, TIMEOUT = "equal", "different", "unparsed", "timeout"


class Judge:
    """A judging process, started by the first question; safe to ask from many threads, one after the other."""

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, truth: str, answer: str) -> str:
        """EQUAL, DIFFERENT, UNPARSED (no mathematics, too long, or the process gave up) or TIMEOUT."""
        if len(answer) > LONGEST_ANSWER:
            return UNPARSED
        with self._lock:
            process = self._running()
            question = json.dumps({"truth": truth, "answer": answer}) + "\n"
            try:
                assert process.stdin is not None
                process.stdin.write(question.encode())
                process.stdin.flush()
                line = _read_line(process, self.seconds)
            except TimeoutError:
                self._end()
                return TIMEOUT
            except OSError:
                line = b""
            if not line:  # the process died, of too much memory or too deep a recursion
                self._end()
                return UNPARSED
            return str(json.loads(line))

    def close(self) -> None:
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "groupppo.tasks.judge"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            if not _read_line(self._process, STARTUP_SECONDS):
                self._end()
                raise RuntimeError("the judging process did not start; is math-verify installed?")
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """One line of a process, or nothing at its end. Raises TimeoutError when it does not come in time."""
    assert process.stdout is not None
    end, line = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            part = process.stdout.read(4096)
            if not part:
                return b""
            line += part
    return line


def _judge(truth: str, answer: str) -> str:
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list[Any]:
        settings = [LatexExtractionConfig(boxed_match_priority=0)]
        return list(parse(f"\\boxed{{{text}}}", settings, fallback_mode="no_fallback", parsing_timeout=None))

    try:
        expected, found = read(truth), read(answer)
        if not expected or not found:
            return UNPARSED
        return EQUAL if verify(expected, found, timeout_seconds=None) else DIFFERENT
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, NotImplementedError):
        return UNPARSED


def _serve() -> None:
    import logging
    import resource

    logging.disable(logging.WARNING)  # math-verify warns that its timeouts are off
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _judge("1", "1")  # imports what takes seconds
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(_judge(**json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
