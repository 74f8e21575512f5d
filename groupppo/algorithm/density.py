"""The density of another run, step by step: what a control arm has to match."""

import json
from dataclasses import dataclass
from pathlib import Path

from groupppo.errors import BadInput


@dataclass(frozen=True)
class DensitySchedule:
    """Endpoints over valid tokens of each step of a finished run, in (0, 1].

    Attributes:
        source: the run's `steps.jsonl`.
        steps: density by step number.
    """

    source: Path
    steps: dict[int, float]

    @classmethod
    def load(cls, source: str | Path) -> "DensitySchedule":
        """Read `group/density` of every step.

        Raises:
            BadInput: the file does not exist, or a row is not JSON, has no such numbers or a density not in (0, 1].
        """
        source = Path(source)
        if not source.is_file():
            raise BadInput(source, "density_source", None, "run the arm that this density is taken from first.")
        steps: dict[int, float] = {}
        # Bytes that are no text become characters that are no JSON: an error that names their line.
        for number, line in enumerate(source.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            try:
                row = json.loads(line)
                step, density = int(row["step"]), float(row["group/density"])
                if not 0.0 < density <= 1.0:
                    raise ValueError(f"density {density} is not above 0 and at most 1")
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                hint = f"write a JSON object with numbers `step` and `group/density` ({type(error).__name__}: {error})."
                raise BadInput(source, f"line {number}", line[:80], hint) from error
            steps[step] = density
        return cls(source, steps)

    def at(self, step: int) -> float:
        """Density of a step.

        Raises:
            BadInput: the run has no such step.
        """
        density = self.steps.get(step)
        if density is None:
            hint = "take the density from a finished run with at least as many steps, or write a number."
            raise BadInput(self.source, f"step {step} group/density", density, hint)
        return density
