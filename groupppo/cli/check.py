"""What is wrong in a file of benchmarks/, all of it, before anything runs.

`groupppo validate` asks `check`, and so does every plan. A job asks the functions that `check` asks, of what it is
given: `load_benchmark`, `bind` or `params_faults`, `model_faults` and `compose`. Where one of these stops at its first
fault and a key on its own can be wrong, the key is set aside and the function asked again.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from groupppo.config import (
    FOLDERS,
    GROUPED,
    KINDS,
    Arm,
    Benchmark,
    Model,
    Task,
    Train,
    WarmStart,
    kind_of,
    load_arm,
    load_benchmark,
    load_model,
    load_task,
)
from groupppo.config.allowed import allowed
from groupppo.config.files import MOST_FAULTS, form_faults
from groupppo.errors import BadInput
from groupppo.records.code import code_sha256
from groupppo.records.plain_yaml import read_yaml

PARAMS = "algorithm.group_params."
MOST_SET_ASIDE = 10
"""Keys of a file that are set aside: each costs another reading; what is left waits for these."""
_STAND_IN = 0.5  # density of another arm's run, which is not there yet
_NOWHERE = Path("none")
# Keys of a benchmark that name a file beside it, and the kinds that it may be of.
_BESIDE = {"claims": "claims", "profile": "profile", "pilot": "benchmark"}


def check(path: Path, known: dict[Path, list[BadInput]] | None = None) -> list[BadInput]:
    """All faults of a file, and of the files and training runs that a benchmark names; empty when it can be used.

    Args:
        path: the file.
        known: faults of files that were checked already, by resolved path; those of this one are added.
    """
    known = {} if known is None else known
    place = path.resolve()
    if place not in known:
        known[place] = []  # a file that names itself
        known[place] = _faults(path, known)
    return known[place]


def note_of_no_faults(benchmark: Benchmark, cache: Path) -> Path:
    """Where a plan notes that a benchmark had no faults; the name hashes its files, what is allowed, code and packages.

    Args:
        benchmark: the matrix.
        cache: a folder for what can be made again.
    """
    files = [benchmark.claims, *filter(None, [benchmark.profile])]
    content = [benchmark.resolved(), *(file.read_text(encoding="utf-8") for file in files)]
    named = ["groupppo.cli.check", "groupppo.config", "groupppo.tasks.generators", "groupppo.studies"]
    code = code_sha256(Path(__file__), entries=named)
    packages = [version(name) for name in ("verl", "torch", "transformers", "omegaconf", "pydantic")]
    text = json.dumps([content, code, packages, sys.version, sorted(allowed())])
    return cache / "groupppo" / "checked" / hashlib.sha256(text.encode()).hexdigest()


def _faults(path: Path, known: dict[Path, list[BadInput]]) -> list[BadInput]:
    try:
        kind = kind_of(path)
        data = read_yaml(path)
    except BadInput as fault:
        return [fault]
    faults = form_faults(path, KINDS[kind], data)
    if kind == "benchmark":
        named = list(_named(path, data))
        faults += [fault for key, file in named for fault in _other_kind(path, key, file)]
        below = [fault for key, file in named if key != "pilot" for fault in check(file, known)]
        return [*faults, *below] or _matrix_faults(path)
    return faults or (list(islice(_CHECKS[kind](path), MOST_FAULTS)) if kind in _CHECKS else [])


def _named(path: Path, data: Any) -> Iterator[tuple[str, Path]]:
    """Existing files that a benchmark names, with its keys; what is missing, its own loader says."""
    if not isinstance(data, dict):
        return
    lists = {folder: data.get(folder) for folder in FOLDERS}
    listed = [(folder, name) for folder, names in lists.items() if isinstance(names, list) for name in names]
    for key, name in [*listed, *((key, data.get(key)) for key in _BESIDE)]:
        if isinstance(name, str) and len(name) <= 100 and "/" not in name:
            file = path.parent / (f"{key}/{name}.yaml" if key in FOLDERS else name)
            if file.is_file():
                yield key, file


def _other_kind(path: Path, key: str, file: Path) -> Iterator[BadInput]:
    """A file beside the benchmark that is of another kind than its key says."""
    if key not in _BESIDE:
        return
    try:
        kind = kind_of(file)
    except BadInput as fault:
        yield fault
        return
    if kind != _BESIDE[key]:
        yield BadInput(path, key, file.name, f"name a file of kind {_BESIDE[key]}; this one is of kind {kind}.")


def _matrix_faults(path: Path) -> list[BadInput]:
    """Of its studies, and of each training run's config, composed as the run will: the first of each, each once."""
    from groupppo.studies.shared.study import study_faults
    from groupppo.verl.compose import Canvas, Cell, compose

    try:
        benchmark = load_benchmark(path)
    except BadInput as fault:
        return [fault]
    canvas = Canvas()
    faults = {str(fault): fault for fault in study_faults(benchmark)}
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
            for refused in _first(compose, cell, canvas):
                faults.setdefault(str(refused), refused)
    return list(faults.values())


def _first(function: Callable[..., object], *arguments: object) -> list[BadInput]:
    try:
        function(*arguments)
    except BadInput as fault:
        return [fault]
    return []


def _each(load: Callable[[dict[str, Any]], object], keys: Mapping[str, Any], prefix: str = "") -> Iterator[BadInput]:
    """The faults of a mapping: a key at fault is set aside and the rest tried again, until a fault is no such key's."""
    left, gone = dict(keys), set[str]()
    for faults in (_first(load, left) for _ in range(MOST_SET_ASIDE)):
        key = faults[0].key.removeprefix(prefix) if faults else None
        if key is None or key in gone:
            return
        yield faults[0]
        if key not in left:
            return
        gone.add(key)
        del left[key]


def _task_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.tasks.base import bind
    from groupppo.tasks.hub_data import FORMATS, params_faults

    task = load_task(path)
    if task.generator in FORMATS:
        yield from params_faults(task)
    else:
        yield from _each(lambda params: bind(replace(task, params=params)), task.params, "params.")


def _model_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.models import model_faults

    yield from model_faults(load_model(path))


def _arm_faults(path: Path) -> Iterator[BadInput]:
    """An arm against verl's config in a cell that is otherwise plain: any matrix may name it later."""
    from groupppo.algorithm.params import GroupParams

    arm = load_arm(path)
    stand_in = {} if arm.density_from is None else {"density": _STAND_IN}
    settings = {key.removeprefix(PARAMS): value for key, value in arm.verl.items() if key.startswith(PARAMS)}
    spoilt = set[str]()
    stock = arm.verl.get("algorithm.adv_estimator") != GROUPED
    for fault in _each(lambda keys: GroupParams.from_config(keys | stand_in, stock), settings):
        spoilt.add(f"{PARAMS}{fault.key}")
        yield BadInput(path, f"verl.{PARAMS}{fault.key}", fault.value, fault.hint)
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
    train = Train(
        steps=1,
        prompts_per_step=2,
        responses_per_prompt=2,
        mini_batches=2,
        actor_lr=1e-4,
        critic_lr=1e-3,
        rollout="transformers",
        time_limit_s=60,
    )
    cell = Cell(task, model, arm, 0, train, _NOWHERE, _NOWHERE, _NOWHERE)
    density, canvas = None if arm.density_from is None else _NOWHERE, Canvas()
    return lambda keys: compose(replace(cell, arm=replace(arm, verl=keys), density_source=density), canvas)


def _claims_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.verdicts.claims import claims_faults

    return claims_faults(path)


def _profile_faults(path: Path) -> Iterator[BadInput]:
    from groupppo.profile.config import profile_faults

    return profile_faults(path)


_CHECKS: dict[str, Callable[[Path], Iterator[BadInput]]] = {
    "task": _task_faults,
    "model": _model_faults,
    "arm": _arm_faults,
    "claims": _claims_faults,
    "profile": _profile_faults,
}
