"""The reward of mathematics: equal answers in any form, everything else 0 with its reason, nothing of them executed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.tasks import math_reward
from groupppo.tasks.math_reward import boxed, compute_score, extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 3\nno, wait\n#### 7\nthat is all", "7"),
        ("#### $1,234.", "1,234"),
        ("#### 18 (or 20)", "18 (or 20)"),
        (r"so $\boxed 5$ it is", "5"),
        (r"\boxed{90°}", "90^\\circ"),
        (r"\boxed{15\,600}", "15600"),
        ("#### -5", "-5"),
        (r"so $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\sqrt{\frac{2}{3}}}", r"\sqrt{\frac{2}{3}}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"#### 3 and then \boxed{4}", "4"),
        (r"\boxed{4} and then #### 3", "3"),
        (r"\boxed{18\%}", "18"),
        (r"\boxed{(1,234)}", "(1,234)"),
        (r"\boxed{(1{,}234,5)}", "(1234,5)"),
    ],
)
def test_the_answer_is_what_stands_last_after_a_mark_or_in_a_box(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text", ["", "7", r"\boxed{", r"\boxed{}", r"\boxed{(1", r"\boxed", r"\boxedness{7}", "####", "#### \n 7"]
)
def test_a_text_without_an_answer_has_none_and_says_so(text: str) -> None:
    assert extract_answer(text) is None
    reasons = {"no_answer": 1.0, "different": 0.0, "unparsed": 0.0, "timeout": 0.0}
    assert compute_score("any", text, "7") == {"score": 0.0, "acc": 0.0} | reasons


@given(
    st.recursive(st.sampled_from(["a", "1", r"\{", r"\\", " "]), lambda inner: inner.map(lambda text: "{" + text + "}"))
)
def test_a_box_ends_at_its_own_brace(content: str) -> None:
    assert boxed(f"\\boxed{{{content}}} {{rest}}") == content


EQUAL = [
    (r"\boxed{0.5}", r"\frac12"),
    (r"\boxed{\dfrac{2}{4}}", r"\frac{1}{2}"),
    (r"\boxed{5\sqrt{2}}", r"\sqrt{50}"),
    (r"\boxed{x^2+2x+1}", "(x+1)^2"),
    (r"\boxed{\{2,1\}}", r"\{1,2\}"),
    (r"\boxed{15,600}", r"15\,600"),
    (r"\boxed{90}", r"90^{\circ}"),
    (r"\boxed{110, 70}", "70,110"),
    (r"\boxed{22500}", "22,500"),
    (r"\boxed{\{1,2\}}", "1,2"),
    (r"\boxed{12\text{ and }13}", "13, 12"),
    (r"\boxed{8:34 p.m.}", r"8\!:\!34 \text{ p.m.}"),
    (r"\boxed{6\frac16}", r"\frac{37}{6}\text{ feet}"),
    (r"\boxed{2½}", "2.5"),
    (r"\boxed{√50}", r"5\sqrt{2}"),
    (r"\boxed{(2,∞) ∪ (−∞,1)}", r"(-\infty,1)\cup(2,\infty)"),  # noqa: RUF001 - the signs meant
    (r"\boxed{\lbrace 1,2 \rbrace}", r"\{2,1\}"),
    (r"\boxed{even}", r"\text{Even}"),
    (r"\boxed{0.333333}", r"\frac{1}{3}"),
    ("#### 0.50", "1/2"),
    ("#### 3¾ cups", "3.75"),
    ("#### 18 ⅓", r"\frac{55}{3}"),
    ("#### 2 million", "2000000"),
    ("#### $1.5 Million", "1,500,000"),
    ("#### 18k", "18000"),
    ("#### 2 dozen eggs", "24"),
    ("#### 10⁴", "10000"),
    ("#### 18 = 9 + 9 = 18 apples", "18"),
    ("#### 3 + 15 = 18", "18"),
    (r"\boxed{2 \text{ million dollars}}", "2,000,000"),
    (r"\boxed{\frac{\pi}{4}}", r"\frac\pi4"),
    (r"\boxed{1/\pi}", r"\frac1\pi"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac1{\sqrt2}"),
    (r"\boxed{101_{10}}", "101"),
    (r"\boxed{1, 200}", "200,1"),
]
UNEQUAL = [
    (r"\boxed{\frac{1}{3}}", "0.5"),
    ("#### 12,34", "1234"),
    (r"\boxed{x^2+2x-1}", "(x+1)^2"),
    (r"\boxed{1234}", "(1,234)"),
    (r"\boxed{1234}", r"\{1,234\}"),
    (r"\boxed{22, 501}", "22,500"),
    (r"\boxed{2}", "2t"),  # math-verify alone takes t for a unit
    (r"\boxed{2s}", "2t"),
    (r"\boxed{0.33333}", r"\frac{1}{3}"),
    (r"\boxed{1\,5}", "15"),
    ("#### 1,8", "18"),
    ("#### 18 = twenty", "18"),
    ("#### 18 = eighteen hundred", "18"),
    (r"\boxed{1/4 million}", r"\frac{1}{4000000}"),
    ("#### 18 = 3 x 6 = 19", "18"),
    ("#### 6 * 3 = 18", "6"),
    ("#### 3 + 15 = 18", "3"),
    ("#### 18 in 2 days", "2"),
    (r"\boxed{2 \text{ million}}", "2"),
    (r"\boxed{18 and a half}", "18"),
    (r"\boxed{18 squared}", "18"),
    (r"\boxed{\frac{\pi}{3}}", r"\frac\pi4"),
    (r"\boxed{10_2}", "10"),
    (r"\boxed{101_{\text{two}}}", "101"),
    (r"\boxed{1,200}", "200,1"),
    (r"\boxed{100,200}", "200,100"),
]


@pytest.mark.parametrize(("text", "truth"), EQUAL)
def test_an_equal_answer_in_another_form_earns_the_reward(text: str, truth: str) -> None:
    assert compute_score("any", text, truth)["score"] == 1.0


@pytest.mark.parametrize(("text", "truth"), UNEQUAL)
def test_another_answer_earns_nothing_and_one_reason_says_why(text: str, truth: str) -> None:
    found = compute_score("any", text, truth)
    assert found["score"] == found["acc"] == 0.0
    assert sum(found[reason] for reason in ("no_answer", "different", "unparsed", "timeout")) == 1.0


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_garbage_never_raises_and_earns_nothing(content: str) -> None:
    assert compute_score("any", f"#### {content} qqzz {content}", "12345.678")["score"] == 0.0


@pytest.mark.parametrize(
    "noise", ["#", " ", "*", "\\ ", "#### ", "$", "####18 ", "{", r"\boxed", "1,", "(", "1 000 ", "~"]
)
def test_a_long_line_of_anything_is_judged_at_all(noise: str) -> None:
    """Patterns of which two parts could take the same sign would go through it for years."""
    for head, tail in (("#### 18", "x5"), (r"\boxed{18", "}"), ("#### ", "18 5")):
        assert math_reward.score(head + noise * 4000 + tail, "12345.678") == 0.0


def test_no_code_of_a_response_is_executed(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    for code in (f"__import__('pathlib').Path('{proof}').touch()", f"open('{proof}','w')"):
        for text in (f"\\boxed{{{code}}}", f"#### {code}", f"\\boxed{{\\text{{{code}}}}}", f"\\boxed{{$${code}$$}}"):
            assert compute_score("any", text, "1")["score"] == 0.0
    assert not proof.exists()
    eval(f"open({str(proof)!r}, 'w').close()")  # the same words, executed, do leave the file
    assert proof.exists()


def test_rewards_may_be_asked_from_threads_where_signals_cannot_be_used() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(math_reward.score, [r"\boxed{\frac{2}{4}}", r"\boxed{\frac{2}{3}}"] * 2, ["0.5"] * 4))
    assert found == [1.0, 0.0] * 2
