"""What the study of faults is asked to do: the options of its command line."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from groupppo.errors import BadInput
from groupppo.studies.fault_points import STEP

Named = TypeVar("Named")


@dataclass(frozen=True)
class FaultOptions:
    """The study of faults.

    Attributes:
        benchmark: file with the settings of the training. task: folder of the built task, which has the task's name.
        model: name of the model. start: Hugging Face folder that all runs begin from. out: where results go.
        steps: of each run. seed: of all runs.
    """

    benchmark: Path
    task: Path
    model: str
    start: Path
    out: Path
    steps: int
    seed: int

    command: ClassVar[str] = "faults.py"

    def __post_init__(self) -> None:
        if self.steps <= STEP:
            hint = f"write at least {STEP + 1}: a step after the fault shows what it left."
            raise BadInput(self.command, "--steps", self.steps, hint)
        if not self.arms.is_dir():
            raise BadInput(self.command, "--benchmark", str(self.benchmark), "name a file beside a folder of arms.")

    @property
    def arms(self) -> Path:
        """Folder of arm files."""
        return self.benchmark.parent / "arms"

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the models by what each of them is."""
        return {"start": self.start}

    @property
    def sizes(self) -> dict[str, Any]:
        """Everything but folders, as plain data."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Path)}

    def named(self, known: Mapping[str, Named], option: str, name: str) -> Named:
        """What the benchmark has under a name.

        Raises:
            BadInput: it has none of that name.
        """
        if name not in known:
            hint = f"{self.benchmark} has: {', '.join(known)}."
            raise BadInput(self.command, f"--{option}", name, hint)
        return known[name]


def parse_faults(arguments: Sequence[str], description: str) -> FaultOptions:
    """Options of a command line.

    Raises:
        BadInput: a number is out of range, or no folder of arms lies beside the benchmark.
    """
    parser = argparse.ArgumentParser(prog=FaultOptions.command, description=description)
    add = parser.add_argument
    add("--benchmark", type=Path, required=True, help="file with the settings of the training")
    add("--task", type=Path, required=True, help="folder of the built task")
    add("--model", required=True, help="name of the model")
    add("--start", type=Path, required=True, help="Hugging Face folder that all runs begin from")
    add("--out", type=Path, required=True, help="folder for faults.csv and study.json")
    add("--steps", type=int, default=3, help="of each run; at least 2")
    add("--seed", type=int, default=1, help="of all runs")
    return FaultOptions(**vars(parser.parse_args(arguments)))
