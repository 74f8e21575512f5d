"""Sanity gates: each has a run that it stops, beside the same run whole, which it lets pass."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from groupppo.tables import GATES, collect, load_tables
from tests.synthetic import rewrite_json, synthetic_benchmark, write_results

RUN = Path("runs/sorting/tiny/group_ppo/seed2")
EVAL = Path("evals/sorting/tiny/group_ppo/seed2/result.json")
START = Path("evals/sorting/tiny/start/result.json")
STEPS = 5


def edit(folder: Path, name: str, change: Callable[[dict], dict | None]) -> None:
    """Replace every row of a log by what `change` makes of it; None drops the row."""
    file = folder / RUN / name
    rows = [change(json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def at_step(number: int, **values: object) -> Callable[[dict], dict]:
    return lambda row: row | values if row["step"] == number else row


def without(step: int, metric: str) -> Callable[[dict], dict]:
    return lambda row: {key: value for key, value in row.items() if row["step"] != step or key != metric}


NO_MFU = (0.0, 0.0, 0.0, 0.0, 0.0)


def with_mfus(*values: float) -> Callable[[Path], None]:
    """One value for each step."""
    return lambda folder: edit(folder, "steps.jsonl", lambda row: row | {"perf/mfu/actor": values[row["step"] - 1]})


def on_gpu(name: str) -> Callable[[Path], None]:
    """A GPU of that name, and an MFU of 0 in every step."""

    def change(folder: Path) -> None:
        rewrite_json(folder / RUN / "provenance.json", device="cuda", machine={"gpu": name})
        with_mfus(*NO_MFU)(folder)

    return change


def whole_step(folder: Path, excess: float, step: int) -> None:
    """Make the stages of a step take longer than the step by `excess`."""
    rows = [json.loads(line) for line in (folder / RUN / "stages.jsonl").read_text().splitlines()]
    parts = sum(row["seconds"] for row in rows if row["step"] == step and row["stage"] != "step")
    shorter = {"seconds": parts / (1 + excess)}
    edit(folder, "stages.jsonl", lambda row: row | (shorter if (row["step"], row["stage"]) == (step, "step") else {}))


def short(whole: float) -> Callable[[dict], dict]:
    """Stages of a millisecond each, in steps of `whole` seconds."""
    return lambda row: row | {"seconds": whole if row["stage"] == "step" else 0.001}


# What breaks a run, and how the reason begins or what it holds.
TRIPS: dict[str, list[tuple[Callable[[Path], None], str]]] = {
    "fallbacks": [(lambda f: rewrite_json(f / RUN / "status.json", fallbacks=1), "1 fallbacks to dense PPO")],
    "matrix": [],  # below: it takes another matrix
    "planned_steps": [
        (
            lambda f: rewrite_json(f / RUN / "status.json", planned_steps=6),
            "planned 6 steps where the benchmark plans 5",
        )
    ],
    "finished": [(lambda f: rewrite_json(f / RUN / "status.json", steps=4), "did 4 of 5 steps")],
    "logged_steps": [
        (lambda f: edit(f, "steps.jsonl", lambda row: None if row["step"] == 5 else row), "steps.jsonl lacks step 5"),
        (lambda f: edit(f, "stages.jsonl", lambda row: None if row["step"] == 2 else row), "stages.jsonl lacks step 2"),
        (lambda f: edit(f, "steps.jsonl", at_step(5, step=9)), "steps.jsonl lacks step 5"),
    ],
    "stage_sum": [
        (
            lambda f: edit(f, "stages.jsonl", lambda row: row | ({"seconds": 9.0} if row["stage"] == "adv" else {})),
            "stages of step 1 sum to",
        ),
        (lambda f: whole_step(f, 0.04, 3), "stages of step 3 sum to"),
        (lambda f: edit(f, "stages.jsonl", short(0.001)), "stages of step 1 sum to"),
    ],
    "tokens_agree": [
        (lambda f: edit(f, "stages.jsonl", at_step(3, tokens=6431)), "step 3 has 6431 tokens in stages.jsonl, 6430 by"),
        (lambda f: edit(f, "steps.jsonl", at_step(3, **{"tokens/response": 6429})), "6429 by tokens/response"),
        (
            lambda f: edit(f, "steps.jsonl", at_step(3, **{"response_length/mean": 6431 / 128})),
            "6431 by response_length/mean times 128 responses",
        ),
    ],
    "mfu": [
        (
            lambda f, value=value: edit(f, "steps.jsonl", at_step(2, **{"perf/mfu/actor": value})),
            f"line 2: perf/mfu/actor is {text},",
        )
        for value, text in ((1.0, "1"), (0.0, "0"), (-0.1, "-0.1"), (None, "null"))
    ]
    + [
        (with_mfus(0.4, 0.4, 0.0, 0.4, 0.4), "line 3: perf/mfu/actor is 0,"),
        (with_mfus(*NO_MFU), "line 1: perf/mfu/actor is 0,"),
    ],
    "finite": [
        (lambda f: edit(f, "steps.jsonl", at_step(4, **{"actor/grad_norm": None})), "line 4: actor/grad_norm was not"),
        (lambda f: edit(f, "steps.jsonl", at_step(4, **{"critic/vf_loss": None})), "line 4: critic/vf_loss was not"),
    ],
    "steady_metrics": [
        (lambda f: edit(f, "steps.jsonl", without(4, "actor/entropy")), "steps.jsonl line 4 lacks actor/entropy"),
        (lambda f: edit(f, "steps.jsonl", without(5, "reward/mean")), "steps.jsonl line 5 lacks reward/mean"),
    ],
    "start": [(lambda f: (f / START).unlink(), "the start's evaluation cannot be read: evals/sorting/tiny/start/")],
    "checkpoint": [
        (lambda f: rewrite_json(f / RUN / "status.json", checkpoint_sha256="0" * 64), "is not the run's 000000000000"),
        (
            lambda f: rewrite_json(
                f / EVAL, checkpoint_sha256=json.loads((f / START).read_text())["checkpoint_sha256"]
            ),
            "is the start's",
        ),
    ],
}
# What looks odd and is not.
PASSES: dict[str, Callable[[Path], None]] = {
    "as it is": lambda f: None,
    "stages that take little more than their step": lambda f: whole_step(f, 0.02, 3),
    "very short steps": lambda f: edit(f, "stages.jsonl", short(0.003)),
    "another key": lambda f: rewrite_json(f / RUN / "status.json", note="kept"),
    "steps in another order": lambda f: reverse(f / RUN / "steps.jsonl"),
    "a mean of 32 bits": lambda f: edit(f, "steps.jsonl", at_step(3, **{"response_length/mean": 50.2343754})),
    "a possible mfu": lambda f: edit(f, "steps.jsonl", at_step(2, **{"perf/mfu/actor": 0.4})),
    "an mfu of a device that verl does not know": on_gpu("NVIDIA L4"),
    "another metric is null": lambda f: edit(f, "steps.jsonl", at_step(4, **{"actor/lr": None})),
    "a metric of one step": lambda f: edit(f, "steps.jsonl", at_step(5, **{"timing_s/save_checkpoint": 0.1})),
    "its own checkpoint": lambda f: rewrite_json(
        f / RUN / "status.json", checkpoint_sha256=json.loads((f / EVAL).read_text())["checkpoint_sha256"]
    ),
}


def reverse(file: Path) -> None:
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))


def collected(folder: Path, seeds: tuple[int, ...] = (1, 2)):
    collect(folder, synthetic_benchmark(seeds=seeds, steps=STEPS))
    return load_tables(folder / "tables").runs.set_index(["arm", "seed"]).loc[("group_ppo", 2)]


@pytest.mark.parametrize(
    ("gate", "case"), [(gate, case) for gate, cases in TRIPS.items() for case in range(len(cases))]
)
def test_a_gate_stops_the_run_that_it_is_there_for(tmp_path, gate, case):
    write_results(tmp_path, steps=STEPS)
    breaks, reason = TRIPS[gate][case]
    breaks(tmp_path)
    row = collected(tmp_path)
    assert row["status"] == "finished"
    assert not row["admissible"]
    assert reason in row["reason"]


def test_a_run_outside_the_matrix_is_stopped_and_stays_visible(tmp_path):
    write_results(tmp_path, steps=STEPS)
    assert collected(tmp_path, seeds=(1,))["reason"] == "not in the benchmark's matrix"
    assert set(load_tables(tmp_path / "tables").steps["seed"]) == {1}


@pytest.mark.parametrize("case", PASSES)
def test_every_gate_lets_a_sound_run_pass(tmp_path, case):
    write_results(tmp_path, steps=STEPS)
    PASSES[case](tmp_path)
    row = collected(tmp_path)
    assert row["admissible"], row["reason"]


def test_every_gate_is_tried_here_and_says_what_it_is_for():
    assert set(TRIPS) == {gate.name for gate in GATES}
    assert len(GATES) == len({gate.name for gate in GATES})
    assert all(gate.checks and gate.why.endswith(".") for gate in GATES)
