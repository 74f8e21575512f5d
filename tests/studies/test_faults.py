"""The study of faults: what a run must keep to count as dense PPO's, and that a fault enters where it is said to."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput, RunFailed
from groupppo.studies.faults import (
    COLUMNS,
    EVENTS,
    NO_FAULT,
    POINTS,
    RAISED,
    VARIABLE,
    Trace,
    compare,
    dense_run,
    points_of,
)
from groupppo.studies.shared.study import find_study

EXACT = ("counted", "threshold_kept", "prompts_equal", "responses_equal", "policy_equal", "critic_equal")
NAMED = {"arm": "group_ppo"}


def step(*, fallbacks: int = 0, threshold: float = 1.0) -> dict[str, Any]:
    row: dict[str, Any] = {"group/fallbacks": fallbacks}
    return row if fallbacks else row | {"group/threshold": threshold}


DENSE = Trace(
    cause="",
    raised=False,
    rows=[step(), step(), step()],
    events={
        "prompts": ["p1", "p2", "p3"],
        "responses": ["first", "of the dense policy", "dense"],
        "policy": ["d1", "d2", "d3"],
        "critic": ["c1", "c2", "c3"],
    },
)
CONTROL = replace(
    DENSE,
    rows=[step(), step(threshold=1.01), step(threshold=1.02)],
    events={
        "prompts": ["p1", "p2", "p3"],
        "responses": ["first", "grouped", "grouped"],
        "policy": ["g1", "g2", "g3"],
        "critic": ["h1", "h2", "h3"],
    },
)
SAFE = replace(
    CONTROL,
    raised=True,
    rows=[step(fallbacks=1), step(), step(threshold=1.01)],
    events={
        "prompts": ["p1", "p2", "p3"],
        "responses": ["first", "of the dense policy", "grouped"],
        "policy": ["d1", "g2", "g3"],
        "critic": ["c1", "h2", "h3"],
    },
)


def row(found: Trace, point: str = "rule") -> dict[str, Any]:
    return compare(NAMED | {"point": point}, found, CONTROL, DENSE)


def test_a_run_whose_faulty_step_was_dense_and_left_no_trace_survived() -> None:
    found = row(SAFE)
    assert found["survived"]
    assert all(found[name] for name in EXACT)
    assert set(found) == set(COLUMNS)


def changed(name: str, index: int, value: object) -> Trace:
    if name == "rows":
        return replace(SAFE, rows=[*SAFE.rows[:index], value, *SAFE.rows[index + 1 :]])
    events = SAFE.events[name]
    return replace(SAFE, events=SAFE.events | {name: [*events[:index], value, *events[index + 1 :]]})


NOT_SAFE: dict[str, tuple[Trace, str]] = {
    "a policy one bit apart": (changed("policy", 0, "d1'"), "policy_equal"),
    "a critic of the grouped step": (changed("critic", 0, "h1"), "critic_equal"),
    "a threshold that moved": (changed("rows", 1, step(threshold=1.01)), "threshold_kept"),
    "a fallback that was not counted": (changed("rows", 0, step()), "counted"),
    "a fallback in another step too": (changed("rows", 2, step(fallbacks=1)), "counted"),
    "prompts in another order": (changed("prompts", 2, "p4"), "prompts_equal"),
    "responses of another policy": (changed("responses", 1, "grouped"), "responses_equal"),
}


@pytest.mark.parametrize("case", NOT_SAFE)
def test_whatever_the_fault_left_behind_makes_it_not_survived(case: str) -> None:
    trace, name = NOT_SAFE[case]
    found = row(trace)
    assert not found["survived"]
    assert [one for one in EXACT if not found[one]] == [name]


def test_a_run_that_ended_is_not_survived_and_keeps_its_cause() -> None:
    events = {"prompts": ["p1"], "responses": ["first"], "policy": [], "critic": ["c1"]}
    found = row(replace(SAFE, cause="exit code 1", rows=[], events=events))
    assert (found["finished"], found["survived"], found["cause"]) == (False, False, "exit code 1")
    assert found["critic_equal"]
    assert not found["policy_equal"]


def test_every_optimizer_step_of_the_faults_step_is_compared() -> None:
    """Two updates a step."""
    two = {"policy": ["d1", "d2", "d3", "d4", "d5", "d6"], "critic": ["c1", "c2", "c3", "c4", "c5", "c6"]}
    dense = replace(DENSE, events=DENSE.events | two)
    first = replace(SAFE, events=SAFE.events | {"policy": ["d1", "g2"], "critic": ["c1", "c2"]})
    found = compare(NAMED | {"point": "rule"}, first, CONTROL, dense)
    assert (found["policy_equal"], found["critic_equal"]) == (False, True)


def test_a_comparison_that_could_tell_nothing_stops_the_study() -> None:
    with pytest.raises(RunFailed, match="rule: the fault was not raised"):
        row(replace(SAFE, raised=False))
    with pytest.raises(RunFailed, match="none: the fault was raised"):
        row(SAFE, NO_FAULT)
    for name, trace in (("control", replace(CONTROL, cause="killed")), ("dense", replace(DENSE, cause="killed"))):
        with pytest.raises(RunFailed, match="failed: killed"):
            compare(NAMED | {"point": "rule"}, SAFE, **{"control": CONTROL, "dense": DENSE} | {name: trace})
    assert not row(CONTROL, NO_FAULT)["survived"]
    for name in ("policy", "critic"):
        blind = replace(CONTROL, events=CONTROL.events | {name: DENSE.events[name]})
        with pytest.raises(RunFailed, match="group_ppo, none: without a fault it trains like dense PPO"):
            row(blind, NO_FAULT)


def test_a_masked_update_has_no_endpoint_pass_and_only_a_streamed_one_keeps_keys_and_values() -> None:
    masked, gathered, streamed = (points_of(update) for update in ("masked", "gathered", "streamed"))
    assert masked[0] == NO_FAULT
    assert set(gathered) - set(masked) == {"critic_pass", "policy_pass"}
    assert set(streamed) - set(gathered) == {"keys_values"}
    assert {*streamed} == {NO_FAULT, *POINTS}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"model": "huge"}, "models = 'huge'"), ({"task": "nowhere"}, "tasks = 'nowhere'")],
)
def test_a_task_or_a_model_that_the_benchmark_lacks_is_named(change: dict[str, str], named: str) -> None:
    values = {"benchmark": REPOSITORY / "benchmarks" / "updates.yaml", "task": "t/sorting", "model": "tiny"}
    parameters = find_study("faults").given(values | {"start": "s", "out": "o"} | change)
    with pytest.raises(BadInput, match=named):
        dense_run(parameters, Path("o"))


# ---- where faults enter, in processes of their own as in a run

WRAPPED = """
import wrapt
for point, (module, name) in POINTS.items():
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    print(point, isinstance(found, (wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper)))
"""
CALLED = """
from groupppo.verl import group_stage
for _ in range(2):
    try:
        group_stage.group_tokens()
    except Exception as error:
        print(type(error).__name__)
"""


def in_a_run(point: str, folder: Path, body: str) -> list[str]:
    code = f"import importlib\nfrom groupppo.studies.faults import POINTS\n{body}"
    environment = os.environ | {VARIABLE: json.dumps([point, str(folder)])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_fault_is_raised_once_at_its_place_alone_and_leaves_its_mark(tmp_path: Path) -> None:
    found = in_a_run("rule", tmp_path, CALLED + WRAPPED)
    assert found[:2] == ["InjectedError", "TypeError"]  # then the stock function's own
    assert dict(zip(found[2::2], found[3::2], strict=True)) == {name: str(name == "rule") for name in POINTS}
    assert (tmp_path / RAISED).is_file()
    assert not (tmp_path / EVENTS).exists()


def test_without_a_fault_no_place_is_wrapped(tmp_path: Path) -> None:
    assert set(in_a_run(NO_FAULT, tmp_path, WRAPPED)[1::2]) == {"False"}
