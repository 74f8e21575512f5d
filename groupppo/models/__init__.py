"""Models: one factory for each kind of model, which writes a Hugging Face folder."""

from collections.abc import Callable
from pathlib import Path

from groupppo.config import FOLDER, HUB, REPOSITORY, Model, beside, own_path
from groupppo.config.allowed import require_inside
from groupppo.config.files import keyword_faults
from groupppo.errors import BadInput, ParamError, suggest
from groupppo.models.hub import check_model_folder, check_shape, folder_model, hub_model, own_model_files, shape_of
from groupppo.models.tiny import checked_parameters, tiny_qwen2

FACTORIES: dict[str, Callable[..., None]] = {FOLDER: folder_model, HUB: hub_model, "tiny_qwen2": tiny_qwen2}
"""By name: functions that write a folder from a `seed` and a model's `params`."""
TRAINING_BYTES = 16
"""Of one parameter in training: float32 weights, gradients and Adam's two moments."""


def model_faults(model: Model) -> list[BadInput]:
    """What keeps a model from being built, as far as it can be seen before."""
    if model.factory not in FACTORIES:
        hint = f"{suggest(model.factory, FACTORIES)}Known factories: {', '.join(sorted(FACTORIES))}."
        return [BadInput(model.source, "factory", model.factory, hint)]
    faults = keyword_faults(model.source, "params", FACTORIES[model.factory], model.params)
    if model.factory == HUB and model.shape is None:
        faults.append(BadInput(model.source, "shape", None, "add it: GPU memory is planned with it."))
    if faults or model.factory == HUB:
        return faults
    try:
        parameters = _own_parameters(model) if model.factory == FOLDER else checked_parameters(**model.params)
    except ParamError as error:
        return [BadInput(model.source, f"params.{error.key}", error.value, error.hint)]
    except BadInput as fault:
        return [fault]
    needed = TRAINING_BYTES * parameters
    if needed > model.resources["mem_mb"] * 1e6 and "gpu" not in model.resources:
        hint = f"write at least {-(-needed // 10**6)}: its weights, gradients and Adam's moments alone take that."
        faults.append(BadInput(model.source, "resources.mem_mb", model.resources["mem_mb"], hint))
    return faults


def _own_parameters(model: Model) -> int:
    """Parameters of a folder on disk that can be trained on and has the shape that the model's file says."""
    folder = own_path(model)
    assert folder is not None
    for path in (folder, *own_model_files(folder)):
        require_inside(path, model.source, "params.path", REPOSITORY, beside(model.source, "models"))
    parameters = check_model_folder(folder, padded=True, set_later=model.params)
    if "gpu" in model.resources and model.shape is None:
        hint = f"add it, GPU memory is planned with it; of this folder it is {shape_of(folder)}."
        raise BadInput(model.source, "shape", None, hint)
    check_shape(model, folder)
    return parameters


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
    place = own_path(model)
    params = model.params if place is None else model.params | {"path": str(place)}
    try:
        FACTORIES[model.factory](folder, seed=model.seed, **params)
    except ParamError as error:
        raise BadInput(model.source, f"params.{error.key}", error.value, error.hint) from error
    parameters = check_model_folder(folder, padded=model.published)
    check_shape(model, folder)
    return parameters
