"""The study of faults: what a run must keep to count as dense PPO's, and that a fault enters where it is said to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groupppo.config import REPOSITORY, Arm, load_arm
from groupppo.errors import BadInput, RunFailed
from groupppo.studies.fault_options import parse_faults
from groupppo.studies.fault_points import POINTS, RAISED, setting, state_file
from groupppo.studies.fault_table import FAULT_COLUMNS
from groupppo.studies.faults import EXACT, Trace, fault_row, fault_table, points_of, with_fallback
from groupppo.studies.names import NO_FAULT
from groupppo.studies.tables import read_table, write_table
from tests.studies.made_faults import made_faults

STEPS = 3


def arm(name: str = "group_ppo") -> Arm:
    return with_fallback(load_arm(REPOSITORY / "benchmarks" / "arms" / f"{name}.yaml"))


def step(number: int, *, fallbacks: int = 0, threshold: float = 1.0) -> dict[str, Any]:
    row: dict[str, Any] = {"step": number, "group/fallbacks": fallbacks}
    return row if fallbacks else row | {"group/threshold": threshold}


def batch(number: int, responses: str) -> dict[str, Any]:
    return {"step": number, "prompts": f"prompts {number}", "responses": responses}


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([1.0, value]), "weight/exp_avg": torch.tensor([0.5, 0.25])}


DENSE = Trace(
    cause="",
    raised=False,
    rows=[step(number) for number in (1, 2, 3)],
    batches=[batch(1, "first"), batch(2, "of the dense policy"), batch(3, "dense")],
    policies=[state(2.0), state(3.0), state(4.0)],
    critics=[state(-2.0), state(-3.0), state(-4.0)],
)
CONTROL = replace(
    DENSE,
    rows=[step(1), step(2, threshold=1.01), step(3, threshold=1.02)],
    batches=[batch(1, "first"), batch(2, "grouped"), batch(3, "grouped")],
    policies=[state(2.5), state(2.6), state(2.7)],
    critics=[state(-2.5), state(-2.6), state(-2.7)],
)
SAFE = replace(
    CONTROL,
    raised=True,
    rows=[step(1, fallbacks=1), step(2), step(3, threshold=1.01)],
    batches=[*DENSE.batches[:2], batch(3, "grouped")],
    policies=[DENSE.policies[0], *CONTROL.policies[1:]],
    critics=[DENSE.critics[0], *CONTROL.critics[1:]],
)


def row(found: Trace, point: str = "rule") -> dict[str, Any]:
    return fault_row(arm(), point, found, CONTROL, DENSE, STEPS)


def test_a_run_whose_faulty_step_was_dense_and_left_no_trace_survived() -> None:
    told = row(SAFE)
    assert told["survived"]
    assert all(told[name] for name in EXACT)
    assert (told["fallbacks"], told["policy_difference"], told["critic_difference"]) == (1, 0.0, 0.0)
    assert set(told) == set(FAULT_COLUMNS["faults"])


def changed(name: str, index: int, value: object) -> Trace:
    items = [*getattr(SAFE, name)]
    items[index] = value
    return replace(SAFE, **{name: items})


NOT_SAFE: dict[str, tuple[Trace, str]] = {
    "a policy one bit apart": (changed("policies", 0, state(2.0000002)), "policy_equal"),
    "a critic of the grouped step": (changed("critics", 0, CONTROL.critics[0]), "critic_equal"),
    "another state of the optimizer": (
        changed("policies", 0, state(2.0) | {"weight/exp_avg": torch.zeros(2)}),
        "policy_equal",
    ),
    "a parameter more": (changed("policies", 0, state(2.0) | {"bias": torch.zeros(1)}), "policy_equal"),
    "a threshold that moved": (changed("rows", 1, step(2, threshold=1.01)), "threshold_kept"),
    "a fallback that was not counted": (changed("rows", 0, step(1)), "counted"),
    "a fallback in another step too": (changed("rows", 2, step(3, fallbacks=1)), "counted"),
    "prompts in another order": (changed("batches", 2, batch(4, "grouped")), "prompts_equal"),
    "responses of another policy": (changed("batches", 1, batch(2, "grouped")), "responses_equal"),
    "a NaN in the end": (changed("critics", 2, state(float("nan"))), "finite"),
}


@pytest.mark.parametrize("case", NOT_SAFE)
def test_whatever_the_fault_left_behind_makes_it_not_survived(case: str) -> None:
    found, name = NOT_SAFE[case]
    told = row(found)
    assert not told["survived"]
    assert [one for one in EXACT if not told[one]] == [name]


def test_a_run_that_ended_is_not_survived_and_keeps_its_cause() -> None:
    ended = replace(SAFE, cause="exit code 1", rows=[], batches=SAFE.batches[:1], policies=[], critics=SAFE.critics[:1])
    told = row(ended)
    assert (told["finished"], told["survived"], told["steps"], told["cause"]) == (False, False, 0, "exit code 1")
    assert told["critic_equal"]
    assert not told["policy_equal"]
    assert told["policy_difference"] != told["policy_difference"]  # NaN: there is no such update


def test_a_fault_that_was_not_raised_or_a_baseline_that_failed_stops_the_study() -> None:
    with pytest.raises(RunFailed, match="rule was not raised"):
        row(replace(SAFE, raised=False))
    with pytest.raises(RunFailed, match="none was raised"):
        row(SAFE, NO_FAULT)
    for name, trace in (("control", replace(CONTROL, cause="killed")), ("dense", replace(DENSE, cause="killed"))):
        with pytest.raises(RunFailed, match="failed: killed"):
            fault_row(arm(), "rule", SAFE, **{"control": CONTROL, "dense": DENSE} | {name: trace}, steps=STEPS)


def test_a_control_that_trains_like_dense_ppo_stops_the_study() -> None:
    control = row(CONTROL, NO_FAULT)
    assert len(fault_table([control, row(SAFE)])) == 2
    blind = row(replace(CONTROL, policies=DENSE.policies), NO_FAULT)
    with pytest.raises(RunFailed, match="group_ppo without a fault trains like dense PPO"):
        fault_table([blind, row(SAFE)])


def test_the_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_table(tmp_path, "faults", made_faults(lost=2))
    again = read_table(tmp_path, "faults")
    assert again.to_dict("list").keys() == FAULT_COLUMNS["faults"].keys()
    assert again["survived"].tolist() == made_faults(lost=2)["survived"].tolist()
    assert (again["cause"] != "").sum() == 2


def test_a_masked_update_has_no_endpoint_pass_and_only_a_streamed_one_keeps_keys_and_values() -> None:
    of = {name: points_of(arm(name)) for name in ("group_ppo", "group_ppo_gathered", "group_ppo_streamed")}
    assert of["group_ppo"][0] == NO_FAULT
    assert set(of["group_ppo_gathered"]) - set(of["group_ppo"]) == {"critic_pass", "policy_pass"}
    assert set(of["group_ppo_streamed"]) - set(of["group_ppo_gathered"]) == {"keys_values"}
    assert {*of["group_ppo_streamed"]} == {NO_FAULT, *POINTS}


# ---- where faults enter, each in a process of its own as in a run

PROGRAM = """
import groupppo.studies.fault_points, importlib, sys
{body}
"""


@pytest.fixture
def in_a_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(point: str, body: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | setting(point, tmp_path)
        del environment["VERL_USE_EXTERNAL_MODULES"]  # the program loads it itself, as verl would
        command = [sys.executable, "-c", PROGRAM.format(body=body)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=REPOSITORY)

    return run


CHANGED = """
from groupppo.studies.fault_points import POINTS
for point, one in POINTS.items():
    home, _, attribute = one.place.partition(":")
    found = importlib.import_module(home)
    for name in attribute.split("."):
        found = getattr(found, name)
    print(point, found.__code__.co_filename.endswith("fault_points.py"))
"""


def test_only_the_place_of_the_fault_is_replaced_and_without_a_fault_none(
    in_a_run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for point in ("policy_pass", NO_FAULT):
        done = in_a_run(point, CHANGED)
        assert done.returncode == 0, done.stderr
        told = dict(line.split() for line in done.stdout.splitlines())
        assert told == {name: str(name == point) for name in POINTS}


ONCE = """
from groupppo.verl import group_stage
for _ in range(2):
    try:
        group_stage.group_tokens()
    except Exception as error:
        print(type(error).__name__)
"""


def test_a_fault_is_raised_once_and_leaves_its_mark(
    in_a_run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert in_a_run("rule", ONCE).stdout.split() == ["InjectedError", "TypeError"]  # then the stock function's own
    assert (tmp_path / RAISED).is_file()


def test_a_process_that_no_study_started_is_left_alone(tmp_path: Path) -> None:
    loaded = "print(any(type(finder).__name__ == '_AfterLoading' for finder in sys.meta_path))"
    code = PROGRAM.format(body=loaded)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GROUPPPO_FAULT")}
    for variables, found in ((environment, "False"), (environment | setting(NO_FAULT, tmp_path), "True")):
        variables.pop("VERL_USE_EXTERNAL_MODULES", None)
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == found


def test_the_environment_names_the_module_and_the_fault(tmp_path: Path) -> None:
    asked = setting("rule", tmp_path)
    assert json.loads(asked["GROUPPPO_FAULT"]) == {"point": "rule", "folder": str(tmp_path)}
    assert state_file(tmp_path, "policy", 2) == tmp_path / "policy_2.pt"


# ---- the command line


def words(**changes: object) -> list[str]:
    folder = REPOSITORY / "benchmarks"
    options = {"benchmark": folder / "updates.yaml", "task": "t", "model": "tiny", "start": "s", "out": "o"} | changes
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_options_that_could_test_nothing_are_refused(tmp_path: Path) -> None:
    assert parse_faults(words(), "").steps == STEPS
    with pytest.raises(BadInput, match=r"--steps = 1(.|\n)*at least 2"):
        parse_faults(words(steps=1), "")
    with pytest.raises(BadInput, match="--benchmark"):
        parse_faults(words(benchmark=tmp_path / "alone.yaml"), "")
    options = parse_faults(words(), "")
    assert options.named({"tiny": 1}, "model", "tiny") == 1
    with pytest.raises(BadInput, match=r"--model = 'large'(.|\n)*has: tiny"):
        options.named({"tiny": 1}, "model", "large")
