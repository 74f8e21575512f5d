"""The maths reward on everything that GSM8K and MATH publish, on other spellings of it and on near misses."""

import pytest

from groupppo.tasks.math_reward import judge, score
from tests.tasks import published_answers
from tests.tasks.published_answers import (
    CHANGED_LINES,
    RIGHT_LINES,
    WRONG_LINES,
    answers,
    lines,
    misjudged,
    right,
    rows,
    wrong,
)

pytestmark = pytest.mark.skipif(
    not published_answers.DATA.is_dir(), reason="the published rows are not beside the repository, in ../shared/data"
)
# Lines of another value, or of two, that verl rewards for the number after the mark: its pattern reads no further.
VERL_REWARDS = {
    "#### N or 3", "#### N and 3", "#### N to 999", "#### N (or 3)", "#### N (3)", "#### N 3", "#### N + 3",
    "#### N + 3 = 8", "#### N*3", "#### N x 3", "#### N/7", "#### N^2 + 1", "#### N:30", "#### N hours 30 minutes",
    "#### N 2/3", "#### Ne3", "#### N = 0.5", "#### N-7", "#### N then \\boxed{0.5}", "#### N\\cdot 7",
    *CHANGED_LINES,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 8792), ("math", 12498)])
def test_the_own_solution_of_every_published_row_earns_the_reward(name: str, count: int) -> None:
    published = list(rows(name))
    assert len(published) == count  # of MATH's 12,500 two have an empty box
    assert [(answer, solution) for solution, answer in published if score(solution, answer) != 1.0] == []


@pytest.mark.parametrize(("name", "sample", "at_least"), [("gsm8k", 30, 2000), ("math", 120, 2500)])
def test_other_spellings_earn_it(name: str, sample: int, at_least: int) -> None:
    count, failed = misjudged(name, answers(name, sample, seed=16), right, due=1.0)
    assert failed == {}
    assert count > at_least


@pytest.mark.parametrize(("name", "sample", "at_least"), [("gsm8k", 5, 150), ("math", 80, 250)])
def test_near_misses_earn_nothing(name: str, sample: int, at_least: int) -> None:
    count, failed = misjudged(name, answers(name, sample, seed=16), wrong, due=0.0)
    assert failed == {}
    assert count > at_least


def test_on_gsm8k_it_is_never_below_verls_own_reward_where_that_is_right() -> None:
    from verl.utils.reward_score.gsm8k import compute_score

    below: set[str] = set()
    above: set[str] = set()
    for answer in ("18", "7200"):
        for template, line in (*lines(answer, RIGHT_LINES), *lines(answer, WRONG_LINES)):
            ours, theirs = judge(line, answer).score, compute_score(line, answer)
            below |= {template} if ours < theirs else set()
            above |= {template} if ours > theirs else set()
    assert below == VERL_REWARDS
    assert below <= set(WRONG_LINES)
    assert above <= set(RIGHT_LINES)
    assert len(above) > len(RIGHT_LINES) / 3
