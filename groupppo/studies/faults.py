"""Whether training goes on as dense PPO after any exception, as the origin claims: one fault at a time, in real runs.

    python -m groupppo.studies faults --benchmark benchmarks/updates.yaml --model tiny \\
        --task results/updates/assets/tasks/sorting --start results/updates/assets/starts/sorting/tiny \\
        --out results/updates/studies/faults/sorting.tiny

GROUP-PPO with `on_error: dense`, with a masked, a gathered and a streamed update, is trained for three steps once for
each point at which a fault can be raised, and once without any. The fault is raised once, in the first step, which
every arm begins in dense PPO's state; so parameters and optimizer state at its end must be dense PPO's to the bit. The
later steps show what the fault left behind. verl loads this module in every process of such a run.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unittest.mock import patch

import pandas as pd
import wrapt
from pydantic import Field

from groupppo.config import load_arm, load_benchmark
from groupppo.errors import BadInput, RunFailed
from groupppo.records.folders import RunFolder
from groupppo.studies.shared.study import Clock, Parameters, Shown, Study

if TYPE_CHECKING:
    from torch import Tensor

    from groupppo.draw.blocks import Block
    from groupppo.verl.compose import Cell

ARMS = ("group_ppo", "group_ppo_gathered", "group_ppo_streamed")
UPDATE, ON_ERROR = "algorithm.group_params.update", "algorithm.group_params.on_error"
NO_FAULT, VARIABLE, RAISED, EVENTS = "none", "GROUPPPO_FAULT", "raised", "events.jsonl"
_STAGE, _TRAINER, _ENGINE = "groupppo.verl.group_stage", "groupppo.verl.trainer", "groupppo.verl.engine"
POINTS = {
    "tokens": (_STAGE, "GroupStage._tokens"),
    "rule": (_STAGE, "group_tokens"),
    "advantage": (_STAGE, "group_batch"),
    "write": (_TRAINER, "put_fields"),
    "written": (_TRAINER, "put_fields"),  # raised when all is written, instead of before
    "statistics": (_STAGE, "GroupStage.metrics"),
    "critic_pass": (_ENGINE, "value_pass"),
    "policy_pass": (_ENGINE, "policy_pass"),
    "keys_values": ("groupppo.update.passes", "KeysValuesStore.put"),
    "metrics": (_TRAINER, "step_row"),
}
"""Where a fault is raised: the function that is wrapped, by its module and name."""
HASHED = ("prompts", "responses", "policy", "critic")
_ONLY = {"critic_pass": ("gathered", "streamed"), "policy_pass": ("gathered", "streamed"), "keys_values": ("streamed",)}


class InjectedError(RuntimeError):
    """The fault, found by this name in the log of a failed run."""


def inject(point: str, folder: Path) -> None:
    """Wrap what raises the fault and what records the run, as their modules are loaded.

    Written to the folder: `raised`, once the fault was; a line of `events.jsonl` for each step, with hashes of prompts
    and responses, and for each optimizer step, with a hash of the policy's or critic's parameters and optimizer state.
    """

    def fault(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs) if point == "written" else None
        try:
            (folder / RAISED).open("x").close()
        except FileExistsError:  # not the first call of any process
            return result if point == "written" else wrapped(*args, **kwargs)
        raise InjectedError(point)

    def record(name: str, tensors: Iterable["Tensor"]) -> None:
        parts = (f"{tuple(one.shape)}".encode() + one.detach().cpu().double().numpy().tobytes() for one in tensors)
        with (folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: hashlib.sha256(b"".join(parts)).hexdigest()}) + "\n")

    def step(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
        from groupppo.verl.passes import get_fields

        for name, rows in get_fields(args[0], ["prompts", "responses"]).items():
            record(name, rows.unbind())
        return wrapped(*args, **kwargs)

    def update(wrapped: Callable[..., Any], engine: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        parameters = list(engine.module.parameters())
        moments = [one for each in parameters for one in engine.optimizer.state.get(each, {}).values()]
        # Of one rank, on which a sharded tensor lies whole.
        local = [getattr(one, "to_local", lambda one=one: one)() for one in (*parameters, *moments)]
        record("policy" if "Policy" in type(engine).__name__ else "critic", local)
        return result

    wrap(_TRAINER, "GroupPPOTrainer._compute_old_log_prob", step)
    wrap(_ENGINE, "EndpointPolicyEngine.train_batch", update)
    wrap(_ENGINE, "EndpointValueEngine.train_batch", update)
    if point != NO_FAULT:
        wrap(*POINTS[point], fault)


def wrap(module: str, name: str, wrapper: Callable[..., Any]) -> None:
    """Wrap a function when its module is loaded: when verl loads this one, none of them can be imported yet."""
    wrapt.register_post_import_hook(lambda loaded: wrapt.wrap_function_wrapper(loaded, name, wrapper), module)


if VARIABLE in os.environ:
    _point, _folder = json.loads(os.environ[VARIABLE])
    inject(_point, Path(_folder))


class FaultParameters(Parameters):
    """Whether training goes on as dense PPO after one fault at each point of a step."""

    benchmark: Path
    """File with the settings of the training, beside a folder of arms."""
    model: str
    """Name of the model."""
    start: Path
    """Hugging Face folder that all runs begin from."""
    steps: Annotated[int, Field(ge=2)] = 3
    """Steps of each run; a step after the fault shows what it left."""
    run_seed: int = 1
    """Seed of all runs."""

    @property
    def arm_files(self) -> list[Path]:
        return [self.benchmark.parent / "arms" / f"{name}.yaml" for name in ARMS]

    @property
    def models(self) -> dict[str, Path]:
        return {"start": self.start}


@dataclass(frozen=True)
class Trace:
    """What one run left.

    Attributes:
        cause: why it ended, empty where it finished.
        raised: whether the fault was.
        rows: of steps.jsonl.
        events: hashes of prompts and responses step by step, of policy and critic update by update.
    """

    cause: str
    raised: bool
    rows: list[dict[str, Any]]
    events: Mapping[str, list[str]]


def measure(parameters: FaultParameters, clock: Clock) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The table."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="gppo-faults-") as home:
        run = dense_run(parameters, Path(home) / "dense")
        with clock.stage("dense PPO"):
            dense = trace(run, NO_FAULT)
        for arm in map(load_arm, parameters.arm_files):
            fallback, control = replace(arm, verl=arm.verl | {ON_ERROR: "dense"}), None
            for point in points_of(arm.verl[UPDATE]):
                with clock.stage(f"{arm.name}, {point}"):
                    found = trace(replace(run, arm=fallback, out=Path(home) / arm.name / point), point)
                control = control or found  # the first has no fault
                rows.append(compare({"arm": arm.name, "point": point}, found, control, dense))
    return {"faults": pd.DataFrame(rows)}, {}


def points_of(update: str) -> list[str]:
    """Where a fault can be raised in runs with a `group_params.update`, the control first."""
    return [NO_FAULT, *(name for name in POINTS if update in _ONLY.get(name, (update,)))]


def dense_run(parameters: FaultParameters, out: Path) -> "Cell":
    """Dense PPO with the benchmark's own task, model, device and settings, but for the number of steps."""
    from groupppo.verl.compose import Cell

    benchmark = load_benchmark(parameters.benchmark)
    for key, name in (("models", parameters.model), ("tasks", parameters.task.name)):
        known = getattr(benchmark, key)
        if name not in known:
            raise BadInput(benchmark.source, key, name, f"write one of: {', '.join(known)}.")
    model, arm = benchmark.models[parameters.model], benchmark.arms[benchmark.reference]
    if model.resources.get("gpu", 1) > 1:
        raise BadInput(model.source, "resources.gpu", model.resources["gpu"], "study a model of one rank.")
    if arm.verl.get("algorithm.adv_estimator") != "gae":
        raise BadInput(benchmark.source, "reference", arm.name, "name dense PPO, with which the study compares.")
    task, train = benchmark.tasks[parameters.task.name], replace(benchmark.train, save_critic=False)
    train = replace(train, steps=parameters.steps)
    folder, start = parameters.task.resolve(), parameters.start.resolve()
    return Cell(task, model, arm, parameters.run_seed, train, folder, start, out, device=benchmark.device)


def trace(run: "Cell", point: str) -> Trace:
    """Train one cell with a fault and read what it left."""
    from groupppo.run.launch import train  # imports verl here, before the environment asks it to load this module

    folder, cause = run.out / "faults", ""
    folder.mkdir(parents=True)
    asked = {"VERL_USE_EXTERNAL_MODULES": "groupppo.studies.faults", VARIABLE: json.dumps([point, str(folder)])}
    with patch.dict(os.environ, asked):
        try:
            train(run)
        except RunFailed:
            cause = str(json.loads(RunFolder(run.out).status.read_text(encoding="utf-8"))["cause"])
    rows, lines = (
        [json.loads(line) for line in file.open(encoding="utf-8")] if file.is_file() else []
        for file in (RunFolder(run.out).steps, folder / EVENTS)
    )
    events = {name: [line[name] for line in lines if name in line] for name in HASHED}
    return Trace(cause, (folder / RAISED).exists(), rows, events)


def compare(named: Mapping[str, str], found: Trace, control: Trace, dense: Trace) -> dict[str, Any]:
    """What held in a run with a fault at `named["point"]`; `control` is the same arm without one.

    Raises:
        RunFailed: the fault was not raised, control or dense PPO did not finish, or the control trains like dense PPO,
            so that the comparison cannot tell a grouped step from a dense one.
    """
    who, faulty = f"faults study: {named['arm']}, {named['point']}", named["point"] != NO_FAULT
    if dense.cause or control.cause:
        raise RunFailed(f"{who}: a run without a fault failed: {dense.cause or control.cause}")
    if found.raised != faulty:
        raise RunFailed(f"{who}: the fault was {'not ' if faulty else ''}raised")
    fallbacks, steps = [int(row["group/fallbacks"]) for row in found.rows], len(dense.rows)
    updates = len(dense.events["policy"]) // steps
    same = {
        name: found.events[name][:count] == dense.events[name][:count]
        for name, count in zip(HASHED, (steps, 2, updates, updates), strict=True)
    }
    if not faulty and (same["policy"] or same["critic"]):
        raise RunFailed(f"{who}: without a fault it trains like dense PPO")
    thresholds = [row.get("group/threshold") for row in (*found.rows[1:2], control.rows[0])]
    exact = {
        "finished": not found.cause and len(found.rows) == steps,
        "counted": fallbacks[:1] == [1] and sum(fallbacks) == 1,
        "threshold_kept": len(thresholds) == 2 and thresholds[0] == thresholds[1],
        **{f"{name}_equal": equal for name, equal in same.items()},
    }
    return {**named, "survived": all(exact.values()), **exact, "cause": found.cause}


_EQUAL = "parameters and optimizer state are dense PPO's to the bit, up to the end of the step of the fault."
COLUMNS = {
    "arm": "Name of the arm, with `on_error: dense`.",
    "point": "Where the fault is raised, once, in the first step; `none` is the arm without a fault, the control.",
    "survived": "Whether training went on exactly as dense PPO: whether all of the following hold.",
    "finished": "Whether the run did its planned steps and ended by itself.",
    "counted": "Whether the step of the fault was counted as a fallback, and no other.",
    "policy_equal": f"Whether the policy's {_EQUAL}",
    "critic_equal": f"Whether the critic's {_EQUAL}",
    "threshold_kept": "Whether the next step's threshold is the first step's.",
    "prompts_equal": "Whether all steps have the prompts of dense PPO's run, in its order.",
    "responses_equal": "Whether the responses of the fault's step and of the next are those of dense PPO's run.",
    "cause": "Why the run ended; empty where it did not.",
}


def show(shown: Shown) -> list["Block"]:
    """How many faults were survived, and what held after each."""
    from groupppo.draw.blocks import Table, Text

    rows, settings = shown.tables["faults"], shown.record["settings"]
    faults = rows[rows["point"] != NO_FAULT]
    words = (
        f"One run of {settings['steps']} steps for each of {len(faults)} injection points, seed "
        f"{settings['run_seed']}, with on_error: dense, against {shown.reference}: {int(faults['survived'].sum())} "
        f"went on exactly as it does, {int((~faults['finished']).sum())} ended with the error. Every case was run "
        "once; the same seed repeats a run to the bit. none, the control, must differ from dense PPO."
    )
    body = rows.replace({True: "yes", False: "no"}).astype(str).to_numpy().tolist()
    return [Text(words), Table("Faults", "", [name.replace("_", " ") for name in COLUMNS], body)]


STUDY = Study(
    name="faults",
    title="Study: what a fault does to a run",
    nav="Study of faults",
    order=62,
    parameters=FaultParameters,
    measure=measure,
    columns={"faults": COLUMNS},
    words=frozenset({"arm", "point", "cause"}),
    show=show,
    needs_trained=False,
    trains=True,
    minutes=60,
)
