"""What a task generator is, and their register: one file in `groupppo/tasks/generators/`, found by being there."""

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import TypeVar

from groupppo.config import Task
from groupppo.errors import BadInput, suggest
from groupppo.errors import ParamError as ParamError
from groupppo.tasks.reward import MODULES as REWARDS
from groupppo.tasks.reward import scorer


@dataclass(frozen=True)
class Example:
    """One prompt with its exact answer.

    Attributes:
        prompt: the user's message, without chat template.
        demonstration: a response that earns reward 1; it ends in ``#`` and the answer.
        answer: ground truth, compared character by character.
        size: length of the problem (digits, terms), to break accuracy down by difficulty.
    """

    prompt: str
    demonstration: str
    answer: str
    size: int


Generator = Callable[..., Example]
Draw = Callable[[random.Random], Example]
Registered = TypeVar("Registered", bound=Generator)

_GENERATORS: dict[str, Generator] = {}


def register(name: str) -> Callable[[Registered], Registered]:
    """Make a function known as generator `name`: its first argument a `random.Random`, its parameters keyword-only."""

    def keep(generator: Registered) -> Registered:
        if name in _GENERATORS:
            raise ValueError(f"generator {name!r} is registered twice")
        _GENERATORS[name] = generator
        return generator

    return keep


def known_generators() -> Mapping[str, Generator]:
    """All generators by name; imports every module of `groupppo.tasks.generators` on first use.

    Raises:
        ValueError: a module registers no generator of its own name, by which a workflow finds what a task depends on.
    """
    _load_all()
    return MappingProxyType(_GENERATORS)


@cache
def _load_all() -> None:
    package = importlib.import_module("groupppo.tasks.generators")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
        if module.name not in _GENERATORS:
            raise ValueError(f"{package.__name__}.{module.name} registers no generator named {module.name}")


def get_generator(name: str) -> Generator:
    """The generator registered as `name`.

    Raises:
        KeyError: no such generator; the message lists those that exist.
    """
    known = known_generators()
    if name not in known:
        raise KeyError(f"no generator {name!r}; {suggest(name, known)}Known: {', '.join(sorted(known))}.")
    return known[name]


def bind(task: Task) -> Draw:
    """The task's generator with its parameters filled in and checked: a function of the random state alone.

    Raises:
        BadInput: the generator is unknown, a parameter is unknown, missing or out of range, or the task's reward is not
            for its answers.
    """
    try:
        generator = get_generator(task.generator)
    except KeyError as error:
        raise BadInput(task.source, "generator", task.generator, str(error.args[0])) from error
    known = [
        parameter.name
        for parameter in inspect.signature(generator).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    listing = f"parameters of {task.generator}: {', '.join(known)}."
    for key in sorted(set(task.params) - set(known)):
        raise BadInput(task.source, f"params.{key}", task.params[key], f"unknown parameter; {listing}")
    for key in sorted(set(known) - set(task.params)):
        raise BadInput(task.source, f"params.{key}", None, f"add it; {listing}")
    draw = partial(generator, **task.params)
    try:
        example = draw(random.Random(task.seed))
    except ParamError as error:
        raise BadInput(task.source, f"params.{error.key}", error.value, error.hint) from error
    if task.reward not in REWARDS or scorer(task.reward)(example.demonstration, example.answer) != 1.0:
        hint = f"write the reward that judges the answers of {task.generator}: its own demonstration earns nothing."
        raise BadInput(task.source, "reward", task.reward, hint)
    return draw


def require_range(key: str, value: object, low: int, high: int) -> None:
    """Raise `ParamError` unless `value` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParamError(key, value, f"write a whole number from {low} to {high}.")
