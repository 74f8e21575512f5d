"""Are two mathematical expressions equal? Asked of math-verify in processes of their own, so that nothing hangs us.

The same question always gets the same answer. A server has imported what takes seconds; it answers each question in
a fork of itself, so that no question sees what an earlier one left in sympy's caches or in memory. What is bounded is
the fork's CPU time, by the kernel and inside C code too: waiting for a busy machine costs nothing. A server or fork
that somebody else ends or stops is asked again and then is an error, never a reward of 0.

math-verify's own timeouts use signals, which rewards, computed in threads, cannot. Only LaTeX is parsed, by a grammar:
nothing a response says is evaluated as Python, which math-verify's parser of plain expressions would do.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from typing import Any

from groupppo.errors import RunFailed

# Seconds of CPU time for one question: see docs/gpu.md for what right answers need and what endless ones would.
SECONDS = 10.0
# Wall seconds after which an answer counts as lost, the server's start included. It is no limit on a question.
PATIENCE_SECONDS = 900.0
ATTEMPTS = 2
MEMORY_BYTES = 4 * 2**30
# A longer answer is no answer to a question of these tasks, and parsing takes time that grows with it.
LONGEST_ANSWER = 400

EQUAL, DIFFERENT, UNPARSED, TIMEOUT = "equal", "different", "unparsed", "timeout"
_LOST = "lost"
# The exit status of a fork says its answer, so that nothing is left half written.
_STATUS = {EQUAL: 10, DIFFERENT: 11, UNPARSED: 12}
# How an expression can break its fork: too deep for the stack, too large for the memory of a C library.
_BROKEN_BY_EXPRESSION = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_WORDS = re.compile(r"(?<=[\d}])\s*[A-Za-z]{3,}(?:[\s/.-]+[A-Za-z]+)*\.?(?:\^\{?[23]\}?)?$")
# What may hold letters that are no variables.
_COMMAND_OR_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+")


class Judge:
    """A judging server, started by the first question; safe to ask from many threads, one after the other.

    Args:
        seconds: CPU time for one question. patience: wall time, after which the server is ended and asked once more.
    """

    def __init__(self, seconds: float = SECONDS, patience: float = PATIENCE_SECONDS):
        self.seconds, self.patience = seconds, patience
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, truth: str, answer: str) -> str:
        """EQUAL, DIFFERENT, UNPARSED (no mathematics, too long, or too much for parser or memory) or TIMEOUT.

        Raises:
            RunFailed: the server, or its fork for this question, was ended from outside or gave no answer, twice.
        """
        if len(answer) > LONGEST_ANSWER:
            return UNPARSED
        question = json.dumps({"truth": truth, "answer": answer})
        with self._lock:
            for _ in range(ATTEMPTS):
                found = self._answer(question)
                if found in (*_STATUS, TIMEOUT):
                    return found
                self.close()
        raise RunFailed(
            f"math-verify gave no answer to {question} in {ATTEMPTS} attempts: its process was killed or stopped, or "
            f"took more than {self.patience:.0f} s of wall time\n"
            "  hint: give the job more memory, or the machine less work; is math-verify installed?"
        )

    def _answer(self, question: str) -> str:
        """A line of the server, nothing where it is gone or says nothing in time."""
        if self._process is None or self._process.poll() is not None:
            # sympy goes through sets: with hashes of text drawn anew its way, and its time, would differ by process.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "groupppo.tasks.judge", str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONHASHSEED": "0"},
            )
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        try:
            print(question, file=pipes.stdin, flush=True)
        except BrokenPipeError:
            return ""
        answered = select.select([pipes.stdout], [], [], self.patience)[0]
        return pipes.stdout.readline().strip() if answered else ""

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _judge(truth: str, answer: str) -> str:
    from latex2sympy2_extended.math_normalization import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # math-verify takes a letter behind a number for a unit, and knows few words. With no variable in the truth they
    # are units; with one, 2t is not 2.
    units = not re.search("[A-Za-z]", _COMMAND_OR_TEXT.sub("", truth))
    normal = NormalizationConfig(basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="all")
    settings = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)]

    def read(text: str) -> list[Any]:
        text = _WORDS.sub("", text) if units else text
        return list(parse(f"\\boxed{{{text}}}", settings, fallback_mode="no_fallback", parsing_timeout=None))

    try:
        expected, found = read(truth), read(answer)
        if not expected or not found:
            return UNPARSED
        return EQUAL if verify(expected, found, timeout_seconds=None) else DIFFERENT
    except Exception:  # whatever sympy raises on nonsense, memory and recursion included
        return UNPARSED


def _judge_in_fork(seconds: float, question: dict[str, str]) -> str:
    child = os.fork()
    if not child:
        status = 0
        try:
            os.closerange(0, 2)  # whoever waits for the server does not wait for its fork
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            status = _STATUS[_judge(**question)]
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGPROF:
        return TIMEOUT
    if -code in _BROKEN_BY_EXPRESSION:
        return UNPARSED
    return next((found for found, status in _STATUS.items() if status == code), _LOST)


def _serve(seconds: float) -> None:
    import gc
    import logging
    import resource

    logging.disable(logging.WARNING)  # math-verify warns that its timeouts are off
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # What all forks begin with: imports that take seconds, grammar and rules that sympy and ANTLR build at first use.
    for truth, answer in ((r"\frac{1}{2}", "0.5"), ("(x+1)^2", "x^2+2x+1"), ("[0,1)", "(0,1]"), (r"\sqrt{50}", "7.07")):
        _judge(truth, answer)
    gc.freeze()
    for line in sys.stdin:
        found = _judge_in_fork(seconds, json.loads(line))
        try:
            print(found, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(0)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
