"""What of the environment that a job is started in may reach it, and which of the machine's GPUs it gets.

Other programs leave variables for their own processes, by which a job would join a group that is not there, or compute
something else than its config says. Whole families of names are taken out, so that a new member needs no line here.
"""

import contextlib
import errno
import os
import platform
import random
import socket
import struct
import time
from collections.abc import Iterator, Mapping

from groupppo.errors import BadInput
from groupppo.measure.sensors import SensorMissing, visible_gpus
from groupppo.run.family import sweep

# A place among other processes, left by torchrun, Accelerate, MPI or Slurm's MPI plug-ins.
_RANKS = (
    *("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_"),
    *("OMPI_", "MPI_", "PMI_", "PMIX_", "MV2_"),
)
# Another cluster's, and what only a run's config may say.
_SETTINGS = ("RAY_", "VERL_", "VLLM_", "TQ_", "ONEAPI_")
# Read before the first line of a script. Without docstrings, for one, transformers cannot be imported.
_INTERPRETER = ("PYTHON",)
_THREADS = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_")
_KEPT = (
    # Where code is, and its caches.
    *("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "VLLM_CACHE_ROOT"),
    "VERL_USE_EXTERNAL_MODULES",  # verl's own place for more code; studies put faults into a run by it
)
DEVICES = "CUDA_VISIBLE_DEVICES"
_ORDER, _AS_NVML = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
_LEASE = "\0groupppo-gpu-"
_POLL_SECONDS = 1.0


def for_job(variables: Mapping[str, str]) -> dict[str, str]:
    """What any job may see: everything but the families above, threads apart."""
    return _without(variables, (*_RANKS, *_SETTINGS, *_INTERPRETER))


def for_run(variables: Mapping[str, str], device: str) -> dict[str, str]:
    """What a training run may see: what a job may, but its threads, and on "cuda" the devices that it was given."""
    seen = _without(for_job(variables), _THREADS)
    return {
        name: value for name, value in seen.items() if "_VISIBLE_" not in name or (device, name) == ("cuda", DEVICES)
    }


@contextlib.contextmanager
def given_gpus(count: int) -> Iterator[None]:
    """Hold so many of the GPUs that CUDA_VISIBLE_DEVICES names, or of all, and name them alone there until the end.

    A GPU is held by a name in the kernel's memory, an abstract socket with its UUID: one process on a machine has it,
    whoever its user is, and it goes with that process however that ends. What a killed launcher left on the GPU is
    ended before the GPU is used. Waits while others hold too many. A job of Slurm that was given as many GPUs as it
    needs keeps them as they are.

    Args:
        count: of GPUs; 0 changes nothing.

    Raises:
        BadInput: this machine has fewer, NVML does not tell, or CUDA_VISIBLE_DEVICES names one that is not there.
    """
    given = [name for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
    if count == 0 or ("SLURM_JOB_ID" in os.environ and len(given) == count):
        yield
        return
    before = {name: os.environ.get(name) for name in (DEVICES, _ORDER)}
    with _held_gpus(count) as names:
        sweep()
        os.environ |= {DEVICES: ",".join(names), _ORDER: before[_ORDER] or _AS_NVML}
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ |= {} if value is None else {name: value}


@contextlib.contextmanager
def _held_gpus(count: int) -> Iterator[list[str]]:
    """Names of the GPUs that are held within the block."""
    place, hint = (
        f"node {platform.node()}",
        f"run on a machine with {count} GPU(s) for this job, or name those it may use.",
    )
    try:
        gpus = visible_gpus()
    except SensorMissing as error:
        raise BadInput(place, DEVICES, os.environ.get(DEVICES), f"{error}; {hint}") from error
    if len(set(gpus.values())) < count:
        raise BadInput(place, DEVICES, ",".join(gpus), hint)
    waiting = False
    while True:
        with contextlib.ExitStack() as stack:
            names: list[str] = []
            for name, uuid in gpus.items():
                if len(names) < count and (lease := _lease(uuid)) is not None:
                    stack.enter_context(lease)
                    names.append(name)
            if len(names) == count:
                yield names
                return
        if not waiting:
            busy = ", ".join(f"{name} held by {_holder(uuid)}" for name, uuid in gpus.items())
            print(f"waiting for {count} GPU(s): {busy}; say --resources gpu=N to have Snakemake wait", flush=True)
        waiting = True
        time.sleep(random.uniform(0.5, 1.5) * _POLL_SECONDS)  # two that let go together do not meet again


def _lease(uuid: str) -> socket.socket | None:
    """What holds a GPU as long as it is open; None where it is held."""
    lease = socket.socket(socket.AF_UNIX)
    try:
        lease.bind(_LEASE + uuid)
        lease.listen()
    except OSError as error:
        lease.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lease


def _holder(uuid: str) -> str:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)  # nobody takes what is asked: its queue may be full
        try:
            asking.connect(_LEASE + uuid)
        except OSError:
            return "nobody"
        number, *_ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"process {number}"


def _without(variables: Mapping[str, str], families: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name in _KEPT or not name.startswith(families)}
