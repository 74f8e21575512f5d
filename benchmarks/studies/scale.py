"""Whether collection, verdicts, figures and report keep up with many runs: makes them up, then times each stage.

    python benchmarks/studies/scale.py make OUT [--seeds 100 --steps 200]
    python benchmarks/studies/scale.py measure OUT OUT/scale.json
    python benchmarks/studies/scale.py plan OUT OUT/plan.json

`make` writes a benchmark of 2 tasks, 5 models, 10 arms and --seeds seeds (100 make 10,000 runs and 13 GB) below
OUT/benchmarks, and what its runs would have left below OUT/results: files of the metrics, stages and sizes of the real
steps in scale_steps.jsonl, with numbers of full length that contradict each other nowhere. No two runs share a value.

`measure` runs the stages one after another, each in a process of its own, and writes their wall seconds, CPU seconds
and peak memory, the processes they start included (resident memory, pages that processes share counted in each).
`plan` does the same for a dry run of the workflow with nothing made and with every run there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import yaml

from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.measure.provenance import machine, source

HERE = Path(__file__).resolve().parent
TASKS, MODELS = ("sorting", "chain"), ("tiny_a", "tiny_b", "tiny_c", "tiny_d", "tiny_e")
ARMS = (
    "ppo",
    "grpo",
    "group_ppo",
    "group_ppo_token",
    "group_ppo_broadcast",
    "stride",
    "random",
    "entropy",
    "low_prob",
    "sequence",
)
RESPONSES, ITEMS, START_ACCURACY = 128, 1000, 0.4
SHARES = ("group/closed_by/criterion", "group/closed_by/cap", "group/closed_by/end")
STAGES = {
    "collect": """
from groupppo.tables import collect
collect(results, benchmark, processes=2)
""",
    "verdicts": """
from groupppo.tables import load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import NEEDED, decide, read_studied
claims = load_claims(benchmark.claims)
tables, studied = load_tables(results / "tables", NEEDED), read_studied(results, benchmark, claims)
judged = decide(claims, tables, benchmark, None, studied)
(results / "verdicts.json").write_text(json.dumps(judged, allow_nan=False))
""",
    "figures": """
from groupppo.report.drawing import needed, write_figures
from groupppo.tables import StoredTables
judged = json.loads((results / "verdicts.json").read_text())
tables = StoredTables(results / "tables", needed(benchmark))
write_figures(tables, benchmark, results / "figures", judged, processes=2)
""",
    "report": """
from groupppo.report.page import write_report
write_report(results, benchmark, memory_definition="made up")
""",
}
"""What the workflow's scripts do, without Snakemake around them."""
PRELUDE = """
import json, sys
from pathlib import Path
from groupppo.config import load_benchmark
benchmark, results = load_benchmark(sys.argv[1]), Path(sys.argv[2])
"""


@dataclass(frozen=True)
class Cost:
    """Of one stage: seconds, and bytes of resident memory at the worst moment."""

    stage: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class _Template:
    """A real step: metric names and values, and the rows of its stages."""

    metrics: dict[str, float]
    stages: list[dict[str, Any]]


def make(out: Path, seeds: int, steps: int, processes: int = 2) -> None:
    """Write OUT/benchmarks and OUT/results."""
    file = write_benchmark(out / "benchmarks", seeds, steps)
    benchmark = load_benchmark(file)
    cells = [(task, model) for task in benchmark.tasks for model in benchmark.models]
    for task, model in cells:
        _write_evaluation(out / "results", {"task": task, "model": model, "arm": "start", "seed": None}, START_ACCURACY)
    jobs = [(out, task, model, arm) for task, model in cells for arm in benchmark.arms]
    with ProcessPoolExecutor(processes) as pool:
        for done, _ in enumerate(pool.map(_make_arm, jobs), start=1):
            print(f"{done * seeds:,} of {len(jobs) * seeds:,} runs", flush=True)


def write_benchmark(home: Path, seeds: int, steps: int) -> Path:
    """The repository's benchmarks with five copies of its tiny model, and a matrix `scale.yaml` over them."""
    shutil.copytree(REPOSITORY / "benchmarks", home, dirs_exist_ok=True)
    for name in MODELS:
        data = yaml.safe_load((home / "models" / "tiny.yaml").read_text(encoding="utf-8"))
        text = yaml.safe_dump(data | {"name": name, "title": f"Tiny Qwen2, copy {name[-1]}"})
        (home / "models" / f"{name}.yaml").write_text(text, encoding="utf-8")
    matrix = yaml.safe_load((home / "quick.yaml").read_text(encoding="utf-8"))
    matrix |= {"name": "scale", "title": "Made-up runs", "studies": [], "tasks": list(TASKS), "models": list(MODELS)}
    matrix |= {"arms": list(ARMS), "seeds": list(range(1, seeds + 1))}
    matrix["train"] |= {"steps": steps}
    del matrix["profile"]  # its measurements do not grow with the runs
    file = home / "scale.yaml"
    file.write_text(yaml.safe_dump(matrix, sort_keys=False), encoding="utf-8")
    return file


def _make_arm(job: tuple[Path, str, str, str]) -> None:
    out, task, model, arm = job
    benchmark = load_benchmark(out / "benchmarks" / "scale.yaml")
    verl = benchmark.arms[arm].verl
    kind = arm if arm in ("ppo", "grpo") else "group_ppo"
    template = _templates()[kind]
    if not verl["critic.enable"]:
        template = _without_critic(template)
    for seed in benchmark.seeds:
        rng = np.random.default_rng([TASKS.index(task), MODELS.index(model), ARMS.index(arm), seed])
        keys = {"task": task, "model": model, "arm": arm, "seed": seed}
        accuracy = 0.7 + 0.02 * ARMS.index(arm) / len(ARMS) + 0.01 * rng.standard_normal()
        _write_run(out / "results", keys, benchmark, template, rng, accuracy)
        _write_evaluation(out / "results", keys, accuracy)


def _templates() -> dict[str, _Template]:
    lines = (HERE / "scale_steps.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["arm"]: _Template(row["steps"], row["stages"]) for row in map(json.loads, lines)}


def _without_critic(template: _Template) -> _Template:
    grpo = _templates()["grpo"]
    names = {name for name in template.metrics if name in grpo.metrics or name.startswith("group/")}
    kept = {name: value for name, value in template.metrics.items() if name in names}
    return _Template(kept, [row for row in template.stages if row["stage"] not in ("values", "update_critic")])


def _write_run(
    results: Path,
    keys: dict[str, Any],
    benchmark: Benchmark,
    template: _Template,
    rng: np.random.Generator,
    accuracy: float,
) -> None:
    folder = results / "runs" / keys["task"] / keys["model"] / keys["arm"] / f"seed{keys['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    steps = benchmark.train.steps
    tokens = rng.integers(6000, 8000, steps)
    density = 1.0 if template.metrics["group/density"] == 1 else 0.1
    endpoints = np.maximum(1, np.round(tokens * density * rng.uniform(0.8, 1.2, steps)).astype(int).clip(max=tokens))
    stages = [row for row in template.stages if row["stage"] != "step"]
    seconds = np.array([row["seconds"] for row in stages]) * rng.lognormal(0, 0.2, (steps, len(stages)))
    whole = seconds.sum(axis=1) * 1.02
    columns = _metrics(template, rng, tokens, endpoints, whole, accuracy)
    names = list(columns)
    with (folder / "steps.jsonl").open("wb") as file:
        for values in zip(*columns.values(), strict=True):
            file.write(msgspec.json.encode(dict(zip(names, values, strict=True))) + b"\n")
    with (folder / "stages.jsonl").open("wb") as file:
        for at in range(steps):
            for row, spent in [*zip(stages, seconds[at].tolist(), strict=True), ({"stage": "step"}, float(whole[at]))]:
                line = _stage(row, at, spent, rng, int(tokens[at]), int(endpoints[at]))
                file.write(msgspec.json.encode(line) + b"\n")
    status = {"status": "finished", "cause": None, **keys, "steps": steps, "planned_steps": steps, "fallbacks": 0}
    status |= {"rollout": "transformers", "startup_seconds": 40.0, "wall_seconds": 40.0 + float(whole.sum())}
    _write_json(folder / "status.json", status | {"finished_at": "2026-11-22T19:05:10+00:00"})
    inputs = {"config_sha256": rng.bytes(32).hex(), "train_data_sha256": "d" * 64, "start_model_sha256": "s" * 64}
    software = {"python": "3.11.7", "torch": "2.13.0+cpu", "verl": "0.9.1", "lock_sha256": "b" * 64}
    host = {"host": f"node{keys['seed'] % 40:03}", "cpu": "one", "cpu_mhz": int(rng.integers(2000, 3000))}
    _write_json(folder / "provenance.json", {"device": "cpu", "machine": host, "software": software, "inputs": inputs})
    (folder / "log.txt").write_text("finished\n", encoding="utf-8")


def _metrics(
    template: _Template,
    rng: np.random.Generator,
    tokens: np.ndarray,
    endpoints: np.ndarray,
    whole: np.ndarray,
    accuracy: float,
) -> dict[str, list[Any]]:
    """Every metric over the steps: the template's value with noise, and those that others contradict by hand."""
    steps = len(tokens)
    noise = rng.lognormal(0, 0.1, (steps, len(template.metrics)))
    columns: dict[str, list[Any]] = {}
    for place, (name, value) in enumerate(template.metrics.items()):
        constant = isinstance(value, int) or value in (0.0, 1.0)
        columns[name] = [value] * steps if constant else (value * noise[:, place]).tolist()
    learned = 1 - np.exp(-3 * np.arange(1, steps + 1) / steps)
    reward = START_ACCURACY + (accuracy - START_ACCURACY) * learned + 0.02 * rng.standard_normal(steps)
    known = {
        "step": np.arange(1, steps + 1),
        "reward/mean": reward,
        "critic/score/mean": reward,
        "elapsed_seconds": np.cumsum(whole),
        "response_length/mean": tokens / RESPONSES,
        "tokens/response": tokens,
        "group/total_tokens": tokens,
        "group/total_endpoints": endpoints,
        "group/density": endpoints / tokens,
    }
    shares = rng.dirichlet((10, 80, 10), steps)
    known |= dict(zip(SHARES, shares.T, strict=True)) if SHARES[0] in columns else {}
    return columns | {name: values.tolist() for name, values in known.items() if name in columns}


def _stage(row: dict[str, Any], at: int, spent: float, rng: np.random.Generator, tokens: int, ends: int) -> dict:
    rise = int(rng.integers(50, 400)) * 4096 * 100
    sizes = {"peak_bytes": 6_000_000_000 // 4096 * 4096 + rise, "rise_bytes": rise}
    counts = {"tokens": tokens, "endpoints": ends, "completed": True}
    return {"step": at + 1, "stage": row["stage"], "seconds": spent, "cpu_seconds": 0.9 * spent, **sizes, **counts}


def _write_evaluation(results: Path, keys: dict[str, Any], accuracy: float) -> None:
    place = results / "evals" / keys["task"] / keys["model"] / keys["arm"]
    folder = place if keys["seed"] is None else place / f"seed{keys['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        metric: {"value": value, "stderr": float(np.sqrt(value * (1 - value) / ITEMS)), "n": ITEMS}
        for metric, value in (("accuracy", accuracy), ("mean@8", 0.95 * accuracy))
    }
    hashes = {"checkpoint_sha256": "/".join(map(str, keys.values())), "yaml_sha256": "y" * 64, "data_sha256": "d" * 64}
    settings = {"batch_size": 250, "repeats": 8, "eval_seed": 1234, "lm_eval_version": "0.4.13", "seconds": 30.0}
    _write_json(folder / "result.json", {**keys, "n": ITEMS, "metrics": metrics, **hashes, **settings})


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def measure(out: Path, stages: Collection[str] = tuple(STAGES)) -> list[Cost]:
    """Time stages on OUT/results, each in a process of its own."""
    arguments = [str(out / "benchmarks" / "scale.yaml"), str(out / "results")]
    return [
        watch(stage, [sys.executable, "-c", PRELUDE + code, *arguments])
        for stage, code in STAGES.items()
        if stage in stages
    ]


def plan(out: Path) -> list[Cost]:
    """Time a dry run of the whole workflow, in a folder without results and in one with every run."""
    costs = []
    for stage, results in (("plan, nothing made", None), ("plan, every run made", out / "results")):
        place = out / ("planned" if results else "unplanned")
        (place / "results").mkdir(parents=True, exist_ok=True)
        if results and not (place / "results" / "scale").exists():
            (place / "results" / "scale").symlink_to(results)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "-n", "-q", "all"]
        command += ["--directory", str(place), "--cores", "2", "--config"]
        command += [
            f"benchmark={out / 'benchmarks' / 'scale.yaml'}",
            f"profile={REPOSITORY / 'benchmarks/profile.yaml'}",
        ]
        costs.append(watch(stage, command))
    return costs


def watch(stage: str, command: list[str]) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    before, began = _children_seconds(), time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    peak = [0]
    watcher = threading.Thread(target=lambda: peak.append(max(_resident(process))))
    watcher.start()
    code = process.wait()
    wall = time.perf_counter() - began
    watcher.join()
    if code:
        sys.exit(f"{stage} failed with exit code {code}")
    cost = Cost(stage, round(wall, 2), round(_children_seconds() - before, 2), max(peak))
    print(f"{stage}: {cost.wall_seconds} s, {cost.cpu_seconds} CPU s, {cost.peak_bytes / 1e6:,.0f} MB", flush=True)
    return cost


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _resident(process: subprocess.Popen[Any]) -> Iterator[int]:
    yield 0
    while process.poll() is None:
        total = 0
        try:
            root = psutil.Process(process.pid)
            for member in (root, *root.children(recursive=True)):
                total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        yield total
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure", "plan"))
    parser.add_argument("out", type=Path)
    parser.add_argument("record", type=Path, nargs="?")
    parser.add_argument("--stages", nargs="*", choices=tuple(STAGES), default=tuple(STAGES))
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    out = options.out.resolve()
    if options.what == "make":
        make(out, options.seeds, options.steps)
        return
    load = os.getloadavg()
    costs = measure(out, options.stages) if options.what == "measure" else plan(out)
    facts = {"machine": machine(), "source": source(), "load_average_before": load, "costs": list(map(asdict, costs))}
    if options.record:
        options.record.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
