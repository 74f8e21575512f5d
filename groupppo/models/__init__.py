"""Models: one factory function per kind of model, each writing a Hugging Face folder."""

import inspect
from collections.abc import Callable
from pathlib import Path

from groupppo.config import HUB, Model
from groupppo.errors import BadInput
from groupppo.models.check import check_model_folder
from groupppo.models.hub import hub_model
from groupppo.models.tiny import tiny_qwen2

FACTORIES: dict[str, Callable[..., int]] = {"tiny_qwen2": tiny_qwen2}


def build_model(model: Model, folder: Path) -> int:
    """Write the folder of `model`, with random initial weights or as published, and check that it can be trained on.

    Returns:
        Number of parameters.

    Raises:
        BadInput: the factory is unknown, or a parameter is unknown, missing or does not fit the others.
    """
    if model.factory == HUB:
        return hub_model(model, folder)
    if model.factory not in FACTORIES:
        known_factories = ", ".join(sorted([*FACTORIES, HUB]))
        raise BadInput(model.source, "factory", model.factory, f"known factories: {known_factories}.")
    factory = FACTORIES[model.factory]
    known = set(inspect.signature(factory).parameters) - {"folder", "seed"}
    listing = f"parameters of {model.factory}: {', '.join(sorted(known))}."
    for key in sorted(set(model.params) - known):
        raise BadInput(model.source, f"params.{key}", model.params[key], f"unknown parameter; {listing}")
    for key in sorted(known - set(model.params)):
        raise BadInput(model.source, f"params.{key}", None, f"add it; {listing}")
    for key, value in model.params.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(model.source, f"params.{key}", value, "write a whole number, at least 1.")
    try:
        parameters = factory(folder, **model.params, seed=model.seed)
    except ValueError as error:
        raise BadInput(model.source, "params", model.params, f"{error}.") from error
    check_model_folder(folder)
    return parameters
