"""Models: one factory for each kind of model, which writes a Hugging Face folder."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from groupppo.config import HUB, Model
from groupppo.errors import BadInput, ParamError, suggest
from groupppo.models import tiny
from groupppo.models.hub import check_model_folder, hub_model, params_faults

LARGEST_SIZE = 2**20
TRAINING_BYTES = 16
"""Of one parameter in training: float32 weights, gradients and Adam's two moments."""


class Factory(NamedTuple):
    """`build` writes the folder of a model and returns its parameters; `count` counts them from the same arguments and
    raises ParamError where these do not fit each other."""

    build: Callable[..., int]
    count: Callable[..., int]


FACTORIES = {"tiny_qwen2": Factory(tiny.tiny_qwen2, tiny.parameters_of)}


def model_faults(model: Model) -> Iterator[BadInput]:
    """What keeps a model from being built: factory, a parameter, or sizes that do not fit each other or its memory."""
    if model.published:
        yield from params_faults(model)
        return
    if model.factory not in FACTORIES:
        known = sorted([*FACTORIES, HUB])
        hint = f"{suggest(model.factory, known)}Known factories: {', '.join(known)}."
        yield BadInput(model.source, "factory", model.factory, hint)
        return
    factory, sound = FACTORIES[model.factory], True
    known = [name for name in inspect.signature(factory.count).parameters if name != "seed"]
    listing = f"parameters of {model.factory}: {', '.join(known)}."
    for key in sorted({*model.params, *known}):
        value, hint = model.params.get(key), ""
        if key not in known:
            hint = f"unknown parameter; {suggest(key, known)}{listing}"
        elif value is None:
            hint = f"add it; {listing}"
        elif type(value) is not int or not 1 <= value <= LARGEST_SIZE:
            hint = f"write a whole number from 1 to {LARGEST_SIZE}."
        if hint:
            sound = False
            yield BadInput(model.source, f"params.{key}", value, hint)
    if sound:
        yield from _size_faults(model, factory.count)


def _size_faults(model: Model, count: Callable[..., int]) -> Iterator[BadInput]:
    try:
        needed = count(**model.params) * TRAINING_BYTES
    except ParamError as error:
        yield BadInput(model.source, f"params.{error.key}", error.value, error.hint)
        return
    if needed > model.resources["mem_mb"] * 1e6:
        hint = f"write at least {-(-needed // 10**6)}: its weights, gradients and Adam's moments alone take that."
        yield BadInput(model.source, "resources.mem_mb", model.resources["mem_mb"], hint)


def build_model(model: Model, folder: Path) -> int:
    """Write the folder of `model`, with random initial weights or as published, and check that it can be trained on.

    Returns:
        Number of parameters.

    Raises:
        BadInput: the first of `model_faults`, or the folder cannot be trained on.
    """
    for fault in model_faults(model):
        raise fault
    if model.published:
        return hub_model(model, folder)
    arguments: dict[str, Any] = model.params
    parameters = FACTORIES[model.factory].build(folder, **arguments, seed=model.seed)
    check_model_folder(folder)
    return parameters
