"""Tasks of reasoning-gym: generated offline, each judged by its own scorer.

Listed are datasets whose scorers compare values. Others hand the response to sympy's `parse_expr` or to `eval`, which
run what it says.
"""

import json
import random
import re
from typing import Any, Literal

from groupppo.errors import ParamError
from groupppo.tasks.base import Example

Dataset = Literal[
    "base_conversion",
    "chain_sum",
    "fraction_simplification",
    "gcd",
    "knights_knaves",
    "leg_counting",
    "letter_counting",
    "spell_backward",
    "word_sorting",
]
LARGEST = 1000
"""Of a whole number in a config, where it counts something; one that ends in _value is drawn from."""
_WORD = re.compile("[A-Za-z0-9_]{1,100}")
# Statements of so many branches so deep take for ever to be made true, and all sets of people are tried.
_PEOPLE = {"n_people": 8, "depth_constraint": 3, "width_constraint": 3}
ASK = "Think first. Then write only your final answer between <answer> and </answer>."


def reasoning_gym(rng: random.Random, *, dataset: Dataset, config: dict[str, Any]) -> Example:
    """One entry of a reasoning-gym dataset.

    Its item i has the seed + i, so that datasets with near seeds share items. Each of ours is the only item of a
    dataset with a seed of 31 bits.

    Args:
        dataset: its name.
        config: keys of that dataset's config; its own defaults for the rest.

    Returns:
        an example whose answer is JSON, what `groupppo.tasks.gym_reward` judges by; its size is the question's words.

    Raises:
        ParamError: the config has no such key or takes no such value.
    """
    for key, value in config.items():
        _check(key, value, _PEOPLE.get(key, LARGEST))
    from reasoning_gym import create_dataset

    try:
        entry = create_dataset(dataset, size=1, seed=rng.getrandbits(31), **config)[0]
    except (AssertionError, TypeError, ValueError, LookupError, ArithmeticError, OSError) as error:
        hint = f"reasoning-gym refuses it: {error or type(error).__name__}"
        raise ParamError("config", config, hint) from error
    truth = {"dataset": dataset, "answer": entry["answer"], "metadata": entry["metadata"]}
    return Example(
        prompt=f"{entry['question'].strip()}\n\n{ASK}",
        demonstration=f"<answer>{entry['answer']}</answer>",
        answer=json.dumps(truth, ensure_ascii=False, sort_keys=True),
        size=len(entry["question"].split()),
    )


def _check(key: str, value: Any, most: int) -> None:
    if isinstance(value, str) and not _WORD.fullmatch(value):  # spell_backward takes its words from any file
        raise ParamError("config", {key: value}, "write numbers, switches and names: no path of a file.")
    if isinstance(value, int | float) and abs(value) > most and not key.endswith("_value"):
        raise ParamError("config", {key: value}, f"write at most {most}: one prompt would take too long.")
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _check(key, item, most)
