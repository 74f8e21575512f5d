"""What is wrong in a file of benchmarks/, all of it, before anything runs.

`groupppo validate` asks `check`, and so does every plan. A job asks the functions that `check` asks, of what it is
given: `load_benchmark`, `bind` or `params_faults`, `model_faults` and `compose`.

A loader stops at its first fault. Where a key on its own can be wrong, the key is set aside and the loader asked again.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from groupppo.allowed import allowed
from groupppo.config import (
    Arm,
    Benchmark,
    Model,
    Task,
    Train,
    WarmStart,
    load_arm,
    load_benchmark,
    load_model,
    load_task,
)
from groupppo.errors import BadInput
from groupppo.kinds import FOLDERS, kind_of
from groupppo.records.code import code_sha256
from groupppo.records.plain_yaml import read_yaml
from groupppo.schemas import MOST_FAULTS, read_checked, schema_faults

PARAMS = "algorithm.group_params."
MOST_SET_ASIDE = 10
"""Keys, or claims, of a file that are set aside: each costs another reading; what is left waits for these."""
_STAND_IN = 0.5  # density of another arm's run, which is not there yet
_NOWHERE = Path("none")
# Keys of a benchmark that name a file beside it, and the kinds that it may be of.
_BESIDE = {"claims": "claims", "profile": "profile", "pilot": "benchmark"}
# What limits how far an update may go from the policy, or value, of the rollout: nothing while both are the same.
_CLIPS = {
    "actor_rollout_ref.actor": re.compile(r"clip_ratio\w*"),
    "critic": re.compile("cliprange_value"),
}
_CLIPPING_LOSSES = ("gspo", "cispo")


def check(path: Path, known: dict[Path, list[BadInput]] | None = None) -> list[BadInput]:
    """All faults of a file, and of the files and training runs that a benchmark names; empty when it can be used.

    Args:
        known: faults of files that were checked already, by resolved path; those found here are added.
    """
    known = {} if known is None else known
    place = path.resolve()
    if place not in known:
        known[place] = []  # a file that names itself
        known[place] = _found(path, known)
    return known[place]


def found_good(benchmark: Benchmark, cache: Path) -> Path:
    """Where a plan notes that a benchmark had no faults: the name holds its files, what is allowed in
    them, the code and what else was asked.

    Args:
        cache: a folder for what can be made again.
    """
    files = [benchmark.claims, *filter(None, [benchmark.profile])]
    said = [benchmark.resolved(), *(file.read_text(encoding="utf-8") for file in files)]
    code = code_sha256(Path(__file__), entries=["groupppo.check", "groupppo.schemas", "groupppo.tasks.generators"])
    asked = [version(name) for name in ("verl", "torch", "transformers", "omegaconf")]
    name = hashlib.sha256(json.dumps([said, code, asked, sys.version, sorted(allowed())]).encode()).hexdigest()
    return cache / "groupppo" / "checked" / name


def notes(benchmark: Benchmark) -> list[str]:
    """What may be meant and will not do what its name says: an arm that clips where no update can be clipped."""
    found, shared = [], benchmark.train.verl
    for who, own in [(benchmark.name, {}), *((arm.name, arm.verl) for arm in benchmark.arms.values())]:
        keys = shared | own
        if keys.get("algorithm.rollout_correction.bypass_mode"):
            continue  # the ratio is to the rollout's own log-probabilities
        clips = []
        for key, value in (own if own else shared).items():
            home, _, name = key.rpartition(".")
            clipping = home in _CLIPS and _CLIPS[home].fullmatch(name) is not None
            if key == "actor_rollout_ref.actor.policy_loss.loss_mode":
                home, clipping = "actor_rollout_ref.actor", value in _CLIPPING_LOSSES
            if clipping and _updates(benchmark, keys, home) <= 1:
                clips.append(key)
        if clips:
            found.append(
                f"{who} sets {', '.join(sorted(clips))}, which cannot act: with one mini-batch and one epoch a step "
                "has one update, and its policy is the one that sampled. Write mini_batches or epochs above 1."
            )
    return found


def _updates(benchmark: Benchmark, keys: Mapping[str, Any], home: str) -> float:
    """Optimiser steps of one training step."""
    batch = keys.get(f"{home}.ppo_mini_batch_size")
    mini_batches = benchmark.train.prompts_per_step / batch if batch else benchmark.train.mini_batches
    epochs: float = keys.get(f"{home}.ppo_epochs", benchmark.train.epochs)
    return mini_batches * epochs


def _found(path: Path, known: dict[Path, list[BadInput]]) -> list[BadInput]:
    try:
        kind = kind_of(path)
        data = read_yaml(path)
    except BadInput as fault:
        return [fault]
    faults = list(schema_faults(path, kind, data))
    if kind == "benchmark":
        named = list(_named(path, data))
        faults += [fault for key, file in named for fault in _other_kind(path, key, file)]
        below = [fault for key, file in named if key != "pilot" for fault in check(file, known)]
        return [*faults, *below] or _first(lambda: load_benchmark(path)) or list(_matrix_faults(load_benchmark(path)))
    return faults or (list(islice(_CHECKS[kind](path), MOST_FAULTS)) if kind in _CHECKS else [])


def _named(path: Path, data: Any) -> Iterator[tuple[str, Path]]:
    """Existing files that a benchmark names, with its keys; what is missing, its own loader says."""
    if not isinstance(data, dict):
        return
    listed = [(folder, name) for folder in FOLDERS for name in _list(data.get(folder))]
    for key, name in [*listed, *((key, data.get(key)) for key in _BESIDE)]:
        if isinstance(name, str) and len(name) <= 100 and "/" not in name:
            file = path.parent / (f"{key}/{name}.yaml" if key in FOLDERS else name)
            if file.is_file():
                yield key, file


def _other_kind(path: Path, key: str, file: Path) -> Iterator[BadInput]:
    """A file beside the benchmark that is of another kind than its key says; what it is, its content tells."""
    try:
        found = kind_of(file)
    except BadInput as fault:
        if key in _BESIDE:
            yield fault
        return
    if key in _BESIDE and found != _BESIDE[key]:
        yield BadInput(path, key, file.name, f"name a file of kind {_BESIDE[key]}; this one is of kind {found}.")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _matrix_faults(benchmark: Benchmark) -> Iterator[BadInput]:
    from groupppo.studies.shared.study import study_faults

    yield from study_faults(benchmark)
    yield from _cell_faults(benchmark)


def _cell_faults(benchmark: Benchmark) -> Iterator[BadInput]:
    """Each training run's config, composed as the run will: the first fault of each, and each fault once."""
    from groupppo.verl.compose import Canvas, Cell, compose

    canvas, said = Canvas(), set[str]()
    for plan in benchmark.plans():
        for name in plan.arms:
            arm, model = benchmark.arms[name], benchmark.models[plan.model]
            cell = Cell(
                task=benchmark.tasks[plan.task],
                model=model,
                arm=arm,
                seed=plan.seeds[0],
                train=benchmark.train,
                task_folder=_NOWHERE,
                start=_NOWHERE,
                out=_NOWHERE,
                device=benchmark.device,
                ranks=model.ranks,
                nodes=model.nodes,
                density_source=None if arm.density_from is None else _NOWHERE,
                matrix=benchmark.source,
            )
            for fault in _first(lambda cell=cell: compose(cell, canvas)):  # type: ignore[misc]
                if str(fault) not in said:
                    said.add(str(fault))
                    yield fault


def _first(load: Callable[[], object]) -> list[BadInput]:
    try:
        load()
    except BadInput as fault:
        return [fault]
    return []


def _each(load: Callable[[dict[str, Any]], object], keys: Mapping[str, Any], prefix: str = "") -> Iterator[BadInput]:
    """The faults of a mapping: a key at fault is set aside and the rest tried again, until a fault is no such key's."""
    left, gone = dict(keys), set[str]()
    for found in (_first(lambda: load(left)) for _ in range(MOST_SET_ASIDE)):
        key = found[0].key.removeprefix(prefix) if found else None
        if key is None or key in gone:
            return
        yield found[0]
        if key not in left:
            return
        gone.add(key)
        del left[key]


def _task_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.tasks.base import bind
    from groupppo.tasks.hub_data import FORMATS, params_faults

    faults = _first(lambda: load_task(path))
    yield from faults
    if faults:
        return
    task = load_task(path)
    if task.generator in FORMATS:
        yield from params_faults(task)
    else:
        yield from _each(lambda params: bind(replace(task, params=params)), task.params, "params.")


def _model_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.models import model_faults

    faults = _first(lambda: load_model(path))
    yield from faults or model_faults(load_model(path))


def _arm_faults(path: Path) -> Iterator[BadInput]:
    """An arm against verl's config in a cell that is otherwise plain: any matrix may name it later."""
    from groupppo.algorithm.params import GroupParams

    faults = _first(lambda: load_arm(path))
    yield from faults
    if faults:
        return
    arm = load_arm(path)
    stand_in = {} if arm.density_from is None else {"density": _STAND_IN}
    settings = {key.removeprefix(PARAMS): value for key, value in arm.verl.items() if key.startswith(PARAMS)}
    wrong = list(_each(lambda keys: GroupParams.from_config(keys | stand_in), settings))
    for fault in wrong:
        yield BadInput(path, f"verl.{PARAMS}{fault.key}", fault.value, fault.hint)
    spoilt = {f"{PARAMS}{fault.key}" for fault in wrong}
    composed = {key: value for key, value in arm.verl.items() if key not in spoilt}
    for fault in _each(_composed(arm), composed):
        if fault.key in spoilt:
            continue
        yield BadInput(path, f"verl.{fault.key}", fault.value, fault.hint)
        if fault.key == "algorithm.adv_estimator":
            return  # what else is right depends on it


def _composed(arm: Arm) -> Callable[[dict[str, Any]], object]:
    from groupppo.verl.compose import Canvas, Cell, compose

    start = WarmStart(0.5, 0.9, 1, 1, 1e-3, 0, 1, 1)
    task = Task("any", "any", "1.0", "any", {}, {"train": 2, "dev": 1, "test": 1}, 0, 16, 16, start, _NOWHERE)
    model = Model("any", "any", "any", {}, 0, {"mem_mb": 1}, {}, _NOWHERE)
    # Two of each, for estimators that compare responses and losses that clip.
    train = Train(1, 2, 2, 2, 1, 1e-4, 1e-3, 1.0, 1.0, 1.0, "transformers", 60)
    cell = Cell(task, model, arm, 0, train, _NOWHERE, _NOWHERE, _NOWHERE)
    density, canvas = None if arm.density_from is None else _NOWHERE, Canvas()
    return lambda keys: compose(replace(cell, arm=replace(arm, verl=keys), density_source=density), canvas)


def _claims_faults(path: Path) -> Iterator[BadInput]:
    """Each claim's fault: the claim is set aside in a copy and the rest read again."""
    from groupppo.verdicts.claims import load_claims

    data = read_checked(path, "claims")
    left = list(enumerate(data["claims"]))
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        copy = Path(place) / path.name
        (Path(place) / "arms").symlink_to((path.parent / "arms").resolve())
        for _ in range(min(len(left), MOST_SET_ASIDE)):
            text = yaml.safe_dump(data | {"claims": [claim for _, claim in left]}, sort_keys=False)
            copy.write_text(text, encoding="utf-8")
            faults = _first(lambda: load_claims(copy))
            at = re.match(r"claims\.(\d+)(.*)", faults[0].key) if faults else None
            if at is None:
                break
            number, _ = left.pop(int(at[1]))
            hint = faults[0].hint.replace(str(copy.parent), str(path.parent))
            yield BadInput(path, f"claims.{number}{at[2]}", faults[0].value, hint)


def _procheck(path: Path) -> Iterator[BadInput]:
    from groupppo.profile.config import load_profile

    yield from _first(lambda: load_profile(path))


_CHECKS: dict[str, Callable[[Path], Iterator[BadInput]]] = {
    "task": _task_faults,
    "model": _model_faults,
    "arm": _arm_faults,
    "claims": _claims_faults,
    "profile": _procheck,
}
