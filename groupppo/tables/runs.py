"""One run, read from its folder: a row that says what became of it, and its logs and evaluation where it may be used.

What is wrong with a run stays with it: `read_run` raises nothing that a file can cause.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.measure.mfu import known_to_verl
from groupppo.records.folders import ResultsFolder, RunFolder
from groupppo.tables.evaluations import Evaluation, read_evaluation, read_start
from groupppo.tables.gates import Facts, findings
from groupppo.tables.keys import Keys
from groupppo.tables.logs import GroupLog, StageLog, StepLog, group_log, read_stages, read_steps
from groupppo.tables.records import Record
from groupppo.tables.schema import DEVICES, FAILED, FINISHED, MISSING, ROLLOUTS, UNREADABLE
from groupppo.tables.usage import stated_mfu, usage_columns

"""Folder in a run's where a failed job keeps what a workflow would delete."""
_SHOWN = 120


@dataclass(frozen=True)
class RunRow:
    """A row of the table `runs`, in the order of its columns."""

    task: str
    model: str
    arm: str
    seed: int | None
    status: str
    cause: str | None = None
    rollout: str | None = None
    device: str | None = None
    steps: int = 0
    planned_steps: int = 0
    fallbacks: int = 0
    startup_seconds: float | None = None
    wall_seconds: float | None = None
    energy_joules: float | None = None
    energy_source: str | None = None
    cpu_energy_joules: float | None = None
    gpu_utilisation: float | None = None
    gpu_peak_bytes: int | None = None
    gpu_hours: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    usage_reason: str | None = None
    admissible: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Run:
    """A run's row, and what goes into the other tables; None where nothing does."""

    row: RunRow
    steps: StepLog | None = None
    stages: StageLog | None = None
    groups: GroupLog | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class Start:
    """The evaluation of a task's and model's start; or None, and why it cannot be read."""

    evaluation: Evaluation | None
    fault: str | None = None


@dataclass(frozen=True)
class Plan:
    """What reading needs of a benchmark, small enough to send to another process.

    Args:
        results: the results folder.
        steps, responses: training steps, and responses per step.
        grouped, critic: arms that form groups, and arms that train a critic.
    """

    results: Path
    steps: int
    responses: int
    grouped: frozenset[str]
    critic: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, results: Path, benchmark: Benchmark) -> "Plan":
        train, arms = benchmark.train, benchmark.arms.values()
        grouped = (arm.name for arm in arms if arm.grouped)
        critic = (arm.name for arm in arms if benchmark.trains_critic(arm))
        responses = train.prompts_per_step * train.responses_per_prompt
        return cls(results, train.steps, responses, frozenset(grouped), frozenset(critic))


def start_of(results: Path, task: str, model: str) -> Start:
    """The start's evaluation, or why there is none."""
    try:
        return Start(read_start(results, task, model))
    except BadInput as error:
        return Start(None, told(error, results))


def stray_row(plan: Plan, folder: Path) -> RunRow:
    """The row of a folder among the runs that is no run's."""
    task, model, arm = folder.relative_to(ResultsFolder(plan.results).runs).parts[:3]
    reason = f"{folder.relative_to(plan.results)}: name it seed<k>, or move it out of runs/"
    return RunRow(task, model, arm, None, UNREADABLE, planned_steps=plan.steps, reason=reason)


def read_run(plan: Plan, keys: Keys, planned: bool, start: Start) -> Run:
    """Read a run. One that failed or is not planned gives its row only, and so does one with a file that is not there
    or cannot be read, its evaluation included: the row then names the file and the line."""
    row = RunRow(*keys, status=MISSING, planned_steps=plan.steps)
    folder = RunFolder(keys.below(ResultsFolder(plan.results).runs))
    try:
        status = _status(folder)
    except BadInput as error:
        there = folder.status.exists() or folder.failed.status.exists()
        return _without(row, UNREADABLE if there else MISSING, plan, error)
    try:
        row = _ended(row, keys, status)
        facts = Facts(planned, row.cause, row.steps, row.planned_steps, plan.steps, plan.responses, row.fallbacks)
        if row.status == FAILED or not planned:
            return Run(_judged(row, facts))
        return _finished(plan, keys, row, facts, start, status)
    except BadInput as error:
        return _without(row, UNREADABLE, plan, error)


def told(error: BadInput, results: Path) -> str:
    """An error as part of a reason: the file relative to the results folder, what is wrong, and the hint."""
    file = Path(error.file)
    place = file.relative_to(results) if file.is_relative_to(results) else file
    shown = "missing" if error.value is None else repr(error.value)
    return f"{place.as_posix()}: {error.key} = {shown[:_SHOWN]} ({error.hint.removesuffix('.')})"


def _status(folder: RunFolder) -> Record:
    file, aside = folder.status, folder.failed.status
    hint = "the run has not ended; run it again, or remove its folder."
    return Record.of_file(aside if aside.is_file() and not file.exists() else file, hint)


def _ended(row: RunRow, keys: Keys, status: Record) -> RunRow:
    """The row with all that status.json and provenance.json say."""
    status.check_keys(keys._asdict())
    failed = status.text("status", (FINISHED, FAILED)) == FAILED
    provenance = RunFolder(status.file.parent).provenance
    known = provenance.is_file() or not failed
    device = Record.of_file(provenance, "run this cell again.").text("device", DEVICES) if known else None
    return replace(
        row,
        status=FAILED if failed else FINISHED,
        cause=status.text("cause") if failed else None,
        rollout=status.text("rollout", ROLLOUTS),
        device=device,
        steps=status.whole("steps"),
        planned_steps=status.whole("planned_steps"),
        fallbacks=status.whole("fallbacks"),
        startup_seconds=status.real("startup_seconds", missing=failed, least=0.0),
        wall_seconds=status.real("wall_seconds", missing=failed, least=0.0),
        **usage_columns(status),
    )


def _finished(plan: Plan, keys: Keys, row: RunRow, facts: Facts, start: Start, status: Record) -> Run:
    folder = RunFolder(status.file.parent)
    steps, stages = read_steps(folder.steps), read_stages(folder.stages)
    evaluation = read_evaluation(plan.results, keys, start.evaluation)
    logged = steps.column("group/fallbacks")
    # A count that only single steps tell of counts too; null says nothing.
    fallbacks = max([row.fallbacks, *([] if logged is None else [int(x) for x in logged if x > 0])])
    groups = group_log(steps, fallbacks > 0) if keys.arm in plan.grouped else None
    facts = replace(
        facts,
        fallbacks=fallbacks,
        critic=keys.arm in plan.critic,
        steps=steps,
        stages=stages,
        evaluation=evaluation,
        start=start.evaluation,
        start_fault=start.fault,
        checkpoint=status.text("checkpoint_sha256") if "checkpoint_sha256" in status.values else None,
        mfu=stated_mfu(status),
        verl_knows=known_to_verl(str(row.device), _gpu(status)),
    )
    return Run(_judged(replace(row, fallbacks=fallbacks), facts), steps, stages, groups, evaluation)


def _gpu(status: Record) -> str | None:
    """The GPU's name by the run's provenance; None for a run on a CPU, or one that does not say."""
    machine = Record.of_file(RunFolder(status.file.parent).provenance, "run this cell again.").values.get("machine")
    gpu = machine.get("gpu") if isinstance(machine, dict) else None
    return gpu if isinstance(gpu, str) else None


def _judged(row: RunRow, facts: Facts) -> RunRow:
    found = findings(facts)
    return replace(row, admissible=not found, reason="; ".join(found) or None)


def _without(row: RunRow, status: str, plan: Plan, error: BadInput) -> Run:
    return Run(replace(row, status=status, admissible=False, reason=told(error, plan.results)))
