"""What a task generator is: a function in a file of its name in `groupppo/tasks/generators/`, found by being there."""

import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from groupppo.config import Task
from groupppo.config.files import keyword_faults
from groupppo.errors import BadInput, ParamError, suggest
from groupppo.tasks.reward import scorer


@dataclass(frozen=True)
class Example:
    """One prompt with its exact answer.

    Attributes:
        prompt: the user's message, without chat template.
        demonstration: a response that earns reward 1.
        answer: ground truth.
        size: length of the problem (digits, terms), to break accuracy down by difficulty.
    """

    prompt: str
    demonstration: str
    answer: str
    size: int


Generator = Callable[..., Example]
Draw = Callable[[random.Random], Example]


def get_generator(name: str) -> Generator:
    """The generator `name`: its first argument is a `random.Random`, its keyword-only ones are a task's `params`.

    Raises:
        KeyError: no such generator; the message lists those that exist.
    """
    package = import_module("groupppo.tasks.generators")  # by name: a task depends on its own generator alone
    known = [each.name for each in pkgutil.iter_modules(package.__path__)]
    if name not in known:
        raise KeyError(f"no generator {name!r}; {suggest(name, known)}Known: {', '.join(known)}.")
    generator: Generator = getattr(import_module(f"{package.__name__}.{name}"), name)
    return generator


def bind(task: Task) -> Draw:
    """The task's generator with its parameters filled in: a function of the random state alone.

    Raises:
        BadInput: the first of `generator_faults`.
    """
    for fault in generator_faults(task):
        raise fault
    return partial(get_generator(task.generator), **task.params)


def generator_faults(task: Task) -> list[BadInput]:
    """An unknown generator, parameters that are unknown, missing or out of range, or a reward for other answers."""
    try:
        generator = get_generator(task.generator)
    except KeyError as error:
        return [BadInput(task.source, "generator", task.generator, str(error.args[0]))]
    faults = keyword_faults(task.source, "params", generator, task.params)
    if faults:
        return faults
    try:
        example = generator(random.Random(task.seed), **task.params)
    except ParamError as error:
        return [BadInput(task.source, f"params.{error.key}", error.value, error.hint)]
    if own := own_reward_faults(task):
        return own
    if scorer(task)(example.demonstration, example.answer) != 1.0:
        hint = f"write the reward that judges the answers of {task.generator}: its own demonstration earns nothing."
        return [BadInput(task.source, "reward", task.reward, hint)]
    return []


def own_reward_faults(task: Task) -> list[BadInput]:
    """Why the user's own reward cannot judge; nothing for the others."""
    if task.reward != "python":
        return []
    from groupppo.tasks.own_reward import own_faults

    return own_faults(task)


def require_at_most(key: str, value: int, most: int) -> None:
    """Raise `ParamError` where one parameter is above another, which `most` is the value of."""
    if value > most:
        raise ParamError(key, value, f"write at most {most}.")
