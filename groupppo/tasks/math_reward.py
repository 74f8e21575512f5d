"""The exact 0/1 reward for mathematics: an answer counts in whatever form it is equal, as judged by math-verify.

The answer is what stands last in the response, after ``####`` or inside ``\\boxed{}``.
"""

import re
from dataclasses import dataclass
from itertools import product

from groupppo.tasks.judge import DIFFERENT, EQUAL, LONGEST_ANSWER, TIMEOUT, UNPARSED, Judge
from groupppo.tasks.spelling import closing_brace, number, readings, seen, tidy

MARK = "####"
NO_ANSWER = "no answer"
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_TEX_SPACE = r"\\[()\[\]$,;! ]"
_DECORATION = rf"[\s*_`$\"~#]|{_TEX_SPACE}"
# After ####, where GSM8K has nothing but a number, "the answer is" may stand before it and what was counted behind it.
_LED = rf"(?:{_DECORATION})*(?:(?i:(?:the )?(?:final )?answer(?: is)?\s*:?)(?:{_DECORATION})*)?"
_NUMBER = r"[-+]?(?:\\?[$€£¥])?\s*[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
# What was counted has no number of its own, which could be the answer instead, except as a power or in a remark.
_REMARK = r"\((?![\d\s.,$]*\))(?![^()]*\b(?:or|and)\b)[^()]*\)"
_POWER = r"(?<=[A-Za-z}])\^\{?[23]\}?|(?<=\b(?:mm|cm|km|ft|in|yd|mi))[23]\b|(?<=\bm)[23]\b"
_COUNTED = re.compile(
    rf"{_LED}({_NUMBER})(?![\d(]|[.,/^:-]\d)(?:{_REMARK}|{_POWER}|\\(?:text|mathrm|mbox)\s*\{{[^{{}}\d]*\}}|{_TEX_SPACE}"
    r"|[^\d=+<>^\\(){}])*"
)

# Digits behind the point to which math-verify compares decimals.
DECIMALS = 6
_WORD = re.compile("[A-Za-z]{3,}")
_BASED = re.compile(r"([0-9A-Z]+)(?:_(\d+))?")

_JUDGE = Judge()


@dataclass(frozen=True)
class Judgement:
    """`score` is 1.0 or 0.0; `reason` says which way it came about: EQUAL, or why not."""

    score: float
    reason: str


def extract_answer(text: str) -> str | None:
    """What follows the last ``####`` on its line, or the content of the last ``\\boxed{}``, whichever stands later."""
    line, place = _marked(text)
    boxes = list(BOX.finditer(text))
    if boxes and boxes[-1].start() > place:
        found = boxed(text[boxes[-1].start() :])
    elif line is not None:
        counted = _COUNTED.fullmatch(line)
        found = counted[1] if counted else line
    else:
        found = None
    if found is None:
        return None
    # What is too long to be judged is not tidied either, which takes time that grows with its square.
    return (tidy(found) if len(found) <= 2 * LONGEST_ANSWER else found) or None


def _marked(text: str) -> tuple[str | None, int]:
    """The last line after a mark that says anything, and where its mark stands; None and -1 without one."""
    head, mark, tail = text.rpartition(MARK)
    while mark:
        line = tail.split("\n", 1)[0]
        if re.search(r"\w", line):
            return line, len(head)
        head, mark, tail = head.rpartition(MARK)
    return None, -1


def boxed(text: str) -> str | None:
    r"""The content of the first ``\boxed{}`` or ``\fbox{}`` of `text`, braces balanced; None where it does not end.

    Without braces, as in ``\boxed 5``, it goes to the end of the formula or line, as MATH's authors read it.
    """
    box = BOX.search(text)
    if not box:
        return None
    rest = text[box.end() :].lstrip(" ")
    if rest.startswith("{"):
        end = closing_brace(rest, 0)
        return None if end is None else rest[1:end]
    return re.split(r"\$|\n|\\[)\]]", rest, maxsplit=1)[0]


def judge(text: str, truth: str) -> Judgement:
    """Judge a whole response against the true answer.

    Raises:
        RunFailed: the process that judges was ended from outside, twice.
    """
    answer = extract_answer(text)
    if answer is None:
        return Judgement(0.0, NO_ANSWER)
    if len(answer) > LONGEST_ANSWER:
        return Judgement(0.0, UNPARSED)
    reasons: list[str] = []
    for meant, said in product(readings(tidy(truth)), readings(answer)):
        reasons.append(_compare(meant, said))
        if reasons[-1] == EQUAL:
            return Judgement(1.0, EQUAL)
    return Judgement(0.0, reasons[0])


def _compare(truth: str, answer: str) -> str:
    """EQUAL or why not; only what is neither spelled alike nor two numbers needs the judge."""
    one, other = seen(truth), seen(answer)
    if one == other or (_WORD.fullmatch(one) and one.lower() == other.lower()):
        return EQUAL
    based, digits = _BASED.fullmatch(one), _BASED.fullmatch(other)
    if based and based[2] and digits:  # math-verify reads no base
        return EQUAL if digits[1] == based[1] and not digits[2] else DIFFERENT
    meant, said = number(one), number(other)
    if meant is None or said is None:
        return _JUDGE.ask(truth, answer)
    # As math-verify: a decimal is a rounded number, whole numbers and fractions are exact.
    rounded = "." in one + other
    alike = round(meant, DECIMALS) == round(said, DECIMALS) if rounded else meant == said
    return EQUAL if alike else DIFFERENT


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
