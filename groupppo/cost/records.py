"""Earlier runs that tell what a cell costs: read from the results folders, never changed."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.records.folders import ResultsFolder, RunFolder
from groupppo.records.plain_yaml import read_yaml

RECORD = ResultsFolder.BENCHMARK
_SHOWN = 3


@dataclass(frozen=True)
class PastRun:
    """A finished run that a benchmark's cell of the same task and model can be costed by.

    Attributes:
        results: its results folder. machine: the processor or GPU it says it ran on.
        start, step, evaluation: wall-clock seconds before the first step, of one step at the benchmark's number of
            responses, and of the evaluation, None where it was not timed.
        checkpoint, log, samples: bytes of the checkpoint, of all other files per step, and of the evaluation's files.
    """

    task: str
    model: str
    arm: str
    seed: str
    results: Path
    machine: str
    steps: int
    start: float
    step: float
    evaluation: float | None
    checkpoint: int
    log: float
    samples: int


def past_runs(benchmark: Benchmark, results: Path, device: str) -> tuple[list[PastRun], list[str]]:
    """Runs in all folders of `results` that can be used, and why others of the same task and model cannot."""
    found, notes = list[PastRun](), list[str]()
    for record in sorted(results.glob(f"*/{RECORD}")):
        try:
            matrix = read_yaml(record)
        except BadInput as error:
            notes.append(f"{record.parent}: not used: {error.key} of {RECORD} cannot be read")
            continue
        cells = [(plan.task, plan.model) for plan in benchmark.plans()]
        for task, model in cells:
            if not (ResultsFolder(record.parent).runs / task / model).is_dir():
                continue
            why = _differs(benchmark, matrix, task, model)
            if why:
                notes.append(f"{record.parent}, {task}/{model}: not used: {why} differs")
                continue
            left_out: dict[str, list[str]] = {}
            for file in sorted((ResultsFolder(record.parent).runs / task / model).glob(f"*/seed*/{RunFolder.STATUS}")):
                outcome = _run(benchmark, matrix["train"], record.parent, file, device)
                if isinstance(outcome, PastRun):
                    found.append(outcome)
                else:
                    left_out.setdefault(outcome, []).append("/".join(file.parent.parts[-2:]))
            for reason, runs in left_out.items():
                shown = ", ".join(runs[:_SHOWN]) + (f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else "")
                notes.append(f"{record.parent}, {task}/{model}: not used: {shown}: {reason}")
    return found, notes


def past_job(folders: Iterable[Path], rule: str, stem: str) -> list[float]:
    """Wall-clock seconds that Snakemake took down for a job of that name in some results folders."""
    times = (_tsv(folder / "benchmarks" / rule / f"{stem}.tsv") for folder in folders)
    return [seconds for seconds in times if seconds is not None]


def finished(benchmark: Benchmark, results: Path) -> int:
    """Training runs of the benchmark's matrix that ended well in its own results folder."""
    own = ResultsFolder(results / benchmark.name)
    planned = [own.run(plan.task, plan.model, *run) for plan in benchmark.plans() for run in plan.runs]
    return sum(_ended_well(run.status) for run in planned)


def _ended_well(file: Path) -> bool:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["status"] == "finished"
    except (OSError, ValueError, KeyError, TypeError):
        return False  # Snakemake runs it again


def _differs(benchmark: Benchmark, matrix: Any, task: str, model: str) -> str:
    """The first setting by which a step there is another one than here, number of responses aside; or nothing."""
    if not isinstance(matrix, dict):
        return RECORD
    train = benchmark.train
    here = {
        "train.rollout": train.rollout,
        "train.epochs": train.epochs,
        "train.mini_batches": train.mini_batches,
        f"tasks.{task}.params": benchmark.tasks[task].params,
        f"tasks.{task}.max_response_tokens": benchmark.tasks[task].max_response_tokens,
        f"models.{model}.params": benchmark.models[model].params,
    }
    return next((key for key, value in here.items() if _at(matrix, key) != value), "")


def _at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _run(benchmark: Benchmark, train: Mapping[str, Any], results: Path, file: Path, device: str) -> PastRun | str:
    """The run of a status.json, or why it cannot be used."""
    folder = RunFolder(file.parent)
    task, model, arm, seed = folder.path.relative_to(ResultsFolder(results).runs).parts
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
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, AttributeError) as error:
        return f"{file.name} or provenance.json cannot be read ({type(error).__name__})"
    machine = _at(provenance, "machine.gpu") or _at(provenance, "machine.cpu") or "an unnamed machine"
    if start < 0 or step <= 0:
        return "its seconds make no sense"
    checkpoint = _size(folder.checkpoint)
    log = (_size(folder.path) - checkpoint - _size(folder.critic)) / steps
    evaluation = _tsv(results / "benchmarks" / "evaluate" / f"{task}.{model}.{arm}.{seed}.tsv")
    samples = _size(ResultsFolder(results).evals / task / model / arm / seed)
    times = (steps, start, step, evaluation)
    return PastRun(task, model, arm, seed, results, str(machine), *times, checkpoint, log, samples)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _tsv(file: Path) -> float | None:
    """Wall-clock seconds in a file of Snakemake's benchmarks; None where there is none that can be read."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return float(next(csv.DictReader(lines, delimiter="\t"))["s"])
    except (OSError, ValueError, KeyError, StopIteration):
        return None
