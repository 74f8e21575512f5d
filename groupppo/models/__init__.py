"""Models: one factory for each kind of model, which writes a Hugging Face folder."""

from collections.abc import Callable
from pathlib import Path

from groupppo.config import HUB, Model
from groupppo.config.files import keyword_faults
from groupppo.errors import BadInput, ParamError, suggest
from groupppo.models.hub import check_model_folder, check_shape, hub_model
from groupppo.models.tiny import checked_parameters, tiny_qwen2

FACTORIES: dict[str, Callable[..., None]] = {HUB: hub_model, "tiny_qwen2": tiny_qwen2}
"""By name: functions that write a folder from a `seed` and a model's `params`."""
TRAINING_BYTES = 16
"""Of one parameter in training: float32 weights, gradients and Adam's two moments."""


def model_faults(model: Model) -> list[BadInput]:
    """What keeps a model from being built, as far as it can be seen before."""
    if model.factory not in FACTORIES:
        hint = f"{suggest(model.factory, FACTORIES)}Known factories: {', '.join(sorted(FACTORIES))}."
        return [BadInput(model.source, "factory", model.factory, hint)]
    faults = keyword_faults(model.source, "params", FACTORIES[model.factory], model.params)
    if model.published and model.shape is None:
        faults.append(BadInput(model.source, "shape", None, "add it: GPU memory is planned with it."))
    if faults or model.published:
        return faults
    try:
        needed = TRAINING_BYTES * checked_parameters(**model.params)
    except ParamError as error:
        return [BadInput(model.source, f"params.{error.key}", error.value, error.hint)]
    if needed > model.resources["mem_mb"] * 1e6:
        hint = f"write at least {-(-needed // 10**6)}: its weights, gradients and Adam's moments alone take that."
        faults.append(BadInput(model.source, "resources.mem_mb", model.resources["mem_mb"], hint))
    return faults


def build_model(model: Model, folder: Path) -> int:
    """Write the folder of `model`, with random initial weights or as published, and check that it can be trained on.

    Returns:
        Number of parameters.

    Raises:
        BadInput: the first of `model_faults`, the hub does not give the files, or the folder cannot be trained on or
            has another shape than the model's file says.
    """
    for fault in model_faults(model):
        raise fault
    try:
        FACTORIES[model.factory](folder, seed=model.seed, **model.params)
    except ParamError as error:
        raise BadInput(model.source, f"params.{error.key}", error.value, error.hint) from error
    parameters = check_model_folder(folder, padded=model.published)
    check_shape(model, folder)
    return parameters
