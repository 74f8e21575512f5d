"""The YAML that files here may use: text, numbers, true, false and null in mappings and lists, read in bounded time.

What YAML allows beyond that is refused with its line, because a reader would take it for something else or because a
few lines of it keep a machine busy: tags, aliases, merge keys, keys written twice, infinities, control characters,
directives.
"""

import re
import unicodedata
from pathlib import Path
from typing import Any, ClassVar

import yaml

from groupppo.errors import BadInput

LARGEST, DEEPEST, MOST_NODES = 1 << 20, 60, 15_000
"""Bytes of a file, levels of nesting, and keys and values together."""
LONGEST_TEXT, LONGEST_NUMBER = 20_000, 40
"""Characters of one text and of one number."""
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_LINES = "\n\t"


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        BadInput: missing, unreadable, empty, too large, not UTF-8, not YAML, or more than this module's YAML.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe could wait for ever
            raise BadInput(path, "file", "a folder" if path.is_dir() else "no plain file", "name a YAML file.")
        if path.stat().st_size > LARGEST:
            raise BadInput(path, "size", path.stat().st_size, f"keep it below {LARGEST:,} bytes.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(path, "file", None, "check the path; the file does not exist.") from None
    except OSError as error:
        raise BadInput(path, "file", error.strerror, "name a file that can be read.") from None
    except UnicodeDecodeError as error:
        raise BadInput(path, "file", f"byte {error.object[error.start]:#x} at {error.start}", "write UTF-8.") from None
    try:
        reader = _Reader(text)
        try:
            node = reader.get_single_node()
            if node is None:
                raise BadInput(path, "file", "empty", "write its keys; `groupppo new` writes a file to start from.")
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character U+{error.character:04X}" if isinstance(error.character, int) else error.reason
        raise BadInput(path, f"line {line}", found, "remove it: YAML does not allow it.") from None
    except (OverflowError, ValueError) as error:  # "\UFFFFFFFF"
        raise BadInput(path, f"line {reader.line + 1}", str(error), "write the characters themselves.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = error.note or "write valid YAML."
        raise BadInput(path, f"line {mark.line + 1}" if mark else "file", error.problem, hint) from None


def parse_texts(text: str, file: Path) -> Any:
    """The value of a YAML text whose keys and values are taken as the texts that they are written as.

    By the C reader, which takes a tenth of the time: for configs of a thousand lines, of which there are many. Tags
    have no meaning to it, and keys written twice pass.

    Args:
        text: the YAML.
        file: where it is from, for messages.

    Raises:
        BadInput: it is no YAML, or has an alias; or it would keep a reader busy for minutes, whose time grows with the
            square of the nesting: more than `DEEPEST` levels of brackets or indentation.
    """
    depth = deepest = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    # An indicator of a list or key may stand in place of a space.
    indented = max((len(found[0]) for found in re.finditer(r"^[ \t?-]+", text, re.MULTILINE)), default=0)
    if deepest > DEEPEST or indented > 4 * DEEPEST:
        raise BadInput(file, "nesting", max(deepest, indented // 4), f"refused: more than {DEEPEST} levels.")
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise BadInput(file, "file", "an alias", "write the values out.")
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(file, "file", type(error).__name__, "write valid UTF-8 YAML.") from error


def _refused(node: yaml.Node | yaml.Event, problem: str, hint: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark, note=hint)


class _Reader(yaml.SafeLoader):
    """PyYAML's reader, without what is refused."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, f"the alias *{event.anchor}", "write the value out.")
        self.depth += 1
        self.nodes += 1
        if self.depth > DEEPEST:
            raise _refused(event, "nesting", f"write at most {DEEPEST} levels.")
        if self.nodes > MOST_NODES:
            raise _refused(event, "length", f"write at most {MOST_NODES:,} keys and values.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def fetch_directive(self) -> None:
        mark = self.get_mark()
        raise yaml.scanner.ScannerError(problem="a directive", problem_mark=mark, note="leave out the line with %.")

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _refused(node, node.tag, "write a mapping.")
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if key == "<<":
                raise _refused(key_node, "the merge key <<", "write the keys out.")
            if not isinstance(key, str):
                raise _refused(
                    key_node, f"the key {str(key)[:80]}", "write a key that is text; quote it if it is meant."
                )
            if key in found:
                raise _refused(key_node, f"the key {key[:80]}, written twice", "write it once.")
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def sequence(self, node: yaml.Node) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise _refused(node, node.tag, "write a list.")
        return [self.construct_object(item, deep=True) for item in node.value]

    def text(self, node: yaml.Node) -> str:
        value = self._scalar(node)
        if len(value) > LONGEST_TEXT:
            raise _refused(node, f"{len(value):,} characters", f"write at most {LONGEST_TEXT:,}.")
        for character in value:
            if character not in _LINES and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
                raise _refused(node, f"the character U+{ord(character):04X}", "remove it: nobody sees it.")
        return value

    def number(self, node: yaml.Node) -> int | float:
        value = self._scalar(node)
        kind = int if node.tag.endswith(":int") else float
        matched = (_INTEGER if kind is int else _FLOAT).match(value)
        if matched is None:
            raise _refused(node, value[:80], f"write a{'n integer' if kind is int else ' decimal number'}.")
        if len(value) > LONGEST_NUMBER or "n" in value.lower():
            raise _refused(node, value[:80], f"write a finite number of at most {LONGEST_NUMBER} characters.")
        found = kind(value.replace("_", ""))
        if found in (float("inf"), float("-inf")):
            raise _refused(node, value, "write a finite number.")
        return found

    def truth(self, node: yaml.Node) -> bool:
        value = self._scalar(node).lower()
        if value not in self.bool_values:
            raise _refused(node, value[:80], "write true or false.")
        return self.bool_values[value]

    def nothing(self, node: yaml.Node) -> None:
        if self._scalar(node).lower() not in ("", "~", "null"):
            raise _refused(node, node.value[:80], "write null.")

    def other(self, node: yaml.Node) -> Any:
        raise _refused(node, f"the tag {node.tag}", "leave it out: plain values, lists and mappings do.")

    def _scalar(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise _refused(node, node.tag, "write one value.")
        return str(node.value)


_TAG = "tag:yaml.org,2002:"
_Reader.yaml_constructors.update(
    {
        f"{_TAG}map": _Reader.mapping,
        f"{_TAG}seq": _Reader.sequence,
        f"{_TAG}str": _Reader.text,
        f"{_TAG}int": _Reader.number,
        f"{_TAG}float": _Reader.number,
        f"{_TAG}bool": _Reader.truth,
        f"{_TAG}null": _Reader.nothing,
        None: _Reader.other,
    }
)
# As YAML 1.1 reads them, without its minutes and seconds, octal numbers and dates: 1:30, 010 and 2026-11-30 are text.
for _kind in ("bool", "null"):
    for _first, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        for _tag, _pattern in _resolvers:
            if _tag == f"{_TAG}{_kind}":
                _Reader.yaml_implicit_resolvers.setdefault(_first, []).append((_tag, _pattern))
_Reader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
_Reader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))
