"""Sanity gates: each has a run that it stops, beside the same run whole, which it lets pass."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from groupppo.tables import GATES, load_tables
from tests.synthetic import rewrite_json, synthetic_benchmark
from tests.tables.conftest import EVAL, RUN, STEPS, Change, run_row, tables_of

START = Path("evals/sorting/tiny/start/result.json")
Row = dict[str, object]


def edit(name: str, change: Callable[[Row], Row | None], folder: Path) -> None:
    """Replace every row of a log by what `change` makes of it; None drops the row."""
    file = folder / RUN / name
    rows = [change(json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def steps(change: Callable[[Row], Row | None]) -> Change:
    return partial(edit, "steps.jsonl", change)


def stages(change: Callable[[Row], Row | None]) -> Change:
    return partial(edit, "stages.jsonl", change)


def at_step(number: int, **values: object) -> Callable[[Row], Row]:
    return lambda row: row | values if row["step"] == number else row


def lacks(number: int) -> Callable[[Row], Row | None]:
    return lambda row: None if row["step"] == number else row


def without(step: int, metric: str) -> Change:
    return steps(lambda row: {key: value for key, value in row.items() if row["step"] != step or key != metric})


def status(**values: object) -> Change:
    return lambda folder: rewrite_json(folder / RUN / "status.json", **values)


def mfus(*values: float | None) -> Change:
    """One value for each step."""
    return steps(lambda row: row | {"perf/mfu/actor": values[row["step"] - 1]})


def on_gpu(name: str) -> Change:
    """A GPU of that name, and an MFU of 0 in every step."""

    def change(folder: Path) -> None:
        rewrite_json(folder / RUN / "provenance.json", device="cuda", machine={"gpu": name})
        mfus(*[0.0] * STEPS)(folder)

    return change


def excess(share: float) -> Change:
    """Make the stages of step 3 take longer than the step by this share."""

    def change(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / RUN / "stages.jsonl").read_text().splitlines()]
        whole = sum(row["seconds"] for row in rows if row["step"] == 3 and row["stage"] != "step") / (1 + share)
        stages(lambda row: row | ({"seconds": whole} if (row["step"], row["stage"]) == (3, "step") else {}))(folder)

    return change


def short(whole: float) -> Change:
    """Stages of a millisecond each, in steps of `whole` seconds."""
    return stages(lambda row: row | {"seconds": whole if row["stage"] == "step" else 0.001})


def same_checkpoint(file: Path, as_file: Path) -> Change:
    return lambda f: rewrite_json(
        f / file, checkpoint_sha256=json.loads((f / as_file).read_text())["checkpoint_sha256"]
    )


def reverse(folder: Path) -> None:
    file = folder / RUN / "steps.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))


# The gate, what breaks a run, and how the reason begins or what it holds.
TRIPS: list[tuple[str, Change, str]] = [
    ("fallbacks", status(fallbacks=1), "1 fallbacks to dense PPO"),
    ("planned_steps", status(planned_steps=6), "planned 6 steps where the benchmark plans 5"),
    ("finished", status(steps=4), "did 4 of 5 steps"),
    ("logged_steps", steps(lacks(5)), "steps.jsonl lacks step 5"),
    ("logged_steps", stages(lacks(2)), "stages.jsonl lacks step 2"),
    ("logged_steps", steps(at_step(5, step=9)), "steps.jsonl lacks step 5"),
    ("logged_steps", status(planned_steps=10**15, steps=10**15), "steps.jsonl lacks step 6 of 1000000000000000"),
    ("logged_steps", status(planned_steps=4), "steps.jsonl has an unplanned step 5 of 4"),
    (
        "stage_sum",
        stages(lambda row: row | ({"seconds": 9.0} if row["stage"] == "adv" else {})),
        "stages of step 1 sum to",
    ),
    ("stage_sum", excess(0.04), "stages of step 3 sum to"),
    ("stage_sum", short(0.001), "stages of step 1 sum to"),
    ("tokens_agree", stages(at_step(3, tokens=6431)), "step 3 has 6431 tokens in stages.jsonl, 6430 by"),
    ("tokens_agree", steps(at_step(3, **{"tokens/response": 6429})), "6429 by tokens/response"),
    (
        "tokens_agree",
        steps(at_step(3, **{"response_length/mean": 6431 / 128})),
        "6431 by response_length/mean times 128 responses",
    ),
    *(
        ("mfu", steps(at_step(2, **{"perf/mfu/actor": value})), f"line 2: perf/mfu/actor is {text},")
        for value, text in ((1.0, "1"), (0.0, "0"), (-0.1, "-0.1"), (None, "null"))
    ),
    ("mfu", mfus(0.4, 0.4, 0.0, 0.4, 0.4), "line 3: perf/mfu/actor is 0,"),
    ("mfu", mfus(*[0.0] * STEPS), "line 1: perf/mfu/actor is 0,"),
    ("mfu", on_gpu("NVIDIA H100 80GB HBM3"), "line 1: perf/mfu/actor is 0,"),
    ("finite", steps(at_step(4, **{"actor/grad_norm": None})), "line 4: actor/grad_norm was not"),
    ("finite", steps(at_step(4, **{"critic/vf_loss": None})), "line 4: critic/vf_loss was not"),
    ("steady_metrics", without(4, "actor/entropy"), "steps.jsonl line 4 lacks actor/entropy"),
    ("start", lambda f: (f / START).unlink(), "the start's evaluation cannot be read: evals/sorting/tiny/start/"),
    ("checkpoint", status(checkpoint_sha256="0" * 64), "is not the run's 000000000000"),
    ("checkpoint", same_checkpoint(EVAL, START), "is the start's"),
]
# What looks odd and is not.
PASSES: dict[str, Change] = {
    "as it is": lambda f: None,
    "stages that take little more than their step": excess(0.02),
    "very short steps": short(0.003),
    "another key": status(note="kept"),
    "steps in another order": reverse,
    "a mean of 32 bits": steps(at_step(3, **{"response_length/mean": 50.2343754})),
    "a possible mfu": steps(at_step(2, **{"perf/mfu/actor": 0.4})),
    "an mfu of a device that verl does not know": on_gpu("NVIDIA L4"),
    "another metric is null": steps(at_step(4, **{"actor/lr": None})),
    "a metric of one step": steps(at_step(5, **{"timing_s/save_checkpoint": 0.1})),
    "its own checkpoint": same_checkpoint(RUN / "status.json", EVAL),
}


@pytest.mark.parametrize(("gate", "breaks", "reason"), TRIPS)
def test_a_gate_stops_the_run_that_it_is_there_for(results, gate, breaks, reason):
    breaks(results[0])
    row = run_row(tables_of(*results))
    assert (row["status"], row["admissible"]) == ("finished", False)
    assert reason in row["reason"]


def test_a_run_outside_the_matrix_is_stopped_and_stays_visible(results):
    folder, _ = results
    tables = tables_of(folder, synthetic_benchmark(seeds=(1,), steps=STEPS))
    assert run_row(tables)["reason"] == "not in the benchmark's matrix"
    assert set(load_tables(folder / "tables").steps["seed"]) == {1}


@pytest.mark.parametrize("case", PASSES)
def test_every_gate_lets_a_sound_run_pass(results, case):
    PASSES[case](results[0])
    row = run_row(tables_of(*results))
    assert row["admissible"], row["reason"]


def test_every_gate_is_tried_here_and_says_what_it_is_for():
    assert {name for name, _, _ in TRIPS} | {"matrix"} == {gate.name for gate in GATES}
    assert all(gate.checks and gate.why.endswith(".") for gate in GATES)
