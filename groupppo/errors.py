"""Errors that tell a user which file, key and value is wrong, and how to fix it."""

import difflib
from collections.abc import Iterable
from pathlib import Path

_LONGEST, _LONGEST_HINT = 200, 1000


class GroupPPOError(Exception):
    """Base class of every error this package raises on purpose."""


class BadInput(GroupPPOError):
    """Something a user wrote cannot be used.

    Args:
        file: the file that holds the bad value, or the name of the setting's home when there is no file.
        key: dotted path of the key, or what is wrong about the file as a whole.
        value: the value found; ``None`` prints as ``missing``.
        hint: one sentence that says what to write instead.
    """

    def __init__(self, file: str | Path, key: str, value: object, hint: str):
        self.file, self.key, self.value, self.hint = str(file), key, value, _short(hint, _LONGEST_HINT)
        shown = "missing" if value is None else _short(repr(value), _LONGEST)
        super().__init__(f"{self.file}: {key[:_LONGEST]} = {shown}\n  hint: {self.hint}")

    def __reduce__(self) -> tuple[type["BadInput"], tuple[str, str, object, str]]:
        # The default rebuilds from the message alone, which loses the parts on the way out of a worker process.
        return type(self), (self.file, self.key, self.value, self.hint)


class ParamError(GroupPPOError, ValueError):
    """A generator's or factory's complaint about one of its parameters; whoever reads the file adds its name."""

    def __init__(self, key: str, value: object, hint: str):
        self.key, self.value, self.hint = key, value, hint
        super().__init__(f"{key} = {value!r}: {hint}")


class RunFailed(GroupPPOError):
    """A training run ended without its results; the message names the run, the cause and its log."""


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def suggest(word: object, known: Iterable[object]) -> str:
    """ "did you mean ...? " with the closest of the known words, or nothing where none is close."""
    close = difflib.get_close_matches(str(word)[:_LONGEST], [str(each) for each in known], n=1)
    return f"did you mean {close[0]}? " if close else ""
