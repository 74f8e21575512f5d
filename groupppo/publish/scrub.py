"""Absolute paths taken out of published files: a reader has no use for them, and they tell who ran what where.

What is replaced depends on the files alone, never on where they lie now, so that a bundle made from a copy of the
results has the same bytes. Records that a program wrote about its own run (configs, provenance, lm-eval's results) lose
every absolute path (`measure.seal.scrub_record`). lm-eval's samples, which are evidence, lose only paths below places
that the records name; a prompt about file systems stays as it is. What is derived is derived from what was scrubbed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from groupppo.records.seal import ABSOLUTE, without_place


@dataclass(frozen=True)
class Places:
    """Beginnings of absolute paths, such as "/place/project/", that are machines' own."""

    beginnings: tuple[str, ...] = ()

    @classmethod
    def of_records(cls, records: Iterable[str]) -> "Places":
        """The first two folders of every absolute path in texts of records."""
        found = {match.group() for text in records for match in ABSOLUTE.finditer(text)}
        return cls(tuple(sorted({"/".join(path.split("/")[:3]) + "/" for path in found if path.count("/") > 2})))


def scrub_samples(text: str, places: Places) -> tuple[str, int]:
    """The text of samples without paths below `places`, and how many there were."""
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        path = match.group()
        if not path.startswith(places.beginnings):
            return path
        count += 1
        return without_place(path)

    if not any(start in text for start in places.beginnings):
        return text, 0
    return ABSOLUTE.sub(replace, text), count
