"""The 0/1 reward of reasoning-gym tasks: 1 where the dataset's own scorer gives exactly 1, else 0."""

import json
import re
from functools import cache
from typing import Any

ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """What stands between the last pair of answer tags; None without one."""
    found = ANSWER.findall(text)
    return found[-1].strip() if found else None


def score(text: str, answer: str) -> float:
    """Judge a whole response; `answer` is JSON as `groupppo.tasks.generators.reasoning_gym` writes it."""
    given = extract_answer(text)
    if given is None:
        return 0.0
    truth = json.loads(answer)
    try:
        found = _dataset(truth["dataset"]).score_answer(given, entry=truth)
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError):
        return 0.0  # a scorer that cannot read the answer
    return float(found == 1.0)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: object
) -> dict[str, float]:
    """verl's, as in `groupppo.tasks.reward`; `no_answer` is 1.0 for a response without answer tags."""
    reward = score(solution_str, ground_truth)
    return {"score": reward, "acc": reward, "no_answer": float(extract_answer(solution_str) is None)}


@cache
def _dataset(name: str) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(name, size=1, seed=0)
