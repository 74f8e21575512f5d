"""The maths reward on everything that GSM8K and MATH publish, on other spellings of it and on near misses."""

import gzip
import json
import os
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from groupppo.config import REPOSITORY
from groupppo.tasks.hub_data import FORMATS
from groupppo.tasks.math_reward import score
from tests.tasks.spellings import CHANGED_LINES, RIGHT_LINES, WRONG_LINES, lines, right, wrong

DATA = REPOSITORY.parent / "shared" / "data"
SAMPLE = int(os.environ.get("PUBLISHED_ANSWERS", "0"))
"""Distinct answers that are drawn, for the rates of docs/gpu.md."""
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the published rows are not beside the repository, in ../shared/data"
)
# Lines of another value, or of two, that verl rewards for the number after the mark: its pattern reads no further.
VERL_REWARDS = {
    "#### N or 3", "#### N and 3", "#### N to 999", "#### N (or 3)", "#### N (3)", "#### N 3", "#### N + 3",
    "#### N + 3 = 8", "#### N*3", "#### N x 3", "#### N/7", "#### N^2 + 1", "#### N:30", "#### N hours 30 minutes",
    "#### N 2/3", "#### Ne3", "#### N = 0.5", "#### N-7", "#### N then \\boxed{0.5}", "#### N\\cdot 7",
    *CHANGED_LINES,
}  # fmt: skip


@cache
def rows(name: str) -> list[tuple[str, str]]:
    """The published solution and the answer of each row that has an answer."""

    def read() -> Iterator[tuple[str, str]]:
        for split in ("train", "test"):
            with gzip.open(DATA / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
                for row in map(json.loads, file):
                    example = FORMATS[name](row)
                    if example is not None:
                        yield row["answer" if name == "gsm8k" else "solution"], example.answer

    return list(read())


def drawn(name: str, sample: int) -> list[str]:
    return random.Random(16).sample(sorted({answer for _, answer in rows(name)}), SAMPLE or sample)


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 8792), ("math", 12498)])
def test_the_own_solution_of_every_published_row_earns_the_reward(name: str, count: int) -> None:
    assert len(rows(name)) == count  # of MATH's 12,500 two have an empty box
    assert [(answer, solution) for solution, answer in rows(name) if score(solution, answer) != 1.0] == []


@pytest.mark.parametrize(
    ("name", "sample", "responses", "due", "at_least"),
    [
        ("gsm8k", 30, right, 1.0, 2000),
        ("math", 60, right, 1.0, 1200),
        ("gsm8k", 5, wrong, 0.0, 150),
        ("math", 80, wrong, 0.0, 250),
    ],
)
def test_other_spellings_earn_it_and_near_misses_earn_nothing(
    name: str, sample: int, responses: Any, due: float, at_least: int
) -> None:
    made = [(answer, kind, text) for answer in drawn(name, sample) for kind, text in responses(name, answer)]
    assert len(made) > at_least
    assert [case for case in made if score(case[2], case[0]) != due] == []


def test_on_gsm8k_it_is_never_below_verls_own_reward_where_that_is_right() -> None:
    from verl.utils.reward_score.gsm8k import compute_score

    below: set[str] = set()
    above: set[str] = set()
    for answer in ("18", "7200"):
        for template, line in (*lines(answer, RIGHT_LINES), *lines(answer, WRONG_LINES)):
            ours, theirs = score(line, answer), compute_score(line, answer)
            below |= {template} if ours < theirs else set()
            above |= {template} if ours > theirs else set()
    assert below == VERL_REWARDS
    assert below <= set(WRONG_LINES)
    assert above <= set(RIGHT_LINES)
    assert len(above) > len(RIGHT_LINES) / 3
