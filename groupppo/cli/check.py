"""What is wrong in a file of benchmarks/, all of it, before anything runs.

`groupppo validate` asks `check`, and so does every plan. A job asks the functions that `check` asks, of what it is
given. Where one of these stops at its first fault and a key on its own can be wrong, the key is set aside and the
function asked again.
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
    FILE,
    FOLDERS,
    KINDS,
    Arm,
    Benchmark,
    Model,
    Task,
    Train,
    kind_of,
    load_arm,
    load_benchmark,
    load_model,
    load_task,
    own_files,
)
from groupppo.config.allowed import allowed
from groupppo.config.files import MOST_FAULTS, form_faults
from groupppo.errors import BadInput
from groupppo.models import model_faults
from groupppo.profile.config import profile_faults
from groupppo.records.code import code_sha256
from groupppo.records.plain_yaml import read_yaml
from groupppo.tasks.base import generator_faults, own_reward_faults

MOST_SET_ASIDE = 10
"""Keys of a file that are set aside: each costs another reading; what is left waits for these."""
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
    files = [*benchmark.claims_files, *filter(None, [benchmark.profile])]
    content = [benchmark.resolved(), *(file.read_text(encoding="utf-8") for file in files)]
    named = ["groupppo.cli.check", "groupppo.config", "groupppo.tasks.generators", "groupppo.studies"]
    code = code_sha256(Path(__file__), entries=named)
    packages = [version(name) for name in ("verl", "torch", "transformers", "omegaconf", "pydantic")]
    found = [(file, file.stat()) for file in own_files(*benchmark.tasks.values(), *benchmark.models.values())]
    own = [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in found]
    text = json.dumps([content, own, code, packages, sys.version, sorted(allowed())])
    return cache / "groupppo" / "checked" / hashlib.sha256(text.encode()).hexdigest()


def _faults(path: Path, known: dict[Path, list[BadInput]]) -> list[BadInput]:
    try:
        kind = kind_of(path)
        data = read_yaml(path)
    except BadInput as fault:
        return [fault]
    faults = form_faults(path, KINDS[kind], data)
    if kind == "benchmark":
        below = [fault for key, file in _named(path, data) for fault in _faults_below(path, key, file, known)]
        return [*faults, *below] or _matrix_faults(path)
    return faults or list(islice(_deeper_faults(path, kind), MOST_FAULTS))


def _named(path: Path, data: Any) -> Iterator[tuple[str, Path]]:
    """Existing files that a benchmark names, with its keys; what is missing, its own loader says."""
    if not isinstance(data, dict):
        return
    lists = {folder: data.get(folder) for folder in FOLDERS}
    listed = [(folder, name) for folder, names in lists.items() if isinstance(names, list) for name in names]
    for key, name in [*listed, *((key, data.get(key)) for key in _BESIDE)]:
        if isinstance(name, str) and len(name) <= 100 and "/" not in name:
            file = path.parent / (f"{key}/{name}.yaml" if isinstance(data[key], list) else name)
            if file.is_file():
                yield key, file


def _faults_below(path: Path, key: str, file: Path, known: dict[Path, list[BadInput]]) -> Iterator[BadInput]:
    """Of a file that a benchmark names, its kind included; a pilot is checked where it is run."""
    if key in _BESIDE:
        try:
            kind = kind_of(file)
        except BadInput as fault:
            yield fault
            return
        if kind != _BESIDE[key]:
            hint = f"name a file of kind {_BESIDE[key]}; this one is of kind {kind}."
            yield BadInput(path, key, file.name, hint)
    if key != "pilot":
        yield from check(file, known)


def _matrix_faults(path: Path) -> list[BadInput]:
    """Of its studies, and of each training run's config, composed as the run will: the first of each, each once."""
    from groupppo.studies.shared.study import study_faults
    from groupppo.verdicts.claims import load_claims
    from groupppo.verl.compose import Canvas, cells_to_check, compose

    try:
        benchmark = load_benchmark(path)
        load_claims(benchmark.claims)  # several files may not go together
    except BadInput as fault:
        return [fault]
    canvas = Canvas()
    faults = {str(fault): fault for fault in study_faults(benchmark)}
    for cell in cells_to_check(benchmark, _NOWHERE):
        try:
            compose(cell, canvas)
        except BadInput as fault:
            faults.setdefault(str(fault), fault)
    return list(faults.values())


def _deeper_faults(path: Path, kind: str) -> Iterator[BadInput]:
    """What the form of a kind does not see."""
    if kind == "arm":
        yield from _arm_faults(load_arm(path))
    elif kind == "task":
        try:
            task = load_task(path)
        except BadInput as fault:  # its reward's file
            yield fault
            return
        yield from _task_faults(task)
    elif kind == "model":
        yield from model_faults(load_model(path))
    elif kind == "profile":
        yield from profile_faults(path)
    elif kind == "claims":
        from groupppo.verdicts.claims import claims_faults

        yield from claims_faults(path)


def _task_faults(task: Task) -> Iterator[BadInput]:
    from groupppo.tasks.file_data import file_faults
    from groupppo.tasks.hub_data import FORMATS, published_faults

    own = own_reward_faults(task)
    if own:
        yield from own
    elif task.generator == FILE:
        yield from file_faults(task)
    else:
        yield from published_faults(task) if task.generator in FORMATS else generator_faults(task)


def _arm_faults(arm: Arm) -> Iterator[BadInput]:
    """An arm against verl's config in a cell that is otherwise plain: any matrix may name it later."""
    from groupppo.verl.compose import Canvas, Cell, compose

    task = Task("any", "any", "1.0", "any", {}, {"train": 2, "dev": 1, "test": 1}, 0, 16, 16, None, _NOWHERE)
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
    density, canvas = None if arm.density_from is None else _NOWHERE, Canvas()
    cell = Cell(task, model, arm, 0, train, _NOWHERE, _NOWHERE, _NOWHERE, density_source=density)
    for fault in _each(lambda keys: compose(replace(cell, arm=replace(arm, verl=keys)), canvas), arm.verl):
        yield BadInput(arm.source, f"verl.{fault.key}", fault.value, fault.hint)
        if fault.key == "algorithm.adv_estimator":
            return  # what else is right depends on it


def _each(load: Callable[[dict[str, Any]], object], keys: Mapping[str, Any]) -> Iterator[BadInput]:
    """The faults of a mapping: a key at fault is set aside and the rest tried again, until a fault is no such key's."""
    left = dict(keys)
    for _ in range(MOST_SET_ASIDE):
        try:
            load(left)
        except BadInput as fault:
            key = fault.key
            if key in left or key not in keys:
                yield fault
            if key not in left:
                return
            del left[key]
        else:
            return
