"""The YAML that files here may use: text, numbers, true, false and null in mappings and lists, read in bounded time.

What YAML allows beyond that is refused with its line, because a reader would take it for something else or because a
few lines of it keep a machine busy: tags, aliases, merge keys, keys written twice, infinities, control characters,
directives.
"""

import math
import re
import unicodedata
from pathlib import Path
from typing import Any, ClassVar

import yaml

from groupppo.errors import BadInput
from groupppo.records.plain_json import read_bytes

LARGEST, DEEPEST, MOST_NODES = 1 << 20, 60, 15_000
"""Bytes of a file, levels of nesting, and keys and values together."""
LONGEST_TEXT, LONGEST_NUMBER = 20_000, 40
"""Characters of one text and of one number."""
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


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
        reader = _Reader(text)
        node = reader.get_single_node()
        if node is None:
            raise BadInput(path, "file", "empty", "write its keys; `groupppo new` writes a file to start from.")
        return _value(node)
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
    """PyYAML's reader of nodes, without what is refused."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, f"the alias *{event.anchor}", "write the value out.")
        if event.tag is not None:
            raise _refused(event, f"the tag {event.tag}", "leave it out: plain values, lists and mappings do.")
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


# As YAML 1.1 reads them, without its minutes and seconds, octal numbers and dates: 1:30, 010 and 2026-11-30 are text.
_TAG = "tag:yaml.org,2002:"
for _kind in ("bool", "null"):
    for _first, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
        for _tag, _pattern in _resolvers:
            if _tag == f"{_TAG}{_kind}":
                _Reader.yaml_implicit_resolvers.setdefault(_first, []).append((_tag, _pattern))
_Reader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
_Reader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    if kind in ("int", "float"):
        number = int(text.replace("_", "")) if kind == "int" and len(text) <= LONGEST_NUMBER else math.nan
        if kind == "float" and len(text) <= LONGEST_NUMBER:
            number = float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            raise _refused(node, text[:80], f"write a finite number of at most {LONGEST_NUMBER} characters.")
        return number
    if len(text) > LONGEST_TEXT:
        raise _refused(node, f"{len(text):,} characters", f"write at most {LONGEST_TEXT:,}.")
    for character in text:
        if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            raise _refused(node, f"the character U+{ord(character):04X}", "remove it: nobody sees it.")
    return text


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _value(key_node)
        if key == "<<":
            raise _refused(key_node, "the merge key <<", "write the keys out.")
        if not isinstance(key, str):
            raise _refused(key_node, f"the key {str(key)[:80]}", "write a key that is text; quote it if it is meant.")
        if key in values:
            raise _refused(key_node, f"the key {key[:80]}, written twice", "write it once.")
        values[key] = _value(value_node)
    return values
