"""Run one cell to its end: check inputs, start verl in a process of its own, keep what it wrote, say how it ended.

Everything a run leaves is in its folder (see docs of `Cell`): config.yaml, log.txt, steps.jsonl, stages.jsonl,
provenance.json, status.json, readings of the machine's sensors where it has any (gpu.jsonl, usage_stages.jsonl,
rapl.jsonl) and, if it finished, checkpoint/. No process outlives `train`, however the run ends.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

from groupppo.errors import RunFailed
from groupppo.measure.provenance import PACKAGES, lock_of
from groupppo.measure.start_check import Needs, check_node
from groupppo.measure.usage import GPU_FILE, RAPL_FILE, STAGES_FILE, Usage, UsageMeter
from groupppo.models.check import check_model_folder
from groupppo.tasks.lengths import check_prompt_lengths
from groupppo.tasks.rows import check_splits
from groupppo.verl.compose import Cell, compose
from groupppo.verl.fits import require_gpus

# What a failed run wrote goes here: a workflow may delete the outputs of a job that failed.
FAILED = "failed"
# The trained critic, a Hugging Face token classifier with one label, where `train.save_critic` asks for it.
CRITIC = "critic"
_OUTPUTS = (
    *("steps.jsonl", "stages.jsonl", "provenance.json", "status.json", "log.txt", "started.json"),
    *(GPU_FILE, RAPL_FILE, STAGES_FILE),
)
# Logs, metrics and readings of a long run, next to its checkpoints.
_LOG_BYTES = 500_000_000
# Where verl's trackers write, next to the files above, if `trainer.logger` names them.
TENSORBOARD, WANDB = "tensorboard", "wandb"


# What Ray puts before a worker's line, and how Python prints an exception.
_RAY_PREFIX = re.compile(r"^(\x1b\[\d+m)?\([^)]*pid=\d+[^)]*\)(\x1b\[0m)? ")
_ERROR = re.compile(r"^(Exception|[A-Za-z_][\w.]*(Error|Exception|BadInput|RunFailed))(: |$)")


@dataclass(frozen=True)
class _Ending:
    status: str
    cause: str | None
    wall_seconds: float
    meter: UsageMeter


def train(cell: Cell) -> None:
    """Train one cell.

    Raises:
        BadInput: an input file or a config key is wrong, or this node cannot carry the run (start_check.py); nothing
            was started.
        RunFailed: verl ended with an error, or not within `train.time_limit_s`; status.json says which.
    """
    check_model_folder(cell.start, padded=cell.model.published)
    check_splits(cell.task_folder)
    if cell.model.published:
        check_prompt_lengths(cell.task, cell.task_folder, cell.start)
    config = compose(cell)
    check_node(cell.out, needs(cell))
    if cell.device == "cuda":
        require_gpus(cell.model, cell.ranks)
    _clear(cell.out)
    OmegaConf.save(config, cell.out / "config.yaml")
    with tempfile.TemporaryDirectory(prefix="gppo-", ignore_cleanup_errors=True) as ray_folder:
        ending = _run(cell, ray_folder)
    if ending.status == "finished":
        _keep_checkpoint(cell)
    _write_status(cell, ending)
    if ending.status != "finished":
        _set_aside(cell.out)
        raise RunFailed(f"run {cell.name} failed: {ending.cause}\n  what it left: {cell.out / FAILED}")


def needs(cell: Cell) -> Needs:
    """What the node must have for this cell."""
    networks = 2 if cell.train.save_critic else 1
    weights = sum(file.stat().st_size for file in cell.start.glob("*.safetensors"))
    return Needs(
        device=cell.device,
        lock=lock_of(cell.device),
        packages=[name for name in PACKAGES if cell.train.rollout == "vllm" or not name.startswith("vllm")],
        # Twice: start checkpoints may be bfloat16 and trained ones float32.
        disk_bytes=2 * networks * weights + _LOG_BYTES,
        memory_bytes=cell.model.resources["mem_mb"] * 1_000_000,
    )


def environment(cell: Cell) -> dict[str, str]:
    """The environment of verl's processes; Ray hands it on to its workers."""
    variables = dict(os.environ) | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "VERL_LOGGING_LEVEL": "WARNING",
        "RAY_worker_niceness": "0",  # Ray's 15 lets anything else on the machine slow the training down
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONHASHSEED": str(cell.seed),
        "TENSORBOARD_DIR": str(cell.out / TENSORBOARD),
        "WANDB_DIR": str(cell.out),  # W&B makes a folder of that name in it
        "WANDB_CACHE_DIR": str(cell.out / WANDB / "cache"),
        "WANDB_MODE": os.environ.get("WANDB_MODE", "offline"),
    }
    if cell.device == "cpu":
        variables |= {
            "GROUPPPO_PLATFORM": "cpu",
            "OMP_NUM_THREADS": "1",
            "TQ_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if cell.train.rollout != "vllm":
        variables["GROUPPPO_HIDDEN_PACKAGES"] = "vllm"
    return variables


def _run(cell: Cell, ray_folder: str) -> _Ending:
    command = [sys.executable, "-m", "groupppo.verl.main", str(cell.out)]
    variables = environment(cell) | {"RAY_TMPDIR": ray_folder}
    began = time.monotonic()
    meter = UsageMeter(cell.out, cell.device, cell.ranks)
    with (cell.out / "log.txt").open("w", encoding="utf-8") as log, meter:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=cell.train.time_limit_s)
            cause = None if code == 0 else _cause(cell.out / "log.txt", code)
        except subprocess.TimeoutExpired:
            cause = f"not finished within train.time_limit_s = {cell.train.time_limit_s} s"
        finally:
            _end_tree(process, ray_folder)
    status = "finished" if cause is None else "failed"
    return _Ending(status, cause, time.monotonic() - began, meter)


def _end_tree(process: subprocess.Popen[bytes], ray_folder: str) -> None:
    """End what is left of the run: its descendants, and Ray's daemons, known by the folder they were started with."""
    family = {other.pid: other for other in psutil.process_iter(["cmdline"]) if _names(other, ray_folder)}
    if process.poll() is None:  # once it is reaped, its number may be another process's
        root = psutil.Process(process.pid)
        family |= {member.pid: member for member in (root, *root.children(recursive=True))}
    for member in family.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(list(family.values()), timeout=10)
    process.wait()


def _names(process: psutil.Process, folder: str) -> bool:
    return any(folder in word for word in process.info["cmdline"] or ())


def _cause(log: Path, code: int) -> str:
    """First and last error of the log: verl often answers the one that matters with others."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [line for line in (_RAY_PREFIX.sub("", line).strip() for line in lines) if _ERROR.match(line)]
    if not named:
        return f"exit code {code}, and the log names no error"
    return f"exit code {code}; {named[0]}" + (f"; in the end {named[-1]}" if named[-1] != named[0] else "")


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left, so that its rows never mix with this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _OUTPUTS:
        (folder / name).unlink(missing_ok=True)
    folders = (folder / name for name in ("checkpoint", CRITIC, TENSORBOARD, WANDB))
    for left in (*folders, *folder.glob("global_step_*")):
        shutil.rmtree(left, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    shutil.rmtree(folder / FAILED, ignore_errors=True)
    (folder / FAILED).mkdir()
    for name in (*_OUTPUTS, "config.yaml"):
        if (folder / name).is_file():
            shutil.copy2(folder / name, folder / FAILED / name)


def _keep_checkpoint(cell: Cell) -> None:
    """Keep the Hugging Face folders of the last step, the policy's as `checkpoint/`; drop verl's layout around them."""
    saved = cell.out / f"global_step_{cell.train.steps}"
    (saved / "actor" / "huggingface").rename(cell.out / "checkpoint")
    check_model_folder(cell.out / "checkpoint", padded=cell.model.published)
    if cell.train.save_critic and (saved / "critic").is_dir():
        (saved / "critic" / "huggingface").rename(cell.out / CRITIC)
    shutil.rmtree(saved)
    (cell.out / "latest_checkpointed_iteration.txt").unlink(missing_ok=True)


def _write_status(cell: Cell, ending: _Ending) -> None:
    steps_file, started = cell.out / "steps.jsonl", cell.out / "started.json"
    lines = steps_file.read_text(encoding="utf-8").splitlines(keepends=True) if steps_file.is_file() else []
    rows = [line for line in lines if line.endswith("\n")]  # a run that was killed may leave half a row
    logged = [json.loads(row) for row in rows]
    startup = json.loads(started.read_text())["startup_seconds"] if started.is_file() else None
    started.unlink(missing_ok=True)
    status: dict[str, Any] = {
        "status": ending.status,
        "cause": ending.cause,
        "task": cell.task.name,
        "model": cell.model.name,
        "arm": cell.arm.name,
        "seed": cell.seed,
        "steps": len(rows),
        "planned_steps": cell.train.steps,
        "rollout": cell.train.rollout,
        "fallbacks": sum(row.get("group/fallbacks", 0) for row in logged),
        "startup_seconds": startup,
        "wall_seconds": ending.wall_seconds,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "usage": asdict(_usage(cell, ending, logged)),
    }
    (cell.out / "status.json").write_text(json.dumps(status, indent=2) + "\n", encoding="utf-8")


def _usage(cell: Cell, ending: _Ending, logged: list[dict[str, Any]]) -> Usage:
    try:
        machine = json.loads((cell.out / "provenance.json").read_text(encoding="utf-8"))["machine"]
    except (FileNotFoundError, json.JSONDecodeError):  # a run that was killed may leave half of it, or nothing
        machine = {}
    return ending.meter.usage(ending.wall_seconds, logged, machine.get("gpu"))
