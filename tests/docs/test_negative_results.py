"""What the log of negative results says of the study is what the study decided."""

import json
from typing import Any

import pytest

from groupppo.config import REPOSITORY

PAGE = " ".join((REPOSITORY / "docs" / "negative-results.md").read_text(encoding="utf-8").split())
CELLS = [("sorting", "tiny"), ("sorting", "tiny_b"), ("sorting", "small"), ("chain", "tiny")]
JUDGED = json.loads((REPOSITORY / "results" / "reference" / "study" / "verdicts.json").read_text())["verdicts"]


def of(claim: str) -> list[dict[str, Any]]:
    """Verdicts on a claim, in the page's order of cells."""
    found = {(each["task"], each["model"]): each for each in JUDGED if each["id"] == claim}
    return [found[cell] for cell in CELLS if cell in found]


@pytest.mark.parametrize(
    ("claim", "verdict", "told"),
    [
        ("compression", "refuted", "Study: {0:.1f}, {1:.1f}, {2:.1f} and {3:.1f} %;"),
        ("parity-ppo", "refuted", "Study: {0:.3f}, {1:.3f}, {2:.3f} and {3:.3f} in held-out accuracy"),
        ("rule-matters", "refuted", "Study: {0:.3f}, {1:.3f}, {2:.3f} and {3:.3f} against as many random endpoints"),
        ("rule-matters-entropy", "refuted", "; {0:.3f} against those of highest entropy"),
        ("parity-ppo-tokens", "refuted", "Divided by all tokens {0:.3f};"),
        ("parity-ppo-lam95", "refuted", "against PPO with it, {0:.3f},"),
        ("parity-ppo-token-gae", "refuted", "with token GAE {0:.3f}."),
    ],
)
def test_estimates_are_those_of_the_study(claim: str, verdict: str, told: str) -> None:
    verdicts = of(claim)
    assert {each["verdict"] for each in verdicts} == {verdict}
    scale = 100 if claim == "compression" else 1
    assert told.format(*(scale * each["estimate"] for each in verdicts)) in PAGE


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (
            "parity-ppo-broadcast",
            "Study: {0[estimate]:.3f} [{0[low]:.3f}, {0[high]:.3f}] on sorting, {0[verdict]}; "
            "{1[estimate]:.3f} [{1[low]:.3f}, {1[high]:.3f}] on chain, {1[verdict]}.",
        ),
        (
            "rule-matters-stride",
            "Study: {0[estimate]:+.3f} and {1[estimate]:+.3f} on sorting, {0[verdict]}; "
            "{2[estimate]:.3f} on chain, {2[verdict]}.",
        ),
        ("parity-ppo-published", "all the same: {0[estimate]:.3f} [{0[low]:.3f}, {0[high]:.3f}]."),
        ("update-streamed-entropy", "as well all the same, {0[estimate]:.3f} [{0[low]:.3f}, {0[high]:.3f}]."),
    ],
)
def test_intervals_and_verdicts_are_those_of_the_study(claim: str, told: str) -> None:
    assert told.format(*of(claim)) in PAGE
