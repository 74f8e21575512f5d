"""The exact 0/1 reward for mathematics: an answer counts in whatever form it is equal, as judged by math-verify.

The answer is what stands last in the response, after ``####`` or inside ``\\boxed{}``.
"""

import re
from itertools import product

from groupppo.tasks.judge import DIFFERENT, EQUAL, LONGEST_ANSWER, TIMEOUT, UNPARSED, Judge
from groupppo.tasks.spelling import (
    COUNTING,
    FRACTIONS,
    SCALES,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    closing_brace,
    number,
    readings,
    seen,
    tidy,
)

MARK = "####"
NO_ANSWER = "no_answer"
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_TEX_SPACE = r"\\[()\[\]$,;! ]"
_DECORATION = rf"[\s*_`$\"~#]|{_TEX_SPACE}"
# After ####, where GSM8K has nothing but a number, "the answer is" may stand before it and what was counted behind it.
# It gives nothing back (*+), or a thousand blanks would be shared out in a million ways with those before the number.
_LED = rf"(?:{_DECORATION})*+(?:(?i:(?:the )?(?:final )?answer(?: is)?\s*:?)(?:{_DECORATION})*+)?"
_NUMBER = r"[-+]?(?:\\?[$€£¥])?\s*[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
# What makes it another value: 2½, 2 million, 2k.
_SCALE = rf"(?:\s?[{FRACTIONS}]|(?:\s+(?i:{SCALES})\b)+)"
# What was counted has no number of its own, which could be the answer instead, except as a power, in a remark, or
# behind a preposition. To and by are none of these: 18 to 20 is a range, 18 by 20 has two sides.
_REMARK = r"\((?![\d\s.,$]*\))(?![^()]*\b(?:or|and)\b)[^()]*\)"
_POWER = r"(?<=[A-Za-z}])(?:\^\{?[23]\}?|[²³])|(?<=\b(?:mm|cm|km|ft|in|yd|mi))[23]\b|(?<=\bm)[23]\b"
_BEHIND = (
    r"\b(?:in|for|per|after|of|from|with|on|at|before)\s+"
    r"(?:(?:the|all|his|her|their|its|each|every|these|those|next|last|past|first|other|about)\s+){0,2}"
    rf"(?:{_NUMBER}(?:[:/]\d+)*(?![\d(]|[.,/^:-]\d)|{COUNTING}\b)"
)
# What chat templates and web pages put around an answer.
_TAG = re.compile(r"</?[A-Za-z|][^<>\s]*>")
_COUNTED = re.compile(
    rf"{_LED}({_NUMBER}(?:{_SCALE}|[kKM]\b)?)(?![\d(]|[.,/^:-]\d|\s*(?i:squared|cubed)\b|(?:[kKMB]|bn|mn)\b)"
    rf"(?:{_REMARK}|{_POWER}|\\(?:text|mathrm|mbox)\s*\{{(?![^{{}}]*\b{COUNTING}\b)[^{{}}\d]*\}}"
    rf"|{_TEX_SPACE}|{_BEHIND}|<-+"
    # a number word, and a minus with a space at either side and a word behind it, say another value
    rf"|(?!(?<![A-Za-z]){COUNTING}\b|(?<=\s)[-−–]\s*\w|[-−–]\s+\w)"  # noqa: RUF001 - the minus signs meant
    rf"[^\d=+<>^\\(){{}}×÷√π·⋅ⁿ{FRACTIONS}{SUPERSCRIPTS}{SUBSCRIPTS}])*+",  # noqa: RUF001 - the signs meant
)
_LETTER_SCALE = {"k": " thousand", "K": " thousand", "M": " million"}

# Digits behind the point to which math-verify compares decimals.
DECIMALS = 6
_WORD = re.compile("[A-Za-z]{3,}")
_BASED = re.compile(r"(-?[0-9A-Z.]+)(?:_(\w+))?")
_WORTH = re.compile(rf"\b{COUNTING}\b|(?<=\d )(?:squared|cubed)\b")

_JUDGE = Judge()


def extract_answer(text: str) -> str | None:
    """What follows the last ``####`` on its line, or the content of the last ``\\boxed{}``, whichever stands later.

    Of ``18 = 3 x 6`` it is the number before the sign.
    """
    found = _said(text)
    return found[0] if found else None


def _said(text: str) -> list[str]:
    """The answer, and behind it whatever the line says that it is equal to; nothing without an answer."""
    line, place = _marked(text)
    boxes = list(BOX.finditer(text))
    if boxes and boxes[-1].start() > place:
        content = boxed(text[boxes[-1].start() :])
        found = [] if content is None else [content]
    elif line is not None:
        found = _parts(line)
    else:
        found = []
    # What is too long to be judged is not tidied either, which takes time that grows with its square.
    tidied = [tidy(part) if len(part) <= 2 * LONGEST_ANSWER else part for part in found]
    return tidied if all(tidied) else []


def _parts(line: str) -> list[str]:
    """The number of a line after ####, and the numbers that it is said to be equal to; else the whole line."""
    line = _TAG.sub(" ", line)
    first, *others = line.split("=")
    counted = _COUNTED.fullmatch(first)
    if not counted:
        return [line]
    found = [_counted_number(counted)]
    for other in others:
        again = _COUNTED.fullmatch(other)
        if again:
            found.append(_counted_number(again))
        elif re.search(rf"\d|\b{COUNTING}\b|[^\w\s.,!'*`$]|(?![A-Za-z_])[^\W\d]", other):
            found.append(other)
    return found


def _counted_number(counted: re.Match[str]) -> str:
    scale = _LETTER_SCALE.get(counted[1][-1])
    return counted[1][:-1] + scale if scale else counted[1]


def _marked(text: str) -> tuple[str | None, int]:
    """The last line after a mark that says anything, and where its mark stands; None and -1 without one."""
    end = len(text)
    while (place := text.rfind(MARK, 0, end)) >= 0:
        start = place + len(MARK)
        stop = text.find("\n", start, end)
        line = text[start : end if stop < 0 else stop]
        if re.search(r"\w", line):
            return line, place
        end = place
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


def judge(text: str, truth: str) -> str:
    """EQUAL where the answer of a whole response is the true one, else why it is not.

    Raises:
        RunFailed: the process that judges was ended from outside, twice.
    """
    answers = _said(text)
    if not answers:
        return NO_ANSWER
    if max(map(len, answers)) > LONGEST_ANSWER:
        return UNPARSED
    return next((reason for answer in answers if (reason := _reason(tidy(truth), answer)) != EQUAL), EQUAL)


def _reason(truth: str, answer: str) -> str:
    """EQUAL where one reading of the truth is equal to one of the answer, else why the first ones are not."""
    reasons: list[str] = []
    for meant, (place, said) in product(readings(truth), enumerate(readings(answer))):
        # An answer that may be one number is a list only as the truth lists it: 1,200 is not 200 and 1.
        reasons.append(DIFFERENT if place and seen(meant) != seen(said) else _compare(meant, said))
        if reasons[-1] == EQUAL:
            return EQUAL
    return reasons[0]


def _compare(truth: str, answer: str) -> str:
    """EQUAL or why not; only what is neither spelled alike nor two numbers needs the judge."""
    one, other = seen(truth), seen(answer)
    if one == other or (_WORD.fullmatch(one) and one.lower() == other.lower()):
        return EQUAL
    based, digits = _BASED.fullmatch(one), _BASED.fullmatch(other)
    if based and digits and (based[2] or digits[2]):  # math-verify reads no base
        fits = not digits[2] if based[2] else digits[2] == "10"  # the question may name the truth's base
        return EQUAL if fits and digits[1] == based[1] else DIFFERENT
    if sorted(_WORTH.findall(one.lower())) != sorted(_WORTH.findall(other.lower())):  # math-verify takes them for units
        return UNPARSED
    meant, said = number(one), number(other)
    if meant is None or said is None:
        return _JUDGE.ask(truth, answer)
    # As math-verify: a decimal is a rounded number, whole numbers and fractions are exact.
    rounded = "." in one + other
    alike = round(meant, DECIMALS) == round(said, DECIMALS) if rounded else meant == said
    return EQUAL if alike else DIFFERENT


def score(text: str, answer: str) -> float:
    """1.0 when the response's answer is equal to `answer`, else 0.0. There is no partial credit."""
    return float(judge(text, answer) == EQUAL)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **kwargs: object
) -> dict[str, float]:
    """verl's, as in `groupppo.tasks.reward`, and 1.0 under the one reason for which the reward is 0: `no_answer`,
    `different`, `unparsed` or `timeout`.
    """
    found = judge(solution_str, ground_truth)
    reward = float(found == EQUAL)
    reasons = {reason: float(found == reason) for reason in (NO_ANSWER, DIFFERENT, UNPARSED, TIMEOUT)}
    return {"score": reward, "acc": reward} | reasons
