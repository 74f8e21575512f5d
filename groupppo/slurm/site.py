"""The user's cluster: what benchmarks/site.yaml says, and what a job asks the scheduler for because of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from groupppo.schemas import read_checked

GROWTH = 1.5
"""A retry asks for this many times the memory and minutes of the attempt before."""


@dataclass(frozen=True)
class Site:
    """A Slurm cluster as its user sees it; None leaves a choice to the cluster.

    Attributes:
        partition, gpu_partition: of jobs without and with GPUs. gpu_type: as `sinfo -o %G` names it.
        container: image for --sdm apptainer. light_rules: "local" or "job".
        longest_minutes, most_memory_mb: what a retry asks for at most.
        network_is_ours: nobody else reaches the nodes of a run while it trains (verl/network.py).
    """

    partition: str | None = None
    gpu_partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    container: str | None = None
    light_rules: str = "local"
    longest_minutes: int | None = None
    most_memory_mb: int | None = None
    network_is_ours: bool = False

    def resources(self, wanted: Mapping[str, object]) -> dict[str, str | int]:
        """Resources that a rule gets on top of those it names, as the executor for Slurm spells them.

        Args:
            wanted: the rule's own; only whether it names `gpu` and `nodes`, and what the latter is, matters.
        """
        on_gpu = "gpu" in wanted
        found: dict[str, str | int | None] = {
            "slurm_partition": (self.gpu_partition or self.partition) if on_gpu else self.partition,
            "slurm_account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpu_model": self.gpu_type if on_gpu else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def grown(self, resource: str, value: int, attempt: int) -> int:
        """MB of `mem_mb` or minutes of `runtime` at an attempt, the first of which is 1; never less than `value`."""
        most = {"mem_mb": self.most_memory_mb, "runtime": self.longest_minutes}[resource]
        larger = round(value * GROWTH ** (attempt - 1))
        return larger if most is None else max(value, min(larger, most))


def load_site(path: str | Path | None = None) -> Site:
    """Read a site file; without a path, benchmarks/site.yaml where there is one, else a cluster with defaults only.

    Raises:
        BadInput: a key is unknown or out of range, or the file that was named is not there.
    """
    if path is None:
        path = Path("benchmarks/site.yaml")
        if not path.is_file():
            return Site()
    return Site(**read_checked(Path(path), "site"))
