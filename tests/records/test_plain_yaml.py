"""The YAML of benchmarks/: what is meant is read, and what would be taken for something else is refused by its line."""

from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.records.plain_yaml import DEEPEST, LARGEST, LONGEST_TEXT, MOST_NODES, read_yaml

SHIPPED = sorted((REPOSITORY / "benchmarks").rglob("*.yaml"))


def read(tmp_path: Path, text: str | bytes) -> object:
    file = tmp_path / "any.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return read_yaml(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_file_of_the_repository_is_read_as_pyyaml_reads_it(file: Path) -> None:
    assert read_yaml(file) == yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.0e-5", 1e-5),
        ("1e-5", "1e-5"),
        ("-3", -3),
        ("10_000", 10_000),
        ("010", "010"),
        ("'7'", "7"),
        ("on", True),
        ("", None),
        ("'.inf'", ".inf"),
        ("1.0e+308", 1e308),
        ("9" * 6000, "9" * 6000),
        ("1:30", "1:30"),
        ("2026-11-30", "2026-11-30"),
        ("yes", True),
        ("'yes'", "yes"),
        ("~", None),
        ("[a, 1, {b: c}]", ["a", 1, {"b": "c"}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_values_are_what_they_look_like(tmp_path: Path, text: str, value: object) -> None:
    found = read(tmp_path, f"key: {text}\n")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


# What is written, the place that is named and what is said of it.
REFUSED: dict[str, tuple[str | bytes, str, str]] = {
    "an empty file": ("", "file", "empty"),
    "a number that is infinite": ("a: 1\nb: -.inf\n", "line 2", "-.inf"),
    "no number": ("a: .NaN\n", "line 1", ".NaN"),
    "a number that no float holds": ("a: 1.0e+400\n", "line 1", "1.0e+400"),
    "a key written twice": ("a: 1\nb: 2\na: 3\n", "line 3", "a, written twice"),
    "a merge key": ("a: 1\n<<: {b: 2}\n", "line 2", "merge key <<"),
    "an alias": ("a: &x [1]\nb: *x\n", "line 2", "alias *x"),
    "a tag of Python": ("a: 1\nb: !!python/object/apply:os.system ['true']\n", "line 2", "python/object"),
    "a key that is a number": ("a: 1\n7: b\n", "line 2", "key 7"),
    "a key that is a list": ("? [1]\n: a\n", "line 1", "key [1]"),
    "NUL": ("a: 1\nb: x\0y\n", "line 2", "U+0000"),
    "letters from right to left": ("a: 1\nb: \u202egnp\n", "line 2", "U+202E"),
    "an escaped NUL": ('a: "x\\0y"\n', "line 1", "U+0000"),
    "half a pair": (b"a: \xed\xa0\x80\n", "file", "0xed"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "file", "0xff"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2", "another document"),
    "a tab before a key": ("a:\n\tc: d\n", "line 2", "cannot start any token"),
    "nesting": (f"a: {'[' * (DEEPEST + 1)}{']' * (DEEPEST + 1)}\n", "line 1", "nesting"),
    "a long list": (f"a: [{'1,' * MOST_NODES}]\n", "line 1", "length"),
    "a long text": (f"a: {'x' * (LONGEST_TEXT + 1)}\n", "line 1", "characters"),
    "a large file": (f"a: 1\n#{'x' * LARGEST}\n", "size", str(LARGEST)[:3]),
}


@pytest.mark.parametrize(("text", "place", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_plain_yaml_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, place: str, said: str
) -> None:
    with pytest.raises(BadInput) as error:
        read(tmp_path, text)
    assert error.value.file == str(tmp_path / "any.yaml")
    assert error.value.key == place
    assert said in str(error.value.value)
    assert error.value.hint
    assert len(str(error.value)) < 600


def test_what_stands_just_inside_the_bounds_is_read(tmp_path: Path) -> None:
    deep = f"a: {'[' * (DEEPEST - 1)}{']' * (DEEPEST - 1)}\n"
    assert read(tmp_path, deep) == yaml.safe_load(deep)
    assert read(tmp_path, f"a: {'x' * LONGEST_TEXT}\n") == {"a": "x" * LONGEST_TEXT}
    assert read(tmp_path, "a: &x 1\n") == {"a": 1}  # an anchor that nothing points to
    assert read(tmp_path, "\ufeffa: é ☃\n") == {"a": "é ☃"}


def test_what_is_no_plain_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    for name, said in (("pipe.yaml", "no plain file"), ("", "a folder"), ("absent.yaml", "missing")):
        with pytest.raises(BadInput, match=said):
            read_yaml(tmp_path / name)
