"""One fault in the first step of a run, and what the run did before and after it: loaded by verl in every process.

    VERL_USE_EXTERNAL_MODULES=groupppo.studies.fault_points GROUPPPO_FAULT='{"point": "rule", "folder": "..."}'

The places are functions of this project, replaced when their module is loaded; nothing in them knows of it. Written to
the folder: `raised`, once the fault was; a line of `batches.jsonl` for each step, with hashes of prompts and responses;
`policy_<n>.pt` and `critic_<n>.pt`, parameters and optimizer state after the n-th optimizer step.
"""

import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from groupppo.studies.names import NO_FAULT

MODULE, VARIABLE = "groupppo.studies.fault_points", "GROUPPPO_FAULT"
RAISED, BATCHES = "raised", "batches.jsonl"
STEP = 1
"""The step of the fault: the first one begins from the same state in every arm, so that ends can be compared."""

_MASKED, _GATHERED, _STREAMED = "masked", "gathered", "streamed"


class InjectedError(RuntimeError):
    """The fault; a name by which the cause of a failed run is found in its log."""


@dataclass(frozen=True)
class Point:
    """A place where a fault is raised.

    Attributes:
        title: what fails, in words. place: "module:attribute" that is replaced.
        updates: values of `group_params.update` whose runs come by here.
        after: raise when the stock function has done its work, instead of before.
    """

    title: str
    place: str
    updates: tuple[str, ...] = (_MASKED, _GATHERED, _STREAMED)
    after: bool = False


POINTS: dict[str, Point] = {
    "tokens": Point("Scores and tokens for the rule", "groupppo.verl.group_stage:GroupStage._tokens"),
    "rule": Point("The rule", "groupppo.verl.group_stage:group_tokens"),
    "advantage": Point("The advantage at endpoints", "groupppo.verl.group_stage:group_batch"),
    "write": Point("Writing masks to the batch, nothing written", "groupppo.verl.trainer:put_fields"),
    "written": Point("Writing masks to the batch, all written", "groupppo.verl.trainer:put_fields", after=True),
    "statistics": Point("Statistics of the groups", "groupppo.verl.group_stage:GroupStage.metrics"),
    "critic_pass": Point(
        "Endpoint pass of the critic's update", "groupppo.verl.engine:EndpointValueEngine._pass", (_GATHERED, _STREAMED)
    ),
    "policy_pass": Point(
        "Endpoint pass of the policy's update",
        "groupppo.verl.engine:EndpointPolicyEngine._pass",
        (_GATHERED, _STREAMED),
    ),
    "keys_values": Point(
        "Kept keys and values above their budget", "groupppo.update.passes:KeysValuesStore.put", (_STREAMED,)
    ),
    "metrics": Point("Metrics after the step", "groupppo.verl.trainer:step_row"),
}


def setting(point: str, folder: Path) -> dict[str, str]:
    """The environment of a run with this fault."""
    return {
        "VERL_USE_EXTERNAL_MODULES": MODULE,
        VARIABLE: json.dumps({"point": point, "folder": str(folder)}),
    }


def state_file(folder: Path, role: str, update: int) -> Path:
    """Where the state of "policy" or "critic" after an optimizer step, from 1, is."""
    return folder / f"{role}_{update}.pt"


def _once(folder: Path) -> bool:
    """Whether this is the first call of any process of the run."""
    try:
        (folder / RAISED).open("x").close()
    except FileExistsError:
        return False
    return True


def _faulty(point: str, folder: Path, stock: Callable[..., Any]) -> Callable[..., Any]:
    if point == "keys_values":
        return _over_budget(folder, stock)
    if point in ("critic_pass", "policy_pass"):
        return _broken_pass(folder, stock)
    after = POINTS[point].after

    @wraps(stock)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        if after:
            result = stock(*args, **kwargs)
        if _once(folder):
            raise InjectedError(f"{point}, step {STEP}")
        return result if after else stock(*args, **kwargs)

    return faulty


def _over_budget(folder: Path, stock: Callable[..., Any]) -> Callable[..., Any]:
    """The store's own error: the budget of the first batch is nothing."""

    @wraps(stock)
    def put(self: Any, layout: Any, layers: Any) -> None:
        if _once(folder):
            self.budget_bytes = 0
        stock(self, layout, layers)

    return put


def _broken_pass(folder: Path, stock: Callable[..., Any]) -> Callable[..., Any]:
    """An error inside the model's forward pass; one without a plan computes all tokens and is not the update's."""

    @wraps(stock)
    def build(self: Any, where: Any, rows: Any, plan: Any, micro_batch: Any) -> Any:
        run = stock(self, where, rows, plan, micro_batch)
        if plan is None or not _once(folder):
            return run

        def broken(*_: Any, **__: Any) -> Any:
            raise InjectedError(f"{type(self).__name__}, step {STEP}")

        return broken

    return build


def _recorded_step(folder: Path, module: ModuleType, stock: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stock)
    def compute(self: Any, batch: Any, metrics: Any) -> Any:
        data = module.get_fields(batch, ["prompts", "responses"])
        row = {"step": self.global_steps} | {name: _digest(data[name].unbind()) for name in ("prompts", "responses")}
        with (folder / BATCHES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return stock(self, batch, metrics)

    return compute


def _digest(rows: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{len(row)}:".encode() + row.cpu().numpy().tobytes())
    return digest.hexdigest()


def _recorded_update(folder: Path, role: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    updates = 0

    @wraps(stock)
    def train_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal updates
        result = stock(self, *args, **kwargs)
        updates += 1
        torch.save(_state(self.module, self.optimizer), state_file(folder, role, updates))
        return result

    return train_batch


def _state(module: Any, optimizer: Any) -> dict[str, torch.Tensor]:
    """Parameters and the optimizer's moments by name, on the CPU; of one rank."""
    named = dict(module.named_parameters())
    moments = {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }
    tensors = {name: parameter.detach() for name, parameter in named.items()} | moments
    # A sharded parameter lies whole on the only rank.
    return {name: getattr(one, "to_local", lambda one=one: one)().cpu().clone() for name, one in tensors.items()}


def _replace(module: ModuleType, attribute: str, wrap: Callable[..., Any]) -> None:
    owner_name, _, name = attribute.rpartition(".")
    owner = getattr(module, owner_name) if owner_name else module
    setattr(owner, name, wrap(getattr(owner, name)))


def _change(module: ModuleType, point: str, folder: Path) -> None:
    """Replace what is to be recorded in a module that was just loaded, and the place of the fault."""
    if module.__name__ == "groupppo.verl.trainer":
        _replace(module, "GroupPPOTrainer._compute_old_log_prob", partial(_recorded_step, folder, module))
    if module.__name__ == "groupppo.verl.engine":
        for role, engine in (("policy", "EndpointPolicyEngine"), ("critic", "EndpointValueEngine")):
            _replace(module, f"{engine}.train_batch", partial(_recorded_update, folder, role))
    if point != NO_FAULT:
        home, _, attribute = POINTS[point].place.partition(":")
        if home == module.__name__:
            _replace(module, attribute, partial(_faulty, point, folder))


class _AfterLoading(importlib.abc.MetaPathFinder):
    """Changes modules as they are loaded: when verl loads this one, none of them can be imported yet."""

    def __init__(self, point: str, folder: Path):
        self.point, self.folder = point, folder
        faults = set() if point == NO_FAULT else {POINTS[point].place.partition(":")[0]}
        self.modules = faults | {"groupppo.verl.trainer", "groupppo.verl.engine"}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def changed(module: ModuleType) -> None:
            load(module)
            _change(module, self.point, self.folder)

        spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


if VARIABLE in os.environ:
    asked = json.loads(os.environ[VARIABLE])
    sys.meta_path.insert(0, _AfterLoading(asked["point"], Path(asked["folder"])))
