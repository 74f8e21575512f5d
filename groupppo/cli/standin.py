"""A cell in which an arm's keys can be tried on verl's config before any matrix names the arm."""

from pathlib import Path

from groupppo.config import Arm, Model, Task, Train, WarmStart
from groupppo.verl.compose import Cell

_NOWHERE = Path("none")


def cell(arm: Arm) -> Cell:
    """The smallest cell of an arm; its folders do not exist and are not read."""
    start = WarmStart(0.5, 0.9, 1, 1, 1e-3, 0, 1, 1)
    task = Task("any", "any", "1.0", "any", {}, {"train": 1, "dev": 1, "test": 1}, 0, 16, 16, start, _NOWHERE)
    model = Model("any", "any", "any", {}, 0, {"mem_mb": 1}, {}, _NOWHERE)
    train = Train(1, 1, 1, 1, 1, 1e-4, 1e-3, 1.0, 1.0, 1.0, "transformers", 60)
    return Cell(task, model, arm, 0, train, _NOWHERE, _NOWHERE, _NOWHERE)
