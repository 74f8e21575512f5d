"""A benchmark's jobs, hours and storage by arm; hours from earlier runs, where there are some."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.config import Arm, Benchmark, CellPlan
from groupppo.cost import model as counted
from groupppo.cost.model import NOTHING, Span
from groupppo.errors import BadInput
from groupppo.records.folders import ResultsFolder, RunFolder
from groupppo.records.plain_json import value_at
from groupppo.records.plain_yaml import read_yaml

SAME_ARM, OTHER_ARM = 1.25, 2.0
"""How far a range is widened beyond the runs it comes from: the next machine or hour differs; another arm more."""
RUNS, OTHER_RUNS, COUNTED = "runs", "runs of other arms", "counted"
HOUR = 3600
_ONCE = ("collect", "verdicts", "figures", "report")
_AT_ONCE = ("resolve", "all")  # jobs that take no time
_STUDY = Span(60, 1800)  # up to the time that its rule asks for
_OFFICE = Span(1e6, 3e7)  # tables, figures and page
_PROMPT = Span(150, 1000)  # bytes of one row of a task


@dataclass(frozen=True)
class Share:
    """What one arm costs, or what all share.

    Attributes:
        name: of the arm.
        jobs: of the whole matrix, as Snakemake counts them.
        seconds: of all its jobs one after the other, each on one core or GPU.
        size: bytes that stay on disk.
        run: seconds of its longest training run.
        resumable: bytes that its largest training run keeps besides, until it has finished.
        basis: RUNS, OTHER_RUNS and COUNTED, those that apply.
        sources: what the seconds come from.
    """

    name: str
    jobs: int
    seconds: Span
    size: Span
    run: Span
    resumable: Span
    basis: tuple[str, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What a benchmark costs.

    Attributes:
        runs: training runs.
        peak: bytes on disk with `at_once` training runs under way, the largest ones, and all others finished.
        capped: arms that may meet the time limit.
        notes: runs that were not used, and why.
    """

    benchmark: str
    device: str
    arms: tuple[Share, ...]
    shared: Share
    total: Share
    runs: int
    at_once: int
    peak: Span
    capped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def hours(self) -> str:
        """What an hour is one of."""
        return "GPU-hours" if self.device == "cuda" else "core-hours"


@dataclass(frozen=True)
class PastRun:
    """A finished run that a benchmark's cell of the same task and model can be costed by.

    Attributes:
        results: its results folder.
        machine: the processor or GPU it says it ran on.
        start: wall-clock seconds before the first step.
        step: of one step, at the benchmark's number of responses.
        evaluation: of the evaluation, None where it was not timed.
    """

    arm: str
    results: Path
    machine: str
    steps: int
    start: float
    step: float
    evaluation: float | None


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
        BadInput: a model states no shape and has no sizes to count from.
    """
    device, limit, plans = device or benchmark.device, benchmark.train.time_limit_s, benchmark.plans()
    cells, notes = list[tuple[Share, int]](), list[str]()
    for plan in plans:
        runs = past_runs(benchmark, plan, results, device, notes)
        cells += [(_cell(benchmark, plan, benchmark.arms[arm], runs, device), len(plan.seeds)) for arm in plan.arms]
    arms = [_summed(name, [cell for cell, _ in cells if cell.name == name]) for name in benchmark.arms]
    shared = _shared(benchmark, device)
    whole = _summed("total", [*arms, shared])
    kept = [cell.resumable for cell, seeds in cells for _ in range(seeds)]
    kept = sorted(kept, key=lambda span: span.high, reverse=True)[:at_once]
    return Estimate(
        benchmark.name,
        device,
        tuple(arms),
        shared,
        whole,
        runs=sum(len(plan.runs) for plan in plans),
        at_once=len(kept),
        peak=sum(kept, whole.size),
        capped=tuple(arm.name for arm in arms if arm.run.high >= limit),
        notes=tuple(notes),
    )


def cost_line(benchmark: Benchmark, results: Path) -> str:
    """One line for whoever looks at a plan: what the whole matrix costs, and how to see it by arm.

    Args:
        benchmark: its matrix.
        results: the folder of results folders.
    """
    ask = f"groupppo cost {benchmark.source}"
    try:
        found = estimate_cost(benchmark, results)
    except BadInput as error:
        return f"The cost of {benchmark.name} is not known: {error.file}: {error.key}; {ask} says why."
    whole = found.total
    return (
        f"All of {benchmark.name}: {whole.jobs:,} jobs, {whole.seconds.text(HOUR)} {found.hours}, "
        f"{whole.size.bytes_text()} (from: {', '.join(whole.basis)}); by arm: {ask}"
    )


def _summed(name: str, parts: Sequence[Share]) -> Share:
    """Several shares as one."""

    def largest(spans: Sequence[Span]) -> Span:
        return Span(max(span.low for span in spans), max(span.high for span in spans)) if spans else NOTHING

    return Share(
        name,
        sum(part.jobs for part in parts),
        sum((part.seconds for part in parts), NOTHING),
        sum((part.size for part in parts), NOTHING),
        largest([part.run for part in parts]),
        largest([part.resumable for part in parts]),
        tuple(dict.fromkeys(basis for part in parts for basis in part.basis)),
        tuple(dict.fromkeys(source for part in parts for source in part.sources)),
    )


def _cell(benchmark: Benchmark, plan: CellPlan, arm: Arm, past: Sequence[PastRun], device: str) -> Share:
    """All training runs of an arm on a task and model, and their evaluations; a run ends at its time limit."""
    task, model = benchmark.tasks[plan.task], benchmark.models[plan.model]
    same = [run for run in past if run.arm == arm.name]
    train = counted.train_seconds(benchmark, task, model, arm, device)
    evaluate = counted.evaluate_seconds(benchmark, task, model, device)
    place, basis = f"{task.name}/{model.name}", COUNTED
    source = f"{place}: no earlier run; operations counted from the model's shape"
    if past:
        runs, wide = (same, SAME_ARM) if same else (past, OTHER_ARM)
        basis, source = (RUNS if same else OTHER_RUNS), f"{place}/{_source(arm.name if same else 'other arms', runs)}"
        train = _around([run.start + benchmark.train.steps * run.step for run in runs]).widened(wide)
        timed = [run.evaluation for run in runs if run.evaluation is not None]
        evaluate = _around(timed).widened(wide) if timed else evaluate
    limit, seeds = benchmark.train.time_limit_s, len(plan.seeds)
    train = Span(min(train.low, limit), min(train.high, limit))
    return Share(
        arm.name,
        2 * seeds,
        (train * counted.ranks(model, device) + evaluate) * seeds,
        counted.run_bytes(benchmark, task, model, arm) * seeds,
        train,
        counted.resumable_bytes(benchmark, model, arm),
        (basis,),
        (source,),
    )


def _around(values: Sequence[float]) -> Span:
    return Span(min(values), max(values))


def _source(arms: str, runs: Sequence[PastRun]) -> str:
    folders = ", ".join(dict.fromkeys(str(run.results) for run in runs))
    machines = ", ".join(dict.fromkeys(run.machine for run in runs))
    steps = "-".join(map(str, sorted({min(run.steps for run in runs), max(run.steps for run in runs)})))
    return f"{arms}: {len(runs)} run{'s' if len(runs) > 1 else ''} of {steps} steps in {folders} on {machines}"


def _shared(benchmark: Benchmark, device: str) -> Share:
    """Tasks, models, supervised starts and their evaluations, studies, and from tables to the report."""
    job, plans = counted.SPEEDS[device].job, benchmark.plans()
    once = len(_ONCE) + (benchmark.profile is not None) + len(benchmark.tasks) + len(benchmark.models)
    seconds, size = [job] * once + [_STUDY] * (len(benchmark.studies) * len(plans)), _OFFICE
    for task in benchmark.tasks.values():
        size = size + _PROMPT * sum(task.splits.values())
    for model in benchmark.models.values():
        size = size + counted.folder_bytes(model)
    for plan in plans:
        task, model = benchmark.tasks[plan.task], benchmark.models[plan.model]
        seconds += [
            counted.warmstart_seconds(task, model, device),
            counted.evaluate_seconds(benchmark, task, model, device),
        ]
        size = size + counted.folder_bytes(model) + counted.evaluate_bytes(benchmark, task)
    jobs = len(seconds) + len(_AT_ONCE)
    return Share("shared", jobs, sum(seconds, NOTHING), size, NOTHING, NOTHING, (COUNTED,))


# ---- earlier runs: read from the results folders, never changed


def past_runs(benchmark: Benchmark, plan: CellPlan, results: Path, device: str, notes: list[str]) -> list[PastRun]:
    """Runs of a task and model in all folders of `results` that can be used; why others cannot is added to `notes`."""
    found = list[PastRun]()
    for record in sorted(results.glob(f"*/{ResultsFolder.BENCHMARK}")):
        folder = record.parent / "runs" / plan.task / plan.model
        if not folder.is_dir():
            continue
        where = f"{record.parent}, {plan.task}/{plan.model}: not used: "
        try:
            matrix = read_yaml(record)
        except BadInput as error:
            notes.append(f"{where}{error.key} of {record.name} cannot be read")
            continue
        differs = next(_differences(benchmark, matrix, plan), None)
        if differs:
            notes.append(f"{where}{differs} differs")
            continue
        left_out: dict[str, list[str]] = {}
        for file in sorted(folder.glob(f"*/seed*/{RunFolder.STATUS}")):
            outcome = _past_run(benchmark, matrix["train"], file, device)
            if isinstance(outcome, PastRun):
                found.append(outcome)
            else:
                left_out.setdefault(outcome, []).append("/".join(file.parent.parts[-2:]))
        notes += [f"{where}{', '.join(runs)}: {reason}" for reason, runs in left_out.items()]
    return found


def _differences(benchmark: Benchmark, matrix: Any, plan: CellPlan) -> Iterator[str]:
    """The settings by which a step there is another one than here, number of responses aside."""
    train, task, model = benchmark.train, benchmark.tasks[plan.task], benchmark.models[plan.model]
    here = {
        ("train", "rollout"): train.rollout,
        ("train", "epochs"): train.epochs,
        ("train", "mini_batches"): train.mini_batches,
        ("tasks", plan.task, "params"): task.params,
        ("tasks", plan.task, "max_response_tokens"): task.max_response_tokens,
        ("models", plan.model, "params"): model.params,
    }
    yield from (".".join(keys) for keys, value in here.items() if value_at(matrix, *keys) != value)


def _past_run(benchmark: Benchmark, train: Mapping[str, Any], file: Path, device: str) -> PastRun | str:
    """The run of a status.json, or why it cannot be used."""
    folder = RunFolder(file.parent)
    task, model, arm, seed = folder.path.parts[-4:]
    results = folder.path.parents[4]
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
        provenance = json.loads(folder.provenance.read_text(encoding="utf-8"))
        if status["status"] != "finished":
            return "failed"
        if provenance["device"] != device:
            return f"ran on {provenance['device']}"
        steps, start = int(status["steps"]), float(status["startup_seconds"])
        responses = benchmark.train.prompts_per_step * benchmark.train.responses_per_prompt
        scale = responses / (train["prompts_per_step"] * train["responses_per_prompt"])
        step = (float(status["wall_seconds"]) - start) / steps * scale
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        return f"{file.name} or provenance.json cannot be read ({type(error).__name__})"
    if start < 0 or step <= 0:
        return "its seconds make no sense"
    machine = value_at(provenance, "machine", "gpu") or value_at(provenance, "machine", "cpu") or "an unnamed machine"
    evaluation = _timed(results / "benchmarks" / "evaluate" / f"{task}.{model}.{arm}.{seed}.tsv")
    return PastRun(arm, results, str(machine), steps, start, step, evaluation)


def _timed(file: Path) -> float | None:
    """Wall-clock seconds in a file of Snakemake's benchmarks; None where there is none that can be read."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return float(next(csv.DictReader(lines, delimiter="\t"))["s"])
    except (OSError, ValueError, KeyError, StopIteration):
        return None
