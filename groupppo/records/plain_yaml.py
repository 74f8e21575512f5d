"""The YAML that files here may use: text, numbers, true, false and null in mappings and lists, read in bounded time.

Tags, aliases, merge keys, repeated keys, infinities, control characters and directives are refused with their line.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from groupppo.errors import BadInput
from groupppo.records.plain_json import read_bytes

LARGEST, DEEPEST, MOST_NODES = 1 << 20, 60, 15_000
"""Bytes of a file, levels of nesting, and keys and values together."""
LONGEST_TEXT = 20_000
"""Characters of one text."""
# As YAML 1.1 reads them, without its minutes and seconds, octal numbers and dates: 1:30, 010, 2026-11-30 are text.
_WORDS: dict[str, bool | None] = {"": None, "~": None}
for _word, _meaning in {**yaml.SafeLoader.bool_values, "null": None}.items():
    _WORDS |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _meaning)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,39})")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]{0,39}\.[0-9_]{0,39}|\.[0-9][0-9_]{0,39})(?:[eE][-+][0-9]{1,40})?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        BadInput: missing, unreadable, empty, too large, not UTF-8, not YAML, or more than this module's YAML.
    """
    content = read_bytes(path, "check the path: the file does not exist, or is no plain file.", LARGEST)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(path, "file", f"byte {error.object[error.start]:#x} at {error.start}", "write UTF-8.") from None
    try:
        return _Reader(text, path).document()
    except yaml.reader.ReaderError as error:
        line = content.count(b"\n", 0, error.position) + 1
        value = f"the character U+{error.character:04X}" if isinstance(error.character, int) else error.reason
        raise BadInput(path, f"line {line}", value, "remove it: YAML does not allow it.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadInput(path, f"line {mark.line + 1}" if mark else "file", error.problem, "write valid YAML.") from None


class _Reader:
    """One document from libyaml's events, which it makes one by one as they are asked for."""

    def __init__(self, text: str, file: Path):
        self.events = yaml.parse(text, Loader=yaml.CBaseLoader)
        self.file, self.nodes = file, 0

    def document(self) -> Any:
        next(self.events)  # the start of the stream
        start = next(self.events)
        if isinstance(start, yaml.StreamEndEvent):
            raise BadInput(self.file, "file", "empty", "write its keys; `groupppo new` writes a file to start from.")
        if start.version or start.tags:
            raise self.refused(start, "a directive", "leave out the line with %.")
        value = self.value(next(self.events), 1)
        next(self.events)  # the end of the document
        more = next(self.events)
        if not isinstance(more, yaml.StreamEndEvent):
            raise self.refused(more, "another document", "write one to a file.")
        return value

    def value(self, event: yaml.Event, depth: int) -> Any:
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            raise self.refused(event, f"the alias *{event.anchor}", "write the value out.")
        if event.tag is not None:
            raise self.refused(event, f"the tag {event.tag}", "leave it out: plain values, lists and mappings do.")
        if depth > DEEPEST:
            raise self.refused(event, "nesting", f"write at most {DEEPEST} levels.")
        if self.nodes > MOST_NODES:
            raise self.refused(event, "length", f"write at most {MOST_NODES:,} keys and values.")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return [self.value(item, depth + 1) for item in self.until(yaml.SequenceEndEvent)]
        values: dict[str, Any] = {}
        for key_event in self.until(yaml.MappingEndEvent):
            key = self.value(key_event, depth + 1)
            if key == "<<":
                raise self.refused(key_event, "the merge key <<", "write the keys out.")
            if not isinstance(key, str):
                hint = "write a key that is text; quote it if it is meant."
                raise self.refused(key_event, f"the key {str(key)[:80]}", hint)
            if key in values:
                raise self.refused(key_event, f"the key {key[:80]}, written twice", "write it once.")
            values[key] = self.value(next(self.events), depth + 1)
        return values

    def until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        for event in self.events:
            if isinstance(event, end):
                return
            yield event

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if len(text) > LONGEST_TEXT:
            raise self.refused(event, f"{len(text):,} characters", f"write at most {LONGEST_TEXT:,}.")
        for character in text:
            if character not in "\n\t" and unicodedata.category(character) in _UNSEEN:
                raise self.refused(event, f"the character U+{ord(character):04X}", "remove it: nobody sees it.")
        if not event.implicit[0]:  # quoted
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        number = float(text.replace("_", "")) if _FLOAT.fullmatch(text) else None
        if _NOT_FINITE.fullmatch(text) or number in (math.inf, -math.inf):
            raise self.refused(event, text, "write a finite number.")
        return text if number is None else number

    def refused(self, event: yaml.Event, problem: str, hint: str) -> BadInput:
        return BadInput(self.file, f"line {event.start_mark.line + 1}", problem, hint)
