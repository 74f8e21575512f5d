"""Measure a checkpoint on a task's test split with lm-evaluation-harness: greedy accuracy and sampled mean@k."""

import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import huggingface_hub.constants

from groupppo.config import Evaluation, Task
from groupppo.errors import RunFailed
from groupppo.models.hub import check_model_folder
from groupppo.models.sampling import decode_as_trained
from groupppo.records.hashing import seal, sha256_file, sha256_folder, sha256_model
from groupppo.tasks.lm_eval import write_yaml
from groupppo.tasks.rows import read_examples


def evaluate(
    checkpoint: Path,
    task: Task,
    task_folder: Path,
    out: Path,
    how: Evaluation,
    *,
    model: str,
    arm: str,
    training_seed: int | None,
    temperature: float,
    published: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Evaluate a Hugging Face folder; write `result.json`, the YAML and lm-eval's results and samples into `out`.

    Weights are read as float32, those of a published model as bfloat16. The reward is the one of training, and so is
    the distribution that is sampled: nothing in the folder's `generation_config.json` acts but the ids of its end.
    Sampled responses repeat only with the same seed and batch size. Evaluations may run side by side: nothing is
    written outside `out`.

    Args:
        checkpoint: model, tokenizer and chat template.
        task: what is asked.
        task_folder: holds `test.parquet`.
        out: one evaluation's own folder; an earlier evaluation's files in it are replaced.
        how: the benchmark's `evaluation`.
        model: the model's name in the benchmark.
        arm: the training arm's name, or ``start``.
        training_seed: seed of the training run, None for ``start``.
        temperature: of the sampled responses; that of training.
        published: whether the model began as a published one, whose vocabulary may be padded.
        device: "cpu" or "cuda", the benchmark's: not whatever this machine happens to have.

    Returns:
        What `result.json` holds: the cell, its metrics (means over `n` prompts, whose `stderr` covers the choice of
        prompts, not that of the training seed), hashes of all that they rest on, and of lm-eval's own files by name.

    Raises:
        BadInput: the checkpoint is missing or incomplete, or the test split is missing or damaged.
        RunFailed: lm-eval did not write its files.
    """
    check_model_folder(checkpoint, padded=published)
    test_file = task_folder / "test.parquet"
    prompts = len(read_examples(test_file))
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("results_*.json"), *out.glob("samples_*.jsonl"), *out.glob("result.json")]:
        old.unlink()
    names = write_yaml(task, out / "lm_eval", how.repeats, how.sampled_prompts, temperature)
    started = time.perf_counter()
    dtype = "bfloat16" if published else "float32"
    results = _run_lm_eval(checkpoint, list(names), test_file, out, how, dtype, device)
    result = {
        "task": task.name,
        "model": model,
        "arm": arm,
        "seed": training_seed,
        "n": prompts,
        "metrics": {
            metric: {
                "value": results[name][f"{metric},responses"],
                "stderr": results[name][f"{metric}_stderr,responses"],
                "n": prompts if metric == "accuracy" else min(prompts, how.sampled_prompts),
            }
            for name, metric in names.items()
        },
        "checkpoint_sha256": sha256_model(checkpoint),
        "yaml_sha256": sha256_folder(out / "lm_eval"),
        "data_sha256": sha256_file(test_file),
        "lm_eval_version": version("lm_eval"),
        "batch_size": how.batch_size,
        "repeats": how.repeats,
        "eval_seed": how.seed,
        "seconds": round(time.perf_counter() - started, 3),
        "files": seal([*out.glob("results_*.json"), *out.glob("samples_*.jsonl")]),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _run_lm_eval(
    checkpoint: Path, names: list[str], test_file: Path, out: Path, how: Evaluation, dtype: str, device: str
) -> dict[str, dict[str, float]]:
    """Run lm-eval tasks and keep its own files in `out`; returns its results by task and `metric,filter`."""
    # A relative checkpoint path can look like a name on the hub.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # read once, at import, which has already happened
    # Imported here because it takes seconds and no other function of this module needs it.
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # A path that ends in .json makes the tracker write beside it, not into a folder named after the model's path.
    tracker = EvaluationTracker(output_path=str(out / "results.json"))
    # What a chat begins with its template says, in training too.
    load = {"dtype": dtype, "batch_size": how.batch_size, "device": device, "add_bos_token": False}
    model = HFLM(pretrained=str(checkpoint), **load)
    decode_as_trained(model.model, model.tokenizer)
    results = simple_evaluate(
        model=model,
        tasks=names,
        task_manager=TaskManager(
            include_path=str(out / "lm_eval"), include_defaults=False, metadata={"test_file": str(test_file)}
        ),
        batch_size=how.batch_size,
        apply_chat_template=True,
        log_samples=True,
        evaluation_tracker=tracker,
        random_seed=how.seed,
        numpy_random_seed=how.seed,
        torch_random_seed=how.seed,
        fewshot_random_seed=how.seed,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in names:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    # The tracker turns a failed write into a warning.
    if not list(out.glob("results_*.json")) or len(list(out.glob("samples_*.jsonl"))) != len(names):
        raise RunFailed(f"{out}: lm-eval did not write its results and samples; is the disk full?")
    return results["results"]
