"""The exact 0/1 reward, the same in training (verl) and in evaluation (lm-eval), and the register of all rewards.

verl loads this file by its path in every reward worker (`reward.custom_reward_function.path`), so it imports the
standard library alone; what another reward needs is imported when it is asked for.
"""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = {
    "exact": "groupppo.tasks.reward",
    "math": "groupppo.tasks.math_reward",
    "reasoning_gym": "groupppo.tasks.gym_reward",
    "python": "groupppo.tasks.own_reward",
}

ANSWER = re.compile(r"#([^#\s]+)\Z")


def scorer(task: Any) -> Callable[[str, str], float]:
    """The function from a response and the true answer to 0.0 or 1.0 that a `Task` names.

    Raises:
        BadInput: it is a reward of the user's that nobody allows, or that cannot be run.
    """
    module = import_module(MODULES[task.reward])
    score: Callable[[str, str], float] = module.own_scorer(task) if task.reward == "python" else module.score
    return score


def scorer_of_card(card: Path) -> Callable[[str, str], float]:
    """The same function, of a built task's card.json."""
    reading = import_module("groupppo.records.plain_json")
    reward = reading.value_at(reading.read_object(card, "build the task first."), "spec", "reward") or "exact"
    module = import_module(MODULES[reward])
    score: Callable[[str, str], float] = module.of_card(card)[1] if reward == "python" else module.score
    return score


def extract_answer(text: str) -> str | None:
    """What follows the last ``#`` when it ends the text; ``None`` when the text ends in no answer."""
    found = ANSWER.search(text)
    return found.group(1) if found else None


def score(text: str, answer: str) -> float:
    """1.0 when the text ends in ``#`` and exactly `answer`, else 0.0. There is no partial credit."""
    return float(extract_answer(text) == answer)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: object
) -> dict[str, float]:
    """verl's reward function: reward of one response decoded without special tokens.

    Args:
        data_source: name of the task, not needed.
        solution_str: the response, up to its end token.
        ground_truth: `reward_model.ground_truth` of the prompt's row.
        extra_info: the row's `extra_info`, not needed.
        kwargs: what verl adds for reward models, not needed.

    Returns:
        `score`, the reward, and `acc`, the same number, which verl logs as accuracy.
    """
    reward = score(solution_str, ground_truth)
    return {"score": reward, "acc": reward}
