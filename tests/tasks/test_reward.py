"""The reward is exact, reads the end of the text only, and can be loaded alone."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.tasks import reward

answers = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)


@given(text=st.text(), answer=answers)
def test_a_text_that_ends_in_the_answer_scores_one_whatever_comes_before(text, answer):
    assert reward.score(f"{text}#{answer}", answer) == 1.0


@given(text=st.text(), answer=answers, tail=st.text(min_size=1))
def test_anything_after_the_answer_changes_the_score_to_what_the_new_end_says(text, answer, tail):
    expected = float((answer + tail).rpartition("#")[2] == answer and "#" in tail)
    assert reward.score(f"{text}#{answer}{tail}", answer) == expected


@pytest.mark.parametrize(("text", "answer"), [("1|3;3|#13", "13"), ("#7#13", "13"), ("#-4", "-4")])
def test_the_last_mark_at_the_end_holds_the_answer(text, answer):
    assert reward.extract_answer(text) == answer


@pytest.mark.parametrize("text", ["", "13", "#", "#13 ", "#13\n", "#1 3", "13#", "#13 and more"])
def test_a_text_without_an_answer_at_its_end_scores_zero(text):
    assert reward.extract_answer(text) is None
    assert reward.score(text, "13") == 0.0


@pytest.mark.parametrize("near", ["013", "130", "1", "3", "31", "+13"])
def test_there_is_no_partial_credit(near):
    assert reward.score(f"#{near}", "13") == 0.0


def test_verls_reward_is_the_score_under_two_names():
    found = reward.compute_score("sorting", "1|#1", "1", {"index": 0}, reward_router_address=None)
    assert found == {"score": 1.0, "acc": 1.0}
    assert reward.compute_score("sorting", "1|#2", "1")["score"] == 0.0


def test_the_file_can_be_loaded_by_path_and_imports_the_standard_library_alone():
    path = Path(reward.__file__)
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
    spec = importlib.util.spec_from_file_location("reward_by_path", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.compute_score("any", "#1", "1")["score"] == 1.0
