"""Which arms and seeds a task with a model, a cell of a benchmark, is run with: all, unless `cells` says less.

cells:
  - { task: chain, model: tiny, arms: [ppo, group_ppo], seeds: [1, 2, 3] }
  - { task: chain, model: small, arms: [] }          # not run
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from groupppo.errors import BadInput, suggest

if TYPE_CHECKING:
    from groupppo.config import Arm, Benchmark

KEY = "cells"
_Name = TypeVar("_Name", str, int)


@dataclass(frozen=True)
class CellPlan:
    """What is run of a task with a model.

    Attributes:
        arms, seeds: in the matrix's order; without any arm the cell is not run.
    """

    task: str
    model: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(arm, seed) of every training run."""
        return list(product(self.arms, self.seeds))


def narrowed_cells(data: Mapping[str, Any], arms: Mapping[str, "Arm"], source: Path) -> tuple[CellPlan, ...]:
    """The entries of `cells`, in the file's order.

    Args:
        data: of the benchmark's file, with defaults filled in. arms: those of the matrix, a swept one at each rate.
        source: the file, for messages.

    Raises:
        BadInput: an entry names what the matrix has not, says nothing or what an earlier one says, or leaves out the
            reference or the arm that another one takes its density from.
    """
    found: dict[tuple[str, str], CellPlan] = {}
    for place, entry in enumerate(data[KEY]):
        key = f"{KEY}[{place}]"
        for kind in ("task", "model"):
            _require([entry[kind]], data[f"{kind}s"], f"{key}.{kind}", source)
        task, model = entry["task"], entry["model"]
        if not {"arms", "seeds"} & set(entry):
            hint = "name the arms or seeds that it is run with, or arms: [] for none, or leave the entry out."
            raise BadInput(source, key, entry, hint)
        if (task, model) in found:
            earlier = list(found).index((task, model))
            hint = f"write one entry for a task and model; {KEY}[{earlier}] is of the same."
            raise BadInput(source, key, f"{task}, {model}", hint)
        plan = CellPlan(
            task,
            model,
            _subset(entry.get("arms"), list(arms), f"{key}.arms", source),
            _subset(entry.get("seeds"), data["seeds"], f"{key}.seeds", source),
        )
        _check_arms(plan, data["reference"], arms, f"{key}.arms", source)
        found[task, model] = plan
    return tuple(found.values())


def check_all_used(benchmark: "Benchmark") -> None:
    """Nothing is in the matrix that no cell is run with.

    Raises:
        BadInput: no cell is run, or none of those that are has one of the tasks, models, arms or seeds.
    """
    plans, source = benchmark.plans(), benchmark.source
    if not plans:
        raise BadInput(source, KEY, "no cell left", "run at least one task with one model.")
    used: tuple[tuple[str, Iterable[str | int], set[str | int]], ...] = (
        ("tasks", benchmark.tasks, {plan.task for plan in plans}),
        ("models", benchmark.models, {plan.model for plan in plans}),
        ("arms", benchmark.arms, {arm for plan in plans for arm in plan.arms}),
        ("seeds", benchmark.seeds, {seed for plan in plans for seed in plan.seeds}),
    )
    for key, names, known in used:
        for name in names:
            if name not in known:
                raise BadInput(source, key, name, f"leave it out, or add it to one of the {KEY}: none is run with it.")


def _subset(named: Sequence[_Name] | None, known: Sequence[_Name], key: str, source: Path) -> tuple[_Name, ...]:
    """Those that are named, in the matrix's order; all where none says which."""
    if named is None:
        return tuple(known)
    _require(named, known, key, source)
    return tuple(name for name in known if name in named)


def _require(named: Sequence[_Name], known: Sequence[_Name], key: str, source: Path) -> None:
    for name in named:
        if name not in known:
            hint = f"{suggest(name, known)}The matrix has: {', '.join(map(str, known))}."
            raise BadInput(source, key, name, hint)


def _check_arms(plan: CellPlan, reference: str, arms: Mapping[str, "Arm"], key: str, source: Path) -> None:
    if plan.arms and reference not in plan.arms:
        hint = f"add {reference}, which the others are compared with, or write [] for a cell that is not run."
        raise BadInput(source, key, list(plan.arms), hint)
    for name in plan.arms:
        other = arms[name].density_from
        if other is not None and other not in plan.arms:
            raise BadInput(source, key, list(plan.arms), f"add {other}: {name} takes its density from it.")
