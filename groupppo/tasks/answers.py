"""How a task judges a response, by the name in its file; what a name needs is imported when it is asked for."""

from collections.abc import Callable
from importlib import import_module

MODULES = {
    "exact": "groupppo.tasks.reward",
    "math": "groupppo.tasks.math_reward",
    "reasoning_gym": "groupppo.tasks.gym_reward",
}


def scorer(reward: str) -> Callable[[str, str], float]:
    """The function from a response and the true answer to 0.0 or 1.0.

    Raises:
        KeyError: there is no such reward.
    """
    score: Callable[[str, str], float] = import_module(MODULES[reward]).score
    return score
