"""The exact 0/1 reward for mathematics: an answer counts in whatever form it is equal, as judged by math-verify.

The answer is what stands last in the response, after ``####`` or inside ``\\boxed{}``.
"""

import re
from dataclasses import dataclass

from groupppo.tasks.judge import DIFFERENT, EQUAL, TIMEOUT, UNPARSED, Judge

MARK, BOX = "####", "\\boxed{"
NO_ANSWER = "no answer"
# "1,234" is one number here and never a list, as in GSM8K's own answers.
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_WRAPPING = re.compile(r"^(?:[\s$]|\\\$)+|(?:[\s$.]|\\?%|\\\$)+$")
# After ####, where GSM8K has nothing but a number, a unit may follow it.
_WITH_UNIT = re.compile(r"(-?(?:\\?\$)?-?\d[\d,.]*)\s+[A-Za-z][A-Za-z ]*\.?")

_JUDGE = Judge()


@dataclass(frozen=True)
class Judgement:
    """`score` is 1.0 or 0.0; `reason` says which way it came about: EQUAL, or why not."""

    score: float
    reason: str


def extract_answer(text: str) -> str | None:
    """What follows the last ``####`` on its line, or the content of the last ``\\boxed{}``, whichever stands later."""
    mark, box = text.rfind(MARK), text.rfind(BOX)
    if mark < 0 and box < 0:
        return None
    if mark > box:
        line = text[mark + len(MARK) :].split("\n", 1)[0].strip()
        unit = _WITH_UNIT.fullmatch(line)
        found: str | None = unit[1] if unit else line
    else:
        found = boxed(text[box:])
    answer = "" if found is None else _tidy(found)
    return answer or None


def boxed(text: str) -> str | None:
    """The content of the first ``\\boxed{}`` of `text`, braces balanced; None where it does not end."""
    begin = text.find(BOX) + len(BOX)
    depth, escaped = 1, False
    for place, letter in enumerate(text[begin:], begin):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter in "{}":
            depth += 1 if letter == "{" else -1
            if not depth:
                return text[begin:place]
    return None


def judge(text: str, truth: str) -> Judgement:
    """Judge a whole response against the true answer."""
    answer = extract_answer(text)
    if answer is None:
        return Judgement(0.0, NO_ANSWER)
    truth = _tidy(truth)
    if answer == truth:
        return Judgement(1.0, EQUAL)
    reason = _JUDGE.ask(truth, answer)
    return Judgement(float(reason == EQUAL), reason)


def score(text: str, answer: str) -> float:
    """1.0 when the response's answer is equal to `answer`, else 0.0. There is no partial credit."""
    return judge(text, answer).score


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: object
) -> dict[str, float]:
    """verl's reward function; arguments as in `groupppo.tasks.reward`.

    Returns:
        `score` and `acc`, the reward, and 1.0 under the one reason for which it is 0: `no_answer`, `different`,
        `unparsed`, `timeout`.
    """
    found = judge(solution_str, ground_truth)
    reasons = {reason.replace(" ", "_"): float(found.reason == reason) for reason in _REASONS}
    return {"score": found.score, "acc": found.score, **reasons}


_REASONS = (NO_ANSWER, DIFFERENT, UNPARSED, TIMEOUT)


def _tidy(answer: str) -> str:
    whole = _WRAPPING.sub("", answer)
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), whole.replace("{,}", ","))
