"""Run one cell to its end: check inputs, start verl in a process of its own, keep what it wrote, say how it ended.

Everything a run leaves is in its folder (records/folders.py). No process outlives `train`, however the run ends. A run
that did not finish leaves its last checkpoint, from which the next `train` of the same cell goes on.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from groupppo.errors import BadInput, GroupPPOError, RunFailed
from groupppo.measure.provenance import PACKAGES, lock_of
from groupppo.measure.start_check import Needs, check_node
from groupppo.measure.usage import Usage, UsageMeter
from groupppo.models.hub import check_model_folder
from groupppo.records import hashing
from groupppo.records.folders import RunFolder
from groupppo.records.hashing import sha256_model
from groupppo.records.storage import no_room, room_for, write_whole
from groupppo.run.checkpoints import Checkpoints, identity, read_rows
from groupppo.run.environment import DEVICES, for_run, given_gpus
from groupppo.run.family import MARK, alone, marked, scratch
from groupppo.run.ray_cluster import across_allocation, with_secret
from groupppo.run.watch import Verl
from groupppo.tasks.reward import scorer
from groupppo.tasks.rows import check_prompt_lengths, check_splits
from groupppo.verl import network
from groupppo.verl.compose import Cell, compose, ray_cpus, saves_between
from groupppo.verl.endings import STACKS
from groupppo.verl.fits import require_gpus

_OUTPUTS = (
    *(RunFolder.STEPS, RunFolder.STAGES, RunFolder.PROVENANCE, RunFolder.STATUS, RunFolder.LOG, RunFolder.STARTED),
    *(RunFolder.GPU, RunFolder.RAPL, RunFolder.USAGE_STAGES),
)
# Variables that name a place on the node of the launcher.
_OF_THIS_NODE = ("RAY_TMPDIR", "TMPDIR", "HF_DATASETS_CACHE")
# Logs, metrics and readings of a long run, next to its checkpoints.
_LOG_BYTES = 500_000_000
# Where verl's trackers write, next to the files above, if `trainer.logger` names them.
TENSORBOARD, WANDB = "tensorboard", "wandb"


@dataclass(frozen=True)
class _Ending:
    cause: str | None
    wall_seconds: float
    meter: UsageMeter
    no_room: BadInput | None = None

    @property
    def status(self) -> str:
        return "finished" if self.cause is None else "failed"


def train(cell: Cell) -> None:
    """Train one cell.

    Raises:
        BadInput: an input or a config key is wrong, this node cannot carry the run, or others could talk to its
            processes: nothing was started. Or the disk had no room: the next call goes on from what was sealed.
        RunFailed: verl failed, made no step for too long, or did not end in time; status.json says which.
    """
    check_model_folder(cell.start, padded=cell.model.published)
    check_splits(cell.task_folder)
    if cell.model.published:
        check_prompt_lengths(cell.task, cell.task_folder, cell.start)
        published = json.loads((cell.start / "config.json").read_text(encoding="utf-8"))
        cell.task.require_fit(published.get("max_position_embeddings", math.inf), cell.model.name)
    scorer(cell.task)  # one of the user's may not run here, or not at all
    config = compose(cell)
    check_node(cell.out, needs(cell))
    net = network.network_of(cell.nodes, cell.ranks, ours=cell.network_is_ours)
    with _gpus(cell), room_for(cell.out), alone(cell.out):
        _train(cell, config, net)


@contextmanager
def _gpus(cell: Cell) -> Iterator[None]:
    """The GPUs of a run; on several nodes Slurm gives them."""
    with given_gpus(cell.ranks if cell.device == "cuda" and cell.nodes == 1 else 0):
        if cell.device == "cuda":
            require_gpus(cell.model, cell.ranks)
        yield


def _train(cell: Cell, config: DictConfig, net: str) -> None:
    _clear(cell.out)
    run = identity(cell, config) if saves_between(cell.train) else None
    checkpoints = Checkpoints(cell.out, run, last=cell.train.steps)
    if checkpoints.resumed is None:
        for name in (TENSORBOARD, WANDB):
            shutil.rmtree(cell.out / name, ignore_errors=True)
    write_whole(RunFolder(cell.out).config, OmegaConf.to_yaml(config))
    with scratch() as folder:
        ending = _run(cell, folder, checkpoints, net)
    if ending.status == "finished":
        checkpoints.finish()
        _keep_checkpoint(cell)
        _write_status(cell, ending, checkpoints)
        checkpoints.remove()  # last: without a status the run is made again, from there
        return
    failed = RunFailed(f"run {cell.name} failed: {ending.cause}\n  what it left: {RunFolder(cell.out).failed.path}")
    try:
        _write_status(cell, ending, checkpoints)
        _set_aside(cell.out)
    except (OSError, BadInput):
        if ending.no_room is None:
            raise
    raise ending.no_room or failed


def needs(cell: Cell) -> Needs:
    """What the node must have for this cell."""
    networks = 2 if cell.train.save_critic else 1
    # Twice: start checkpoints may be bfloat16 and trained ones float32.
    weights = 2 * sum(file.stat().st_size for file in cell.start.glob("*.safetensors"))
    resumable = cell.train.resumable_copies(critic=True) * weights
    return Needs(
        lock=lock_of(cell.device),
        packages=[name for name in PACKAGES if cell.train.rollout == "vllm" or not name.startswith("vllm")],
        disk_bytes=networks * weights + resumable + _LOG_BYTES,
        memory_bytes=cell.model.resources["mem_mb"] * 1_000_000,
        compiler=cell.device == "cuda",
        flash_attention=cell.device == "cuda" and cell.train.attention == "flash_attention_2",
    )


def environment(cell: Cell) -> dict[str, str]:
    """The environment of verl's processes; Ray hands it on to its workers."""
    variables = for_run(os.environ, cell.device) | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "VERL_LOGGING_LEVEL": "WARNING",
        "RAY_worker_niceness": "0",  # Ray's 15 lets anything else on the machine slow the training down
        "VLLM_NO_USAGE_STATS": "1",
        # Left to itself vLLM 0.24 has its new model runner sample for Qwen3 and Llama, and the old one for Qwen2.5.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "DO_NOT_TRACK": "1",
        "PYTHONHASHSEED": str(cell.seed),
        "PYTHONUTF8": "1",
        "TENSORBOARD_DIR": str(cell.out / TENSORBOARD),
        "WANDB_DIR": str(cell.out),  # W&B makes a folder of that name in it
        "WANDB_CACHE_DIR": str(cell.out / WANDB / "cache"),
        "WANDB_MODE": os.environ.get("WANDB_MODE", "offline"),
    }
    if cell.device == "cuda":
        # As NVML numbers them (measure/sensors.py).
        variables["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        # Weights are read, and what is offloaded is updated, by one process for each GPU.
        variables["OMP_NUM_THREADS"] = str(max(1, cell.model.resources.get("cpus", 1) // cell.ranks))
    else:
        variables |= {
            "GROUPPPO_PLATFORM": "cpu",
            # No GPU is seen, and Ray may give out as many places as the run has ranks.
            DEVICES: ",".join(["-1"] * cell.ranks),
            "OMP_NUM_THREADS": "1",
            "TQ_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if cell.train.rollout != "vllm":
        variables["GROUPPPO_HIDDEN_PACKAGES"] = "vllm"
    return variables | (network.ON_ONE_NODE if cell.nodes == 1 else {})


def _run(cell: Cell, folder: Path, checkpoints: Checkpoints, net: str = network.LOOPBACK) -> _Ending:
    """Run verl in a process of its own, which a scratch folder tells; `net` is as of `network_of`."""
    # What makes files of names that can be guessed does so in TMPDIR: in /tmp anybody could make them first.
    places = dict(zip(_OF_THIS_NODE, map(str, (folder, folder, folder / "datasets")), strict=True))
    variables = environment(cell) | places | with_secret(folder) | marked(folder)
    variables |= {STACKS: str(RunFolder(cell.out).stacks), network.VARIABLE: net}
    began = time.monotonic()
    meter = UsageMeter(cell.out, cell.device, cell.ranks * cell.nodes)
    # The log of the attempt that this one goes on from is kept.
    with RunFolder(cell.out).log.open("a" if checkpoints.resumed else "w", encoding="utf-8") as log, meter:
        resumed = [f"resumed after step {checkpoints.resumed.step}"] if checkpoints.resumed else []
        for note in (*resumed, *checkpoints.notes):
            print(f"==== {note}", file=log, flush=True)
        try:
            with _ray(cell, variables) as cluster:
                cause = Verl(cell.out, folder, variables | cluster, cell.train, log, checkpoints.look).run()
                if cause is not None and no_room(cell.out, cause) is None:  # which is no fault of the checkpoint
                    checkpoints.failed()
        except (OSError, GroupPPOError) as error:  # a full disk; a node that did not join
            cause = f"{type(error).__name__}: {error}"
        finally:
            RunFolder(cell.out).stacks.unlink(missing_ok=True)
    lack = None if cause is None else no_room(cell.out, cause)
    if lack is not None:
        checkpoints.drop_unsealed()  # room for the records
    return _Ending(cause, time.monotonic() - began, meter, lack)


def _ray(cell: Cell, variables: dict[str, str]) -> AbstractContextManager[dict[str, str]]:
    """Ray on all nodes of a run that has several; on one, verl starts its own."""
    return across_allocation(
        nodes=cell.nodes,
        cpus=cell.model.resources.get("cpus", 1),
        gpus=cell.ranks if cell.device == "cuda" else 0,
        slots=(ray_cpus(cell), cell.ranks) if cell.device == "cpu" else None,
        # What starts Ray on a node ends it there, and is not to be ended with what is on this one.
        environment={name: value for name, value in variables.items() if name not in (*_OF_THIS_NODE, MARK)},
    )


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left, but for what one that goes on from it needs; its rows are in checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _OUTPUTS:
        if name != RunFolder.LOG:
            (folder / name).unlink(missing_ok=True)
    for name in (RunFolder.CHECKPOINT, RunFolder.CRITIC):
        shutil.rmtree(folder / name, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    aside = RunFolder(folder).failed.path
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name in (*_OUTPUTS, RunFolder.CONFIG):
        if (folder / name).is_file():
            shutil.copy2(folder / name, aside / name)


def _keep_checkpoint(cell: Cell) -> None:
    """Keep the Hugging Face folders of the last step, the policy's as `checkpoint/`; drop verl's layout around them."""
    saved, kept = cell.out / f"global_step_{cell.train.steps}", RunFolder(cell.out)
    (saved / "actor" / "huggingface").rename(kept.checkpoint)
    check_model_folder(kept.checkpoint, padded=cell.model.published)
    if cell.train.save_critic and (saved / "critic").is_dir():
        (saved / "critic" / "huggingface").rename(kept.critic)


def _write_status(cell: Cell, ending: _Ending, checkpoints: Checkpoints) -> None:
    folder = RunFolder(cell.out)
    logged = list(read_rows(folder.steps))
    startup = json.loads(folder.started.read_text())["startup_seconds"] if folder.started.is_file() else None
    folder.started.unlink(missing_ok=True)
    status: dict[str, Any] = {
        "status": ending.status,
        "cause": ending.cause,
        "task": cell.task.name,
        "model": cell.model.name,
        "arm": cell.arm.name,
        "seed": cell.seed,
        "steps": len(logged),
        "planned_steps": cell.train.steps,
        "rollout": cell.train.rollout,
        "fallbacks": sum(row.get("group/fallbacks", 0) for row in logged),
        "resumed_after": checkpoints.resumed_after,
        "checkpoint_sha256": sha256_model(folder.checkpoint) if folder.checkpoint.is_dir() else None,
        "startup_seconds": startup,
        # As if nothing had been interrupted: what was lost and made again counts once.
        "wall_seconds": ending.wall_seconds + checkpoints.kept_seconds,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "usage": asdict(_usage(cell, ending, logged, checkpoints)),
        hashing.KEY: hashing.seal_run(cell.out),
    }
    write_whole(folder.status, json.dumps(status, indent=2) + "\n")


def _usage(cell: Cell, ending: _Ending, logged: list[dict[str, Any]], checkpoints: Checkpoints) -> Usage:
    try:
        machine = json.loads(RunFolder(cell.out).provenance.read_text(encoding="utf-8"))["machine"]
    except (FileNotFoundError, json.JSONDecodeError):  # a run that was killed may leave half of it, or nothing
        machine = {}
    wall = ending.wall_seconds + checkpoints.kept_seconds
    used = ending.meter.usage(wall, logged, machine.get("gpu"))
    if checkpoints.resumed is not None:
        why = f"the run was resumed after step {checkpoints.resumed.step}; sensors saw its last attempt only"
        for figure in ("energy_joules", "energy_source", "cpu_energy_joules"):
            if getattr(used, figure) is not None:
                setattr(used, figure, None)
                used.missing[figure] = why
    return used
