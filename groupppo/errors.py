"""Errors that tell a user which file, key and value is wrong, and how to mend it."""

from pathlib import Path


class GroupPPOError(Exception):
    """Base class of every error this package raises on purpose."""


class BadInput(GroupPPOError):
    """Something a user wrote cannot be used.

    Args:
        file: the file that holds the bad value, or the name of the setting's home when there is no file.
        key: dotted path of the key, or what is wrong about the file as a whole.
        value: the value found; ``None`` prints as ``missing``.
        mend: one sentence that says what to write instead.
    """

    def __init__(self, file: str | Path, key: str, value: object, mend: str):
        self.file, self.key, self.value, self.mend = str(file), key, value, mend
        shown = "missing" if value is None else repr(value)
        super().__init__(f"{self.file}: {key} = {shown}\n  mend: {mend}")

    def __reduce__(self) -> tuple[type["BadInput"], tuple[str, str, object, str]]:
        # The default rebuilds from the message alone, which loses the parts on the way out of a worker process.
        return type(self), (self.file, self.key, self.value, self.mend)


class RunFailed(GroupPPOError):
    """A training run ended without its results; the message names the run, the cause and its log."""
