"""The reward of mathematics: equal answers in any form, everything else 0 with its reason, nothing of them executed."""

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.tasks import judge, math_reward
from groupppo.tasks.math_reward import boxed, compute_score, extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 3\nno, wait\n#### 7\nthat is all", "7"),
        ("#### $1,234.", "1234"),
        ("#### 18 dollars", "18"),
        ("#### -5", "-5"),
        (r"so $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\sqrt{\frac{2}{3}}}", r"\sqrt{\frac{2}{3}}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"#### 3 and then \boxed{4}", "4"),
        (r"\boxed{4} and then #### 3", "3"),
        (r"\boxed{18\%}", "18"),
        (r"\boxed{(1,234)}", "(1234)"),
    ],
)
def test_the_answer_is_what_stands_last_after_a_mark_or_in_a_box(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text", ["", "7", "the answer is 7", r"\boxed{", r"\boxed{}", r"\boxed{(1", "####", "#### \n 7"]
)
def test_a_text_without_an_answer_has_none_and_says_so(text: str) -> None:
    assert extract_answer(text) is None
    assert compute_score("any", text, "7") == {
        "score": 0.0,
        "acc": 0.0,
        "no_answer": 1.0,
        "different": 0.0,
        "unparsed": 0.0,
        "timeout": 0.0,
    }


@given(
    st.recursive(st.sampled_from(["a", "1", r"\{", r"\\", " "]), lambda inner: inner.map(lambda text: "{" + text + "}"))
)
def test_a_box_ends_at_its_own_brace(content: str) -> None:
    assert boxed(f"\\boxed{{{content}}} {{rest}}") == content


EQUAL = [
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"\boxed{0.5}", r"\frac12"),
    (r"\boxed{1/2}", r"\frac{1}{2}"),
    (r"\boxed{\dfrac{2}{4}}", r"\frac{1}{2}"),
    ("#### 1,234,567", "1234567"),
    (r"\boxed{1{,}234}", "1234"),
    ("#### 72.0", "72"),
    (r"\boxed{5\sqrt{2}}", r"\sqrt{50}"),
    (r"\boxed{x^2+2x+1}", "(x+1)^2"),
    (r"\boxed{\{2,1\}}", r"\{1,2\}"),
    (r"\boxed{Friday}", r"\text{Friday}"),
    (r"\boxed{\$18}", "18"),
]
UNEQUAL = [
    (r"\boxed{\frac{1}{3}}", "0.5"),
    ("#### 1,235", "1234"),
    ("#### 12,34", "1234"),
    (r"\boxed{(2,1)}", "(1,2)"),
    (r"\boxed{x^2+2x-1}", "(x+1)^2"),
    (r"\boxed{-5}", "5"),
    (r"\boxed{Monday}", r"\text{Friday}"),
]


@pytest.mark.parametrize(("text", "truth"), EQUAL)
def test_an_equal_answer_in_another_form_earns_the_reward(text: str, truth: str) -> None:
    assert compute_score("any", text, truth)["score"] == 1.0


@pytest.mark.parametrize(("text", "truth"), UNEQUAL)
def test_another_answer_earns_nothing_and_one_reason_says_why(text: str, truth: str) -> None:
    found = compute_score("any", text, truth)
    assert found["score"] == found["acc"] == 0.0
    assert sum(found[reason] for reason in ("no_answer", "different", "unparsed", "timeout")) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_garbage_never_raises_and_earns_nothing(content: str) -> None:
    assert compute_score("any", f"#### {content} qqzz {content}", "12345.678")["score"] == 0.0


def test_a_number_too_large_to_compute_is_a_timeout_and_the_next_answer_is_judged() -> None:
    patient = judge.Judge(seconds=1.0)
    try:
        assert patient.ask("3", "9^{9^{9^{9^{9}}}}") == judge.TIMEOUT
        assert patient.ask("3", "6/2") == judge.EQUAL
        assert patient.ask("3", "4") == judge.DIFFERENT
        assert patient.ask("3", "1+" * judge.LONGEST_ANSWER + "1") == judge.UNPARSED
    finally:
        patient.close()


def test_no_code_of_a_response_is_executed(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    for code in (f"__import__('pathlib').Path('{proof}').touch()", f"open('{proof}','w')"):
        for text in (f"\\boxed{{{code}}}", f"#### {code}", f"\\boxed{{\\text{{{code}}}}}", f"\\boxed{{$${code}$$}}"):
            assert compute_score("any", text, "1")["score"] == 0.0
    assert not proof.exists()
    eval(f"open({str(proof)!r}, 'w').close()")  # the same words, executed, do leave the file
    assert proof.exists()


def test_rewards_may_be_asked_from_threads_where_signals_cannot_be_used() -> None:
    found: list[float] = []
    threads = [
        threading.Thread(target=lambda: found.append(math_reward.score(r"\boxed{\frac{2}{4}}", "0.5")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1.0] * 4
