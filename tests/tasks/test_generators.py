"""Generators: right answers, right bounds, errors that name the file and the key, and scorers that run nothing."""

import inspect
import json
import random
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym import create_dataset

from groupppo.config import REPOSITORY, load_task
from groupppo.errors import BadInput
from groupppo.tasks import gym_reward
from groupppo.tasks.base import Example, bind
from groupppo.tasks.build import build_task
from groupppo.tasks.generators.chain import SMALLEST_LIMIT, chain
from groupppo.tasks.generators.reasoning_gym import Dataset, reasoning_gym
from groupppo.tasks.generators.sorting import sorting
from groupppo.tasks.reward import score
from groupppo.tasks.rows import read_examples

HOME = REPOSITORY / "benchmarks" / "tasks"
GYM = sorted(file.stem for file in HOME.glob("gym_*.yaml"))
TASKS = {name: load_task(HOME / f"{name}.yaml") for name in ("sorting", "chain", *GYM)}
seeds = st.integers(0, 2**32)


@given(seed=seeds, name=st.sampled_from(["sorting", "chain"]))
def test_every_demonstration_earns_reward_one_and_a_changed_answer_earns_none(seed: int, name: str) -> None:
    example = bind(TASKS[name])(random.Random(seed))
    assert score(example.demonstration, example.answer) == 1.0
    assert score(example.demonstration + "0", example.answer) == 0.0
    assert score(example.demonstration, example.answer + "0") == 0.0


@given(seed=seeds, lengths=st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted))
def test_sorting_answers_with_the_prompts_digits_in_order(seed: int, lengths: list[int]) -> None:
    example = sorting(random.Random(seed), min_length=lengths[0], max_length=lengths[1])
    digits = example.prompt.removeprefix("sort ")
    assert lengths[0] <= len(digits) == example.size <= lengths[1]
    assert example.answer == "".join(sorted(digits))
    assert len(example.demonstration) == (example.size**2 + 7 * example.size) // 2


def test_the_sorting_trace_removes_the_smallest_digit_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, digits = random.Random(0), iter("5313")
    monkeypatch.setattr(rng, "choice", lambda options: next(digits))
    assert sorting(rng, min_length=4, max_length=4) == Example("sort 5313", "1|533;3|53;3|5;5|#1335", "1335", 4)


@given(
    seed=seeds,
    terms=st.tuples(st.integers(2, 12), st.integers(2, 12)).map(sorted),
    limit=st.integers(SMALLEST_LIMIT, 40),
)
def test_chain_keeps_every_running_total_in_bounds_and_each_step_is_true(
    seed: int, terms: list[int], limit: int
) -> None:
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


def test_the_same_random_state_gives_the_same_examples_and_another_gives_others() -> None:
    draw = bind(TASKS["chain"])
    first, again, other = ([draw(rng) for _ in range(20)] for rng in map(random.Random, (1, 1, 2)))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("sorting", {"min_length": 4, "max_length": 10, "digits": 3}, "digits"),
        ("sorting", {"min_length": 4}, "max_length"),
        ("sorting", {"min_length": 0, "max_length": 10}, "min_length"),
        ("sorting", {"min_length": 5, "max_length": 4}, "min_length"),
        ("sorting", {"min_length": 4, "max_length": "10"}, "max_length"),
        ("sorting", {"min_length": True, "max_length": 10}, "min_length"),
        ("chain", {"min_terms": 4, "max_terms": 10, "limit": SMALLEST_LIMIT - 1}, "limit"),
        (GYM[0], {"dataset": "countdown", "config": {}}, "dataset"),  # its scorer evaluates the response
        (GYM[0], {"dataset": "chain_sum", "config": {"min_trems": 2}}, "config"),
        (GYM[0], {"dataset": "chain_sum", "config": {"min_terms": 0}}, "config"),
        (GYM[0], {"dataset": "chain_sum", "config": [1]}, "config"),
        (GYM[0], {"dataset": "chain_sum"}, "config"),
        # No config names a file, and no prompt takes for ever.
        (GYM[0], {"dataset": "spell_backward", "config": {"data_file": "/etc/passwd"}}, "config"),
        (GYM[0], {"dataset": "spell_backward", "config": {"data_file": "../../secret"}}, "config"),
        (GYM[0], {"dataset": "spell_backward", "config": {"data_file": "none"}}, "config"),
        (GYM[0], {"dataset": "spell_backward", "config": {"min_word_len": 900, "max_word_len": 900}}, "config"),
        (GYM[0], {"dataset": "chain_sum", "config": {"min_terms": 10**7, "max_terms": 10**7}}, "config"),
        (GYM[0], {"dataset": "knights_knaves", "config": {"n_people": 60}}, "config"),
        (GYM[0], {"dataset": "knights_knaves", "config": {"depth_constraint": 9, "width_constraint": 9}}, "config"),
    ],
)
def test_a_bad_parameter_is_reported_with_file_and_key(name: str, params: dict[str, Any], key: str) -> None:
    task = replace(TASKS[name], params=params)
    with pytest.raises(BadInput) as error:
        bind(task)
    assert (error.value.file, error.value.key) == (str(task.source), f"params.{key}")


def test_a_config_of_names_and_large_values_is_taken() -> None:
    for config in ({"styles": ["plain"]}, {"max_value": 10**9}):
        bind(replace(TASKS[GYM[0]], params={"dataset": "fraction_simplification", "config": config}))


@pytest.mark.parametrize(("key", "value"), [("generator", "sortin"), ("generator", "__init__"), ("reward", "math")])
def test_a_generator_that_is_none_and_a_reward_for_other_answers_are_reported(key: str, value: str) -> None:
    with pytest.raises(BadInput) as error:
        bind(replace(TASKS["sorting"], **{key: value}))
    assert (error.value.key, error.value.value) == (key, value)
    if value == "sortin":
        assert "did you mean sorting? Known: chain, reasoning_gym, sorting" in error.value.hint


@settings(max_examples=40)
@given(seed=seeds, dataset=st.sampled_from(get_args(Dataset)))
def test_a_gym_demonstration_earns_the_reward_and_a_changed_answer_earns_none(seed: int, dataset: str) -> None:
    example = reasoning_gym(random.Random(seed), dataset=dataset, config={})
    assert gym_reward.score(example.demonstration, example.answer) == 1.0
    assert gym_reward.score("<answer>7 and something else</answer>", example.answer) == 0.0
    assert gym_reward.score(json.loads(example.answer)["answer"], example.answer) == 0.0  # right, without its tags
    assert gym_reward.compute_score("any", "no tags", example.answer) == {"score": 0.0, "acc": 0.0, "no_answer": 1.0}


def test_a_scorers_partial_credit_is_no_reward() -> None:
    example = reasoning_gym(random.Random(0), dataset="leg_counting", config={})
    truth = json.loads(example.answer)
    padded = f"{truth['answer']} legs"
    assert 0 < create_dataset("leg_counting", size=1, seed=0).score_answer(padded, entry=truth) < 1
    assert gym_reward.score(f"<answer>{padded}</answer>", example.answer) == 0.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer>", "1"),
        ("<answer>1</answer> no <answer> 2 </answer>.", "2"),
        ("<answer>a <answer>2</answer>", "2"),
        ("<answer>1\n2</answer>", "1\n2"),
        ("<answer>1", None),
        ("1</answer>", None),
    ],
)
def test_the_gym_answer_is_what_the_last_pair_of_tags_holds(text: str, answer: str | None) -> None:
    assert gym_reward.extract_answer(text) == answer


@pytest.mark.parametrize("name", GYM)
def test_a_gym_task_is_built_without_a_network_from_distinct_prompts(name: str, tmp_path: Any) -> None:
    small = replace(TASKS[name], splits={"train": 60, "dev": 8, "test": 8})
    build_task(small, tmp_path)
    for split, count in small.splits.items():
        examples = read_examples(tmp_path / f"{split}.parquet")
        assert len({example.prompt for example in examples}) == count
        assert all(gym_reward.score(example.demonstration, example.answer) == 1.0 for example in examples)


def test_no_listed_scorer_evaluates_what_it_is_given() -> None:
    def evaluates(name: str) -> bool:
        source = inspect.getsource(type(create_dataset(name, size=1, seed=0)).score_answer)
        return any(word in source for word in ("eval(", "parse_expr", "sympify", "exec("))

    assert not any(map(evaluates, get_args(Dataset)))
    assert evaluates("countdown")
