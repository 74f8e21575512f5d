"""Logs as arrays: what is in the file is in the arrays, and a line that is anything else is named."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.records.plain_json import parse_json
from groupppo.tables.logs import read_stages, read_steps

NUMBERS = st.one_of(st.none(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
METRICS = st.dictionaries(st.sampled_from(["a", "b/mean", "c:d", 'e"f', "\u00e9"]), NUMBERS, max_size=5)
STAGE = {"step": 1, "stage": "gen", "seconds": 1, "cpu_seconds": 1.0, "peak_bytes": 5.0, "rise_bytes": 1}
STAGE |= {"tokens": 1, "endpoints": 1}


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@given(st.lists(METRICS, max_size=6), st.randoms(use_true_random=False))
def test_every_value_of_steps_is_in_the_arrays(tmp_path_factory, rows, random):
    numbered = [{"step": i, **row} for i, row in enumerate(rows, start=1)]
    random.shuffle(numbered)
    log = read_steps(write(tmp_path_factory.mktemp("log") / "steps.jsonl", numbered))
    assert log.steps.tolist() == [row["step"] for row in numbered]
    assert set(log.names) == {name for row in rows for name in row}
    for line, row in enumerate(numbered):
        for at, name in enumerate(log.names):
            assert log.logged[line, at] == (name in row)
            value = row.get(name)
            assert np.isnan(log.values[line, at]) if value is None else log.values[line, at] == float(value)


def test_numbers_of_a_flat_line_take_no_call_each():
    calls = []
    text = json.dumps({"step": 1} | {f"metric/{i}": i + 0.5 for i in range(1000)}).encode()
    sys.setprofile(lambda frame, event, _: calls.append(event) if event == "call" else None)
    try:
        parse_json(text, Path("steps.jsonl"), "line 1", "hint")
    finally:
        sys.setprofile(None)
    assert len(calls) < 100


@given(st.dictionaries(st.text(), st.one_of(NUMBERS, st.booleans(), st.text()), max_size=5), st.booleans())
def test_a_flat_line_is_what_json_says_it_is(row, ascii_only):
    try:
        text = json.dumps(row, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return
    assert repr(parse_json(text, Path("steps.jsonl"), "line 1", "hint")) == repr(json.loads(text))


ODD = {
    "a key twice": b'{"step": 1, "a": 1, "a": 2}\n',
    "NaN": b'{"step": 1, "a": NaN}\n',
    "beyond a float": b'{"step": 1, "a": 1e999}\n',
    "an integer beyond a float": b'{"step": 1, "a": 1' + b"0" * 400 + b"}\n",
    "true": b'{"step": 1, "a": true}\n',
    "a text": b'{"step": 1, "a": "1"}\n',
    "a list": b'[{"step": 1}]\n',
    "two objects in a line": b'{"step": 1},{"step": 2}\n',
    "an object over two lines": b'{"step": 1}\n{"step": 3\n"a": 1}\n',
    "half a line": b'{"step": 1, "a": 0.',
    "a blank line": b'{"step": 1}\n\n{"step": 2}\n',
    "no text": b"PAR1\xff\xfe\x00",
    "step zero": b'{"step": 0}\n',
    "half a step": b'{"step": 1.5}\n',
    "a step of more than 64 bits": b'{"step": 1e300}\n',
    "no step": b'{"a": 1}\n',
    "a step twice": b'{"step": 1}\n{"step": 1.0}\n',
    "deep": b'{"step": ' + b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("case", ODD)
def test_a_line_that_is_no_step_is_named(tmp_path, case):
    file = tmp_path / "steps.jsonl"
    file.write_bytes(ODD[case])
    with pytest.raises(BadInput, match="line") as caught:
        read_steps(file)
    assert caught.value.file == str(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", 0),
        ("stage", ""),
        ("stage", 1),
        ("seconds", -1),
        ("seconds", None),
        ("tokens", 0.5),
        ("tokens", 2.0**63),
    ],
)
def test_a_line_that_is_no_stage_is_named(tmp_path, key, value):
    with pytest.raises(BadInput, match=f"line 2 {key}"):
        read_stages(write(tmp_path / "stages.jsonl", [STAGE, STAGE | {"step": 2, key: value}]))


def test_a_log_that_the_system_cannot_read_or_that_is_too_large_is_named(tmp_path):
    (tmp_path / "steps.jsonl").symlink_to("/proc/self/mem")  # an input/output error, also for root
    with pytest.raises(BadInput, match="make the file readable"):
        read_steps(tmp_path / "steps.jsonl")
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.truncate((1 << 30) + 1)  # takes no room
    with pytest.raises(BadInput, match="more than 1,073,741,824 bytes"):
        read_steps(tmp_path / "large.jsonl")


@pytest.mark.parametrize("read", [read_steps, read_stages])
def test_an_empty_log_has_no_rows_and_a_missing_one_is_refused(tmp_path, read):
    (tmp_path / "empty").touch()
    log = read(tmp_path / "empty")
    assert len(log.steps if read is read_steps else log) == 0
    for place in ("missing", "."):
        with pytest.raises(BadInput, match="file = "):
            read(tmp_path / place)
