"""A reward of the user's: the function `score(response, answer)` of one Python file, which gives 0 or 1.

What runs is the text in the task's card, in training, warm start and evaluation alike: a file that is edited meanwhile
changes nothing until the task is built again. It runs where `reward_file` is allowed, and nowhere else.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from groupppo.config import Task
from groupppo.config.allowed import VARIABLE, is_allowed
from groupppo.errors import BadInput, RunFailed
from groupppo.records.hashing import scrub_record
from groupppo.records.plain_json import read_object, value_at

KEY = "reward_file"
_SHOWN = 200


def require_allowed(source: Path, name: str | None) -> None:
    """Raise BadInput unless who started this process allows Python of `source`, a task's file, to judge."""
    if not is_allowed(KEY):
        hint = f"it is code: read it. If it is yours, allow it: --config allow={KEY} or {VARIABLE}={KEY}."
        raise BadInput(source, KEY, name, hint)


def own_faults(task: Task) -> list[BadInput]:
    """Why the file of a task with `reward: python` cannot judge; it is run to see that."""
    if scrub_record(task.reward_text) != task.reward_text:
        hint = "leave out absolute paths: results are published without them, and the function would be another one."
        return [BadInput(task.source, KEY, task.reward_file, hint)]
    try:
        own_scorer(task)
    except BadInput as fault:
        return [fault]
    return []


def own_scorer(task: Task) -> Callable[[str, str], float]:
    """The function of a task with `reward: python`.

    Raises:
        BadInput: nobody allows it, or the file cannot be run or has no function `score`.
    """
    require_allowed(task.source, task.reward_file)
    return _function(task.reward_text, str(task.reward_file))


def of_card(card: Path, sha256: str | None = None) -> tuple[str, Callable[[str, str], float]]:
    """The SHA-256 of the function's text in a built task's card.json, and the function.

    Args:
        card: the file.
        sha256: what the hash has to be, where that is known.

    Raises:
        BadInput: the card holds no reward, or another one, nobody allows it, or it cannot be run.
    """
    spec = value_at(read_object(card, "build the task first."), "spec")
    name, text = value_at(spec, KEY), value_at(spec, "reward_text")
    if not isinstance(name, str) or not isinstance(text, str):
        raise BadInput(card, "spec.reward_text", text, "build the task again.")
    require_allowed(card, name)
    found = hashlib.sha256(text.encode()).hexdigest()
    if sha256 not in (None, found):
        raise BadInput(card, "spec.reward_text", f"SHA-256 {found}", f"build the task again: {name} has changed.")
    return found, _function(text, name)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict | None = None,
    *,
    card: str,
    sha256: str,
    **kwargs: object,
) -> dict[str, float]:
    """verl's, as in `groupppo.tasks.reward`; `card` and `sha256` are of the task that is trained on."""
    reward = _judge(card, sha256)(solution_str, ground_truth)
    return {"score": reward, "acc": reward}


@cache
def _judge(card: str, sha256: str) -> Callable[[str, str], float]:
    return of_card(Path(card), sha256)[1]


@cache
def _function(text: str, name: str) -> Callable[[str, str], float]:
    module = ModuleType(f"reward_{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(compile(text, name, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise BadInput(name, "file", repr(error)[:_SHOWN], "mend it: Python cannot run this file.") from error
    function: Any = getattr(module, "score", None)
    if not callable(function):
        raise BadInput(name, "score", function, "define score(response: str, answer: str) -> float in it.")

    def score(response: str, answer: str) -> float:
        try:
            reward = function(response, answer)
        except (Exception, SystemExit) as error:
            case = f"the answer {answer[:_SHOWN]!r} and the response {response[:_SHOWN]!r}"
            raise RunFailed(f"{name}: score ended with {error!r} for {case}") from error
        if not isinstance(reward, int | float) or reward not in (0, 1):
            hint = f"return 0 or 1 for every response; the answer was {answer[:_SHOWN]!r}."
            raise BadInput(name, "score", reward, hint)
        return float(reward)

    return score
