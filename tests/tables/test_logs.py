"""Logs as arrays: the quick reader gives what the strict one gives, and hands over what it cannot vouch for."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.tables import logs
from groupppo.tables.logs import StageLog, StepLog, read_stages, read_steps, strict_stages, strict_steps

FILE = Path("steps.jsonl")
NUMBERS = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
)
METRICS = st.dictionaries(st.sampled_from(["a", "b/mean", "c:d", 'e"f', "\u00e9"]), NUMBERS, max_size=5)
STAGE = st.fixed_dictionaries(
    {
        "stage": st.sampled_from(["gen", "adv", "step", "a: b"]),
        "seconds": st.one_of(st.floats(0, 1e9), st.integers(0, 5)),
        "cpu_seconds": st.floats(0, 1e9),
        **{name: st.integers(0, 2**40) for name in ("peak_bytes", "rise_bytes", "tokens", "endpoints")},
        "completed": st.booleans(),
    }
)


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def assert_same(first: StepLog | StageLog, second: StepLog | StageLog) -> None:
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)


@settings(max_examples=150)
@given(st.lists(METRICS, max_size=6), st.randoms(use_true_random=False))
def test_both_readers_of_steps_give_the_same_arrays(rows, random):
    numbered = [{"step": i, **row} for i, row in enumerate(rows, start=1)]
    random.shuffle(numbered)
    fast = logs._fast_steps(lines(numbered), FILE)
    if fast is not None:
        assert_same(fast, strict_steps(lines(numbered), FILE))


@settings(max_examples=150)
@given(st.lists(STAGE, min_size=1, max_size=8))
def test_both_readers_of_stages_give_the_same_arrays(rows):
    numbered = [{"step": i // 4 + 1, **row} for i, row in enumerate(rows)]
    fast = logs._fast_stages(lines(numbered), FILE)
    repeated = len({(row["step"], row["stage"]) for row in numbered}) < len(numbered)
    assert fast is None or not repeated
    if fast is not None:
        assert_same(fast, strict_stages(lines(numbered), FILE))


def test_ordinary_logs_are_read_the_quick_way():
    steps = [{"step": i, "loss": 0.1 * i, "tokens": 7, "none": None} for i in (1, 2, 3)]
    steps[-1]["saved"] = 1.5
    log = logs._fast_steps(lines(steps), FILE)
    assert log is not None
    assert log.names == ("loss", "tokens", "none", "saved")
    assert log.logged[:, 3].tolist() == [False, False, True]
    assert log.column("saved")[2] == 1.5
    assert np.isnan(log.column("none")).all()
    assert log.column("other") is None


ODD = {
    "a key twice": b'{"step": 1, "a": 1, "a": 2}\n',
    "NaN": b'{"step": 1, "a": NaN}\n',
    "beyond a float": b'{"step": 1, "a": 1e999}\n',
    "an integer beyond a float": b'{"step": 1, "a": 1' + b"0" * 400 + b"}\n",
    "true": b'{"step": 1, "a": true}\n',
    "a text": b'{"step": 1, "a": "1"}\n',
    "a list": b'[{"step": 1}]\n',
    "two objects in a line": b'{"step": 1},{"step": 2}\n',
    "an object over two lines": b'{"step": 1},{"step": 2}\n{"step": 3\n"a": 1}\n',
    "a null and a text": b'{"step": 1, "a": null, "b": "1"}\n',
    "a null and true": b'{"step": 1, "a": null, "b": true}\n',
    "half a line": b'{"step": 1, "a": 0.',
    "two objects and a blank line": b'{"step": 1}{"step": 2}\n\n',
    "a blank line": b'{"step": 1}\n\n{"step": 2}\n',
    "step zero": b'{"step": 0}\n',
    "half a step": b'{"step": 1.5}\n',
    "no step": b'{"a": 1}\n',
    "a step twice": b'{"step": 1}\n{"step": 1}\n',
    "deep": b'{"step": ' + b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("case", ODD)
def test_what_the_quick_reader_cannot_vouch_for_is_refused_by_name(tmp_path, case):
    file = tmp_path / "steps.jsonl"
    file.write_bytes(ODD[case])
    assert logs._fast_steps(ODD[case], file) is None
    with pytest.raises(BadInput, match="line") as caught:
        read_steps(file)
    assert caught.value.file == str(file)


def test_whole_numbers_that_passed_through_floats_are_accepted_as_such(tmp_path):
    row = {"step": 1, "stage": "gen", "seconds": 1, "cpu_seconds": 1.0, "peak_bytes": 5.0, "rise_bytes": 1}
    file = tmp_path / "stages.jsonl"
    file.write_bytes(lines([row | {"tokens": 1, "endpoints": 1}]))
    assert read_stages(file).peak_bytes.tolist() == [5]


@pytest.mark.parametrize("read", [read_steps, read_stages])
def test_an_empty_log_has_no_rows_and_a_missing_one_is_refused(tmp_path, read):
    (tmp_path / "empty").touch()
    assert len(read(tmp_path / "empty").steps) == 0
    for place in ("missing", "."):
        with pytest.raises(BadInput, match="file = missing"):
            read(tmp_path / place)
