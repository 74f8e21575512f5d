"""Which runs there are: those of the benchmark's matrix, and what else lies among them."""

import re
from pathlib import Path
from typing import NamedTuple

from groupppo.config import Benchmark
from groupppo.matrix import CellPlan
from groupppo.records.folders import ResultsFolder, cell_path


class Keys(NamedTuple):
    """The cell of the matrix that a run fills; `seed` is None for the start checkpoint."""

    task: str
    model: str
    arm: str
    seed: int | None

    def below(self, home: Path) -> Path:
        return home / cell_path(*self)


def planned_keys(benchmark: Benchmark) -> list[Keys]:
    """Every run that the benchmark plans; the runs of a task and model follow one another."""
    return [Keys(plan.task, plan.model, arm, seed) for plan in benchmark.plans() for arm, seed in plan.runs]


def plans_begun(results: Path, benchmark: Benchmark) -> list[CellPlan]:
    """The tasks and models of which a run has a folder in `results`; nothing can be said of those not begun."""
    return [
        plan for plan in benchmark.plans() if any((ResultsFolder(results).runs / plan.task / plan.model).glob("*/*"))
    ]


def found_keys(runs: Path) -> tuple[set[Keys], list[Path]]:
    """The runs that have a folder below `runs`, and the folders in their place whose name is not seed<k>."""
    found, stray = set(), []
    for folder in (path for path in sorted(runs.glob("*/*/*/*")) if path.is_dir()):
        task, model, arm = folder.relative_to(runs).parts[:3]
        seed = re.fullmatch(r"seed(0|[1-9]\d{0,17})", folder.name)
        if seed is None:
            stray.append(folder)
        else:
            found.add(Keys(task, model, arm, int(seed.group(1))))
    return found, stray
