"""Results whose records agree with one another, as real runs leave them: samples, seals, hashes, a card, a profile."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from PIL import Image

from groupppo.config import REPOSITORY, Benchmark
from groupppo.publish.derive import derive
from groupppo.records.hashing import KEY, seal, seal_run, sha256_file, sha256_folder
from groupppo.studies.shared.study import find_study
from groupppo.tasks.lm_eval import write_yaml
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.preregistration import register
from groupppo.verdicts.sweep import write_sweep
from tests.studies.made import made_tables
from tests.synthetic import rewrite_json, write_results

ITEMS = 100
MACHINE_PATH = "/somewhere/project/results/quick/runs"
HASHES = {name: f"{number}" * 64 for number, name in enumerate(("train", "test", "start"), start=1)}


def write_whole_results(results: Path, *, seeds: tuple[int, ...] = (1, 2, 3), laden: bool = False) -> Benchmark:
    """A finished results folder; pictures are stand-ins, drawing is other tests' business.

    Args:
        laden: with a study, a profile and a pilot, too.
    """
    benchmark = write_results(results, seeds=seeds, steps=8)
    if laden:
        home = REPOSITORY / "benchmarks"
        beside = {"studies": ("grouping",), "profile": home / "profile.yaml", "pilot": home / "pilot.yaml"}
        beside["claims"] = tuple(home / "claims" / f"{name}.yaml" for name in ("group_ppo", "nat"))
        benchmark = replace(benchmark, **beside)
        (results / "benchmark.yaml").write_text(yaml.safe_dump(benchmark.resolved(), sort_keys=False))
    register(results, benchmark)
    _write_assets(results)
    for file in sorted(results.glob("evals/*/*/**/result.json")):
        _evaluate_again(file, benchmark)
    for run in sorted(results.glob("runs/*/*/*/*")):
        _record_again(run)
    if laden:
        _write_study(results)
        shutil.copytree(REPOSITORY / "results" / "reference" / "profile" / "measured", results / "profile" / "measured")
        (results / "profile" / "found.json").write_text(json.dumps({"measured_in": "", "published": False}))
        write_sweep(benchmark, Path("nowhere"), results / "pilot")
    derive(results, benchmark, load_claims(benchmark.claims))
    return benchmark


def save_stand_in(figure: Figure, out: Path, name: str) -> None:
    """In place of `style.save`: small pictures that differ by name."""
    (out / f"{name}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><title>{name}</title></svg>')
    Image.new("RGB", (2, 2), (len(name), 0, 0)).save(out / f"{name}.png")


def _write_assets(results: Path) -> None:
    card = {"task": "sorting", "splits": {name: {"sha256": HASHES[name]} for name in ("train", "test")}}
    _write_json(results / "assets" / "tasks" / "sorting" / "card.json", card)
    last = {"step": 25, "loss": 0.5, "sampled_accuracy": 0.4, "greedy_accuracy": 0.5, "seconds": 3.0}
    start = results / "assets" / "starts" / "sorting" / "tiny"
    _write_json(start / "warmstart.json", {"task": "sorting"} | last)
    (start / "warmstart.jsonl").write_text("".join(json.dumps(last | {"step": step}) + "\n" for step in (20, 25)))


def _evaluate_again(file: Path, benchmark: Benchmark) -> None:
    """Samples of about the accuracy that a result states, and a result that states theirs."""
    task, evaluation = benchmark.tasks["sorting"], benchmark.evaluation
    result, repeats = json.loads(file.read_text()), evaluation.repeats
    right = round(ITEMS * result["metrics"]["accuracy"]["value"])
    rows = {
        "accuracy": [[float(item < right)] for item in range(ITEMS)],
        f"mean@{repeats}": [
            [float((item + draw) % ITEMS < right - 3) for draw in range(repeats)] for item in range(ITEMS)
        ],
    }
    names = write_yaml(task, file.parent / "lm_eval", repeats, evaluation.sampled_prompts, benchmark.train.temperature)
    metrics, reported = {}, {}
    for name, metric in names.items():
        lines = [_sample(item, scores, metric) for item, scores in enumerate(rows[metric])]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (file.parent / f"samples_{name}_2026-11-22.jsonl").write_text(text)
        means = np.array([line[metric] for line in lines])
        stderr = float(means.std(ddof=1) / math.sqrt(ITEMS))
        metrics[metric] = {"value": float(means.mean()), "stderr": stderr, "n": ITEMS}
        reported[name] = {f"{metric},responses": float(means.mean()), f"{metric}_stderr,responses": stderr}
    report = file.parent / "results_2026-11-22.json"
    _write_json(report, {"results": reported, "model_name": f"{MACHINE_PATH}/checkpoint"})
    start = result["arm"] == "start"
    result |= {"metrics": metrics, "data_sha256": HASHES["test"], "yaml_sha256": sha256_folder(file.parent / "lm_eval")}
    result |= {"checkpoint_sha256": HASHES["start"] if start else result["checkpoint_sha256"], "n": ITEMS}
    _write_json(file, result | {KEY: seal([report, *file.parent.glob("samples_*.jsonl")])})


def _sample(item: int, scores: list[float], metric: str) -> dict[str, Any]:
    texts = [f"#{item}" if score else "#?" for score in scores]
    doc = {"prompt": f"sort /{item}/1", "answer": str(item), "size": 2}
    asked = {"gen_args_0": {"arg_0": f"<|user|>{doc['prompt']}", "arg_1": {"do_sample": len(scores) > 1}}}
    row = {"doc_id": item, "doc": doc, "target": doc["answer"], "arguments": asked}
    return row | {"resps": [texts], "filtered_resps": [texts], metric: sum(scores) / len(scores)}


def _record_again(run: Path) -> None:
    """Config with a machine's path, provenance with hashes, and a status that seals them."""
    with (run / "config.yaml").open("a", encoding="utf-8") as file:
        file.write(f"trainer.default_local_dir: {MACHINE_PATH}/{run.name}\n")
    inputs = {"train_data_sha256": HASHES["train"], "start_model_sha256": HASHES["start"]}
    provenance = {
        "device": "cpu",
        "machine": {"host": "synthetic", "cpu": "one", "cpu_cores": 2},
        "software": {"torch": "2.13.0", "lock_sha256": sha256_file(REPOSITORY / "requirements" / "cpu.lock")},
        "source": {"commit": "c" * 40, "uncommitted_sha256": None},
        "inputs": {"config_sha256": sha256_file(run / "config.yaml"), **inputs},
    }
    _write_json(run / "provenance.json", provenance)
    checkpoint = json.loads((_evaluation(run) / "result.json").read_text())["checkpoint_sha256"]
    rewrite_json(run / "status.json", **{"checkpoint_sha256": checkpoint, KEY: seal_run(run)})


def _evaluation(run: Path) -> Path:
    results = run.parents[4]
    return results / "evals" / run.relative_to(results / "runs")


def _write_study(results: Path) -> None:
    folder = results / "studies" / "grouping" / "sorting.tiny"
    folder.mkdir(parents=True)
    tables = made_tables()
    for name, rows in tables.items():
        find_study("grouping").write_table(folder, name, rows)
    script = REPOSITORY / "groupppo" / "studies" / "grouping.py"
    record = {
        "command": "python -m groupppo.studies grouping",
        "settings": {"batches": 6, "prompts": 4, "responses": 4, "temperature": 1.0, "exact": 12},
        "counts": {"responses": 96, "tokens": 1234, "mean_reward": 0.5},
        "arms": ["dense"],
        "arms_left_out": {},
        "inputs": {"script_sha256": sha256_file(script)},
    }
    _write_json(folder / "study.json", record | {KEY: seal(folder.glob("*.csv"))})


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
