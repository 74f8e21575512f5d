"""The user's cluster: what benchmarks/site.yaml says, and what a job asks the scheduler for because of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from groupppo.config.files import read_form
from groupppo.config.forms import SiteFile

GROWTH = 1.5
"""A retry asks for this many times the memory and minutes of the attempt before."""


@dataclass(frozen=True)
class Site(SiteFile):
    """A Slurm cluster as its user sees it; None leaves a choice to the cluster. `SiteFile` describes the attributes."""

    def resources(self, wanted: Mapping[str, object]) -> dict[str, str | int]:
        """Resources that a rule which names the `wanted` ones gets on top, as the executor for Slurm spells them."""
        on_gpu = "gpu" in wanted
        asked: dict[str, str | int | None] = {
            "slurm_partition": (self.gpu_partition or self.partition) if on_gpu else self.partition,
            "slurm_account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpu_model": self.gpu_type if on_gpu else None,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def grown(self, resource: str, value: int, attempt: int) -> int:
        """MB of `mem_mb` or minutes of `runtime` at an attempt, the first of which is 1; never less than `value`."""
        most = {"mem_mb": self.most_memory_mb, "runtime": self.longest_minutes}[resource]
        larger = round(value * GROWTH ** (attempt - 1))
        return larger if most is None else max(value, min(larger, most))


def load_site(path: str | Path | None = None) -> Site:
    """Read a site file; without a path, benchmarks/site.yaml where there is one, else a cluster with defaults only."""
    if path is None and not Path("benchmarks/site.yaml").is_file():
        return Site()
    return Site(**vars(read_form(Path(path or "benchmarks/site.yaml"), SiteFile)))
