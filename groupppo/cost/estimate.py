"""A benchmark's jobs, hours and storage by arm: earlier runs first, the model of work where there are none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from groupppo.config import Arm, Benchmark, CellPlan, Model, Task
from groupppo.cost import model as counted
from groupppo.cost.model import NOTHING, Span, around, largest, total
from groupppo.cost.records import PastRun, finished, past_job, past_runs
from groupppo.errors import BadInput

SAME_ARM, OTHER_ARM = 1.25, 2.0
"""How far a range is widened beyond the runs it comes from: the next machine or hour differs; another arm more."""
RUNS, OTHER_RUNS, COUNTED = "runs", "runs of other arms", "counted"
MOST_NAMES = 4
"""Other arms that an estimate names as its source."""
HOUR = 3600
_Past = Mapping[tuple[str, str], Sequence[PastRun]]
"""Earlier runs by task and model."""
_LATE = ("collect", "verdicts", "figures", "report")
_AT_ONCE = ("resolve", "all")  # jobs that take no time
_STUDY = Span(60, 1800)  # up to the time that its rule asks for
_OFFICE = Span(1e6, 3e7)  # tables, figures and page
_PROMPT = Span(150, 1000)  # bytes of one row of a task


@dataclass(frozen=True)
class Share:
    """What one arm costs, or what all share.

    Attributes:
        jobs: of the whole matrix, as Snakemake counts them. seconds: of all its jobs one after the other, each on
            one core or GPU. size: bytes that stay on disk. run: seconds of its longest training run.
        resumable: bytes that its largest training run keeps besides, until it has finished.
        basis: RUNS, OTHER_RUNS and COUNTED, those that apply.
    """

    name: str
    jobs: int
    seconds: Span
    size: Span
    run: Span
    resumable: Span
    basis: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """`finished`: training runs already there, which the arms still count. `peak`: bytes on disk with `at_once`
    training runs under way, the largest ones, and all others finished. `capped`: arms that may meet the time limit.
    `sources`: what the numbers come from. `notes`: runs that were not used, and why."""

    benchmark: str
    device: str
    arms: tuple[Share, ...]
    shared: Share
    total: Share
    runs: int
    finished: int
    at_once: int
    peak: Span
    capped: tuple[str, ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def hours(self) -> str:
        """What an hour is one of."""
        return "GPU-hours" if self.device == "cuda" else "core-hours"


@dataclass(frozen=True)
class _Cell:
    """One training run on `ranks` cores or GPUs, and its evaluation; `source` says what the numbers come from."""

    train: Span
    ranks: int
    evaluate: Span
    size: Span
    resumable: Span
    basis: str
    source: str


def estimate_cost(
    benchmark: Benchmark, results: Path, device: str | None = None, at_once: int | None = None
) -> Estimate:
    """Cost of the whole matrix, from nothing.

    Args:
        benchmark: its matrix.
        results: the folder of results folders.
        device: "cpu" or "cuda", the benchmark's own unless given; only runs on the same one are used.
        at_once: how many training runs are under way at a time, by default all.

    Raises:
        BadInput: a model has neither earlier runs nor sizes to count from.
    """
    device = device or benchmark.device
    runs, notes = past_runs(benchmark, results, device)
    past = dict[tuple[str, str], list[PastRun]]()
    for run in runs:
        past.setdefault((run.task, run.model), []).append(run)
    limit, plans = benchmark.train.time_limit_s, benchmark.plans()
    cells = {
        arm.name: [
            (_cell(benchmark, *_named(plan, benchmark), arm, past, device), len(plan.seeds))
            for plan in plans
            if arm.name in plan.arms
        ]
        for arm in benchmark.arms.values()
    }
    arms = [_of_arm(name, own, limit) for name, own in cells.items()]
    shared = _shared(benchmark, past, device)
    parts = [*arms, shared]
    whole = Share(
        "total",
        sum(share.jobs for share in parts),
        total(share.seconds for share in parts),
        total(share.size for share in parts),
        largest(share.run for share in parts),
        largest(share.resumable for share in parts),
        tuple(dict.fromkeys(basis for share in parts for basis in share.basis)),
    )
    kept = [cell.resumable for own in cells.values() for cell, seeds in own for _ in range(seeds)]
    kept = sorted(kept, key=lambda span: span.high, reverse=True)[:at_once]
    return Estimate(
        benchmark.name,
        device,
        tuple(arms),
        shared,
        whole,
        runs=sum(len(plan.runs) for plan in plans),
        finished=finished(benchmark, results),
        at_once=len(kept),
        peak=whole.size + total(kept),
        capped=tuple(name for name, own in cells.items() if any(cell.train.high > limit for cell, _ in own)),
        sources=tuple(dict.fromkeys(cell.source for own in cells.values() for cell, _ in own)),
        notes=tuple(notes),
    )


def _of_arm(name: str, cells: Sequence[tuple[_Cell, int]], limit: float) -> Share:
    """Of an arm's cells with their numbers of seeds; a run ends at its time limit in seconds."""
    trains = [cell.train.below(limit) for cell, _ in cells]
    seconds = total(
        (train * cell.ranks + cell.evaluate) * seeds for train, (cell, seeds) in zip(trains, cells, strict=True)
    )
    return Share(
        name,
        2 * sum(seeds for _, seeds in cells),
        seconds,
        total(cell.size * seeds for cell, seeds in cells),
        largest(trains),
        largest(cell.resumable for cell, _ in cells),
        tuple(dict.fromkeys(cell.basis for cell, _ in cells)),
    )


def cost_line(benchmark: Benchmark, results: Path) -> str:
    """One line for whoever looks at a plan: what the whole matrix costs, and how to see it by arm.

    Args:
        results: the folder of results folders.
    """
    ask = f"groupppo cost {benchmark.source}"
    try:
        found = estimate_cost(benchmark, results)
    except BadInput as error:
        return f"The cost of {benchmark.name} is not known: {error.file}: {error.key}; {ask} says why."
    whole = found.total
    there = f", {found.finished} of its {found.runs} runs finished already" if found.finished else ""
    return (
        f"All of {benchmark.name}: {whole.jobs:,} jobs, {whole.seconds.text(HOUR)} {found.hours}, "
        f"{whole.size.bytes_text()}{there} (from: {', '.join(whole.basis)}); by arm: {ask}"
    )


def _named(plan: CellPlan, benchmark: Benchmark) -> tuple[Task, Model]:
    return benchmark.tasks[plan.task], benchmark.models[plan.model]


def _cell(benchmark: Benchmark, task: Task, model: Model, arm: Arm, past: _Past, device: str) -> _Cell:
    here = past.get((task.name, model.name), ())
    same = [run for run in here if run.arm == arm.name]
    ranks = counted.gpus(model) if device == "cuda" else 1
    if not here:
        train = counted.train_seconds(benchmark, task, model, arm, device)
        evaluate = counted.evaluate_seconds(benchmark, task, model, device)
        size = counted.train_bytes(benchmark, model, arm) + counted.evaluate_bytes(benchmark, task)
        source = f"{task.name}/{model.name}: no earlier run; operations counted from the model's shape"
        weights = Span(4.0, 4.0) * counted.shape_of(model).parameters
        resumable = counted.resumable_bytes(benchmark, arm, weights)
        return _Cell(train, ranks, evaluate, size, resumable, COUNTED, source)
    runs, wide = (same, SAME_ARM) if same else (here, OTHER_ARM)
    steps = benchmark.train.steps
    train = around(run.start + steps * run.step for run in runs).widened(wide)
    timed = [run.evaluation for run in runs if run.evaluation is not None]
    evaluate = around(timed).widened(wide) if timed else counted.evaluate_seconds(benchmark, task, model, device)
    kept = 2 if benchmark.train.save_critic and benchmark.trains_critic(arm) else 1
    size = around(kept * run.checkpoint + steps * run.log + run.samples for run in runs).widened(wide)
    # A finished run's checkpoint may be bfloat16.
    weights = around(twice * run.checkpoint for run in runs for twice in (1, 2))
    resumable = counted.resumable_bytes(benchmark, arm, weights)
    return _Cell(train, ranks, evaluate, size, resumable, RUNS if same else OTHER_RUNS, _source(arm, runs, bool(same)))


def _source(arm: Arm, runs: Sequence[PastRun], same: bool) -> str:
    folders = ", ".join(dict.fromkeys(str(run.results) for run in runs))
    machines = ", ".join(dict.fromkeys(run.machine for run in runs))
    steps = "-".join(dict.fromkeys(str(n) for n in (min(run.steps for run in runs), max(run.steps for run in runs))))
    names = list(dict.fromkeys(run.arm for run in runs))
    if len(names) > MOST_NAMES:
        names[MOST_NAMES:] = [f"and {len(names) - MOST_NAMES} more"]
    who = arm.name if same else f"other arms ({', '.join(names)})"
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    return f"{runs[0].task}/{runs[0].model}/{who}: {count} of {steps} steps in {folders} on {machines}"


def _shared(benchmark: Benchmark, past: _Past, device: str) -> Share:
    """Tasks, models, supervised starts and their evaluations, studies, and from tables to the report."""
    job, seconds, size, basis = counted.SPEEDS[device].job, list[Span](), _OFFICE, dict[str, None]()
    folders = sorted({run.results for runs in past.values() for run in runs})

    def timed(rule: str, stem: str, otherwise: Callable[[], Span]) -> None:
        known = past_job(folders, rule, stem)
        basis[RUNS if known else COUNTED] = None
        seconds.append(around(known).widened(SAME_ARM) if known else otherwise())

    for task in benchmark.tasks.values():
        timed("task", task.name, lambda: job)
        size = size + _PROMPT * sum(task.splits.values())
    for model in benchmark.models.values():
        timed("model", model.name, lambda: job)
        starts = sum(plan.model == model.name for plan in benchmark.plans())
        size = size + _folder_bytes(model, past) * (1 + starts)
    for plan in benchmark.plans():
        task, model = _named(plan, benchmark)
        place = f"{task.name}.{model.name}"
        timed("warmstart", place, partial(counted.warmstart_seconds, task, model, device))
        timed("evaluate", f"{place}.start", partial(counted.evaluate_seconds, benchmark, task, model, device))
        size = size + counted.evaluate_bytes(benchmark, task)
        for study in benchmark.studies:
            timed(f"{study}_study", place, lambda: _STUDY)
    seconds += [job] * len((*_LATE, *(["update_costs"] if benchmark.profile else [])))
    return Share("shared", len(seconds) + len(_AT_ONCE), total(seconds), size, NOTHING, NOTHING, tuple(basis))


def _folder_bytes(model: Model, past: _Past) -> Span:
    """A model's folder, which is as large as a checkpoint of it."""
    known = [float(run.checkpoint) for (_, name), runs in past.items() if name == model.name for run in runs]
    return around(known) if known else Span(2.0, 4.0) * counted.shape_of(model).parameters + Span(2e4, 2e7)
