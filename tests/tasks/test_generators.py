"""Generators: right answers, right bounds, and errors that name the file and the key."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, load_task
from groupppo.errors import BadInput
from groupppo.tasks.base import Example, bind, get_generator, register
from groupppo.tasks.generators.chain import SMALLEST_LIMIT, chain
from groupppo.tasks.generators.sorting import sorting
from groupppo.tasks.reward import score

TASKS = {name: load_task(REPOSITORY / "benchmarks" / "tasks" / f"{name}.yaml") for name in ("sorting", "chain")}
seeds = st.integers(0, 2**32)


@given(seed=seeds, name=st.sampled_from(sorted(TASKS)))
def test_every_demonstration_earns_reward_one_and_a_changed_answer_earns_none(seed, name):
    example = bind(TASKS[name])(random.Random(seed))
    assert score(example.demonstration, example.answer) == 1.0
    assert score(example.demonstration + "0", example.answer) == 0.0
    assert score(example.demonstration, example.answer + "0") == 0.0


@given(seed=seeds, lengths=st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted))
def test_sorting_answers_with_the_prompts_digits_in_order(seed, lengths):
    low, high = lengths
    example = sorting(random.Random(seed), min_length=low, max_length=high)
    digits = example.prompt.removeprefix("sort ")
    assert low <= len(digits) == example.size <= high
    assert example.answer == "".join(sorted(digits))
    assert len(example.demonstration) == (example.size**2 + 7 * example.size) // 2


def test_the_sorting_trace_removes_the_smallest_digit_step_by_step():
    class Fixed(random.Random):
        def randint(self, low, high):
            return high

        def choice(self, options):
            return next(digits)

    digits = iter("5313")
    example = sorting(Fixed(0), min_length=4, max_length=4)
    assert example == Example("sort 5313", "1|533;3|53;3|5;5|#1335", "1335", 4)


@given(
    seed=seeds,
    terms=st.tuples(st.integers(2, 12), st.integers(2, 12)).map(sorted),
    limit=st.integers(SMALLEST_LIMIT, 40),
)
def test_chain_keeps_every_running_total_in_bounds_and_each_step_is_true(seed, terms, limit):
    example = chain(random.Random(seed), min_terms=terms[0], max_terms=terms[1], limit=limit)
    steps, answer = example.demonstration.split("#")
    total = None
    for step in steps.split(";"):
        left, result = step.split("=")
        first, sign, term = left.partition("+") if "+" in left else left.partition("-")
        assert total in (None, int(first))
        total = int(first) + int(term) if sign == "+" else int(first) - int(term)
        assert total == int(result)
        assert 0 <= total <= limit
    assert str(total) == answer == example.answer
    assert len(steps.split(";")) == example.size - 1


def test_the_same_random_state_gives_the_same_examples_and_another_gives_others():
    draw = bind(TASKS["chain"])
    first, again, other = ([draw(rng) for _ in range(20)] for rng in map(random.Random, (1, 1, 2)))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("name", "params", "key", "value"),
    [
        ("sorting", {"min_length": 4, "max_length": 10, "digits": 3}, "params.digits", 3),
        ("sorting", {"min_length": 4}, "params.max_length", None),
        ("sorting", {"min_length": 0, "max_length": 10}, "params.min_length", 0),
        ("sorting", {"min_length": 5, "max_length": 4}, "params.min_length", 5),
        ("sorting", {"min_length": 4, "max_length": "10"}, "params.max_length", "10"),
        ("sorting", {"min_length": True, "max_length": 10}, "params.min_length", True),
        ("chain", {"min_terms": 4, "max_terms": 10, "limit": 16}, "params.limit", 16),
        ("chain", {"min_terms": 1, "max_terms": 10, "limit": 30}, "params.min_terms", 1),
    ],
)
def test_a_bad_parameter_is_reported_with_file_and_key(name, params, key, value):
    task = replace(TASKS[name], params=params)
    with pytest.raises(BadInput) as error:
        bind(task)
    assert error.value.file == str(task.source)
    assert (error.value.key, error.value.value) == (key, value)


def test_an_unknown_generator_is_reported_with_those_that_exist():
    with pytest.raises(BadInput, match="did you mean sorting") as error:
        bind(replace(TASKS["sorting"], generator="sortin"))
    assert error.value.key == "generator"
    assert "chain" in error.value.hint
    with pytest.raises(KeyError, match="Known: chain, reasoning_gym, sorting"):
        get_generator("xyz")


def test_a_generator_name_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="registered twice"):
        register("sorting")(sorting)
