"""What of the environment that a job is started in may reach it.

Other programs leave variables for their own processes, by which a job would join a group that is not there, or compute
something else than its config says. Whole families of names are taken out, so that a new member needs no line here.
"""

from collections.abc import Mapping

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


def for_job(variables: Mapping[str, str]) -> dict[str, str]:
    """What any job may see: everything but the families above, threads apart."""
    return _without(variables, (*_RANKS, *_SETTINGS, *_INTERPRETER))


def for_run(variables: Mapping[str, str], device: str) -> dict[str, str]:
    """What a training run may see: what a job may, but its threads, and on "cuda" the devices that it was given."""
    seen = _without(for_job(variables), _THREADS)
    return {
        name: value for name, value in seen.items() if "_VISIBLE_" not in name or (device, name) == ("cuda", DEVICES)
    }


def _without(variables: Mapping[str, str], families: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name in _KEPT or not name.startswith(families)}
