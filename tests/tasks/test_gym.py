"""reasoning-gym tasks: generated offline, judged by their own scorers, exactly."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.config import REPOSITORY, Task, load_task
from groupppo.errors import BadInput
from groupppo.tasks.base import ParamError, bind
from groupppo.tasks.build import build_task
from groupppo.tasks.generators.reasoning_gym import DATASETS, reasoning_gym
from groupppo.tasks.gym_reward import compute_score, extract_answer, score
from groupppo.tasks.rows import read_examples

FILES = sorted((REPOSITORY / "benchmarks" / "tasks").glob("gym_*.yaml"))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), dataset=st.sampled_from(DATASETS))
def test_every_demonstration_earns_the_reward_and_a_changed_answer_earns_none(seed: int, dataset: str) -> None:
    example = reasoning_gym(random.Random(seed), dataset=dataset, config={})
    assert score(example.demonstration, example.answer) == 1.0
    assert score("<answer>7 and something else</answer>", example.answer) == 0.0
    assert score(json.loads(example.answer)["answer"], example.answer) == 0.0  # right, and without its tags
    assert compute_score("any", "no tags", example.answer) == {"score": 0.0, "acc": 0.0, "no_answer": 1.0}


def test_a_scorers_partial_credit_is_no_reward() -> None:
    example = reasoning_gym(random.Random(0), dataset="leg_counting", config={})
    truth = json.loads(example.answer)
    from reasoning_gym import create_dataset

    padded = f"{truth['answer']} legs"
    assert 0 < create_dataset("leg_counting", size=1, seed=0).score_answer(padded, entry=truth) < 1
    assert score(f"<answer>{padded}</answer>", example.answer) == 0.0


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
def test_the_answer_is_what_the_last_pair_of_tags_holds(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_task_is_built_without_a_network_from_distinct_prompts(file, tmp_path) -> None:
    small = replace(load_task(file), splits={"train": 60, "dev": 8, "test": 8})
    build_task(small, tmp_path)
    for split, count in small.splits.items():
        examples = read_examples(tmp_path / f"{split}.parquet")
        assert len({example.prompt for example in examples}) == count
        assert all(score(example.demonstration, example.answer) == 1.0 for example in examples)


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"dataset": "countdown", "config": {}}, "params.dataset"),  # its scorer evaluates the response
        ({"dataset": "chain_sum", "config": {"min_trems": 2}}, "params.config"),
        ({"dataset": "chain_sum", "config": {"min_terms": 0}}, "params.config"),
        ({"dataset": "chain_sum"}, "params.config"),
    ],
)
def test_a_bad_parameter_is_reported_with_file_and_key(params: dict, key: str) -> None:
    task: Task = replace(load_task(FILES[0]), params=params)
    with pytest.raises(BadInput) as error:
        bind(task)
    assert error.value.key == key
    assert error.value.file == str(task.source)


@pytest.mark.parametrize(
    ("dataset", "config"),
    [
        ("spell_backward", {"data_file": "/etc/passwd"}),
        ("spell_backward", {"data_file": "../../secret"}),
        ("spell_backward", {"data_file": "none"}),
        ("spell_backward", {"min_word_len": 900, "max_word_len": 900}),
        ("chain_sum", {"min_terms": 10**7, "max_terms": 10**7}),
        ("chain_sum", [1]),
        ("knights_knaves", {"n_people": 60}),
        ("knights_knaves", {"depth_constraint": 9, "width_constraint": 9}),
    ],
)
def test_a_config_names_no_file_and_no_prompt_takes_for_ever(dataset: str, config: dict) -> None:
    with pytest.raises(ParamError, match="config"):
        reasoning_gym(random.Random(0), dataset=dataset, config=config)


def test_a_config_of_names_and_large_values_is_taken() -> None:
    for config in ({"styles": ["plain"]}, {"max_value": 10**9}):
        assert reasoning_gym(random.Random(0), dataset="fraction_simplification", config=config).prompt


def test_no_listed_scorer_evaluates_what_it_is_given() -> None:
    import inspect

    from reasoning_gym import create_dataset

    def evaluates(name: str) -> bool:
        source = inspect.getsource(type(create_dataset(name, size=1, seed=0)).score_answer)
        return any(word in source for word in ("eval(", "parse_expr", "sympify", "exec("))

    assert not any(evaluates(name) for name in DATASETS)
    assert evaluates("countdown")
    with pytest.raises(ParamError):
        reasoning_gym(random.Random(0), dataset="countdown", config={})
