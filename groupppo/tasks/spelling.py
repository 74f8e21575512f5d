"""One spelling for an answer that can be written in many: what wraps it, its signs, its thousands, its TeX.

Every rule here leaves the value as it is, so that answers which come out the same are equal. What is the same value
in another form (1/2 and 0.5) is for `groupppo.tasks.judge`.
"""

import re
import unicodedata
from fractions import Fraction

FRACTIONS = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
SUPERSCRIPTS, SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"
_RAISED = re.compile(f"([{SUPERSCRIPTS}]+)|[{SUBSCRIPTS}]+")
_COUNTS = (
    "zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)
_WORTH = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SCALES = f"(?:{'|'.join(_WORTH)})s?"
# Words that change the value of the number before them. Thirds are parts; the third is not.
SCALING = rf"(?i:{SCALES}|half|halves|quarter|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth)s)"
# What says a number of its own. One is a pronoun too.
COUNTING = rf"(?i:{_COUNTS}|(?:or|plus|minus) one|{SCALING})"
_SCALED = re.compile(
    rf"(?<![\d.,/^_}}])(\d+(?:,\d{{3}})*(?:\.\d+)?)((?:\s|~|\\[,;:! ])*(?:\\(?:text|mbox|mathrm)\s*\{{\s*)?)"
    rf"((?:{SCALES})(?:\s+(?:{SCALES}))*)\b",
    re.IGNORECASE,
)
_TIMES = re.compile(r"(?<=\d)\s+x\s+(?=\d)")
# TeX takes one sign or command for an argument without braces; math-verify reads only digits so.
_ARGUMENT = r"\s*(\\(?!frac|sqrt|text|math|mbox|left|right)[A-Za-z]+|[A-Za-z\d])"
_ABOVE = re.compile(rf"\\frac(?![A-Za-z]){_ARGUMENT}")
_BELOW = re.compile(rf"(\\frac\{{[^{{}}]*\}}){_ARGUMENT}")


def _fraction_of(sign: str) -> str:
    above, below = Fraction(unicodedata.numeric(sign)).limit_denominator(10).as_integer_ratio()
    return rf"\frac{{{above}}}{{{below}}}"


# Signs that models write instead of TeX. A mixed number's fraction stays beside its whole part: 2½ is 2\frac{1}{2}.
_TEX_OF = str.maketrans(
    {
        **dict.fromkeys("−–‒﹣－", "-"),  # noqa: RUF001 - the minus signs meant
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f", "~"),
        **dict.fromkeys("\u200b\u2060\ufeff", None),
        **dict.fromkeys("°º", "^\\circ "),
        **dict.fromkeys("·⋅", "\\cdot "),
        **dict.fromkeys("“”„", '"'),
        **dict.fromkeys("‘’", "'"),  # noqa: RUF001 - the quotes meant
        "×": "\\times ",  # noqa: RUF001 - the sign meant
        "÷": "\\div ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "√": "\\sqrt ",
        "≤": "\\leq ",
        "≥": "\\geq ",
        "≠": "\\neq ",
        "±": "\\pm ",
        "∪": "\\cup ",  # noqa: RUF001 - the sign meant
        "∩": "\\cap ",
        "∈": "\\in ",
        "θ": "\\theta ",
        **{sign: _fraction_of(sign) for sign in FRACTIONS},
        "％": "%",  # noqa: RUF001 - the wide percent sign
    }
)
# √50 is the root of 50, but \sqrt50 that of 5, times 0.
_ROOT = re.compile(r"√\s*(?:(\d+)|\(([^()]*)\))")
_CURRENCY = r"\\?[$€£¥]|\\text(?:euro|sterling)\b"
_SPACE = r"\s|~|(?<!\\)\\[,;:! ]|\\q?quad\b|\\(?:text|mbox)\s*\{\s*\}"
_STYLE = r"\\(?:displaystyle|textstyle|Large|large|bf|rm)\b"
_HEAD = re.compile(rf"^(?:{_SPACE}|{_STYLE}|{_CURRENCY}|[*_`\"]|\\[(\[])+")
_TAIL = re.compile(rf"(?:{_SPACE}|{_CURRENCY}|[*_`\".,;]|\\?%|\\[)\]]|\\\\|\\text\s*\{{\s*\.\s*\}})+$")
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:bf|rm|it|sf)|boldsymbol|bm|mbox|fbox|boxed)\s*(?=\{)")
_RENAMED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\le(?![A-Za-z])"), r"\\leq"),
    (re.compile(r"\\ge(?![A-Za-z])"), r"\\geq"),
    (re.compile(r"\\degree(?![A-Za-z])"), r"^\\circ"),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])"), r"^\\circ"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*(?=[()\[\]|.]|\\[{}|])"), ""),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
)
# Between groups of three digits: a comma or space that says of itself that it belongs to one number.
_JOINED = re.compile(r"(?<![\d.])(?<!\{,\})(?<!,\\!)\d{1,3}(?:(?:\{,\}|,\\!|\\!,|\\[,;: ]|~| )\d{3})+(?!\d|\{,\}|,\\!)")
_JOINER = re.compile(r"\D+")
_BARE = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)")
# What a reader of TeX does not see: space beside anything but two letters or digits, and braces around one of them.
_UNSEEN = (
    (re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(rf"(?:{_SPACE})+"), " "),
    (re.compile(r" (?![A-Za-z0-9])|(?<![A-Za-z0-9]) |^\+(?=\d)"), ""),
    (re.compile(r"\.+$"), ""),
    (re.compile(r"\\sqrt(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=\^)\{(\w)\}|(?<=_)\{(\w+)\}"), r"\1\2"),
    (re.compile(r"(?<!\d)(?=\.\d)"), "0"),
)
_NUMBER = re.compile(r"([+-]?)(?:(\d+(?:\.\d+)?)(?:/(\d+))?|\\frac\{([+-]?\d+)\}\{(\d+)\})")


def tidy(answer: str) -> str:
    """`answer` without what wraps it and with one name for each sign; thousands marked as such are joined."""
    text = _ROOT.sub(r"\\sqrt{\1\2}", answer)
    text = _RAISED.sub(lambda match: f"{'^' if match[1] else '_'}{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    text = text.translate(_TEX_OF)
    before = None
    while text != before:
        before = text
        text = _unwrapped(_TAIL.sub("", _HEAD.sub("", text)))
    for pattern, name in _RENAMED:
        text = pattern.sub(name, text)
    text = _BELOW.sub(r"\1{\2}", _ABOVE.sub(r"\\frac{\1}", text))
    text = _SCALED.sub(_multiplied, _TIMES.sub(r"\\times ", text))
    text = _JOINED.sub(lambda match: _JOINER.sub("", match[0]), text)
    return _LETTER.sub(r"\1", text) if _LETTER.fullmatch(text) else text


def _multiplied(match: re.Match[str]) -> str:
    """2 million as 2000000, with the \\text{ that opened before the word."""
    value = Fraction(match[1].replace(",", ""))
    for scale in match[3].lower().split():
        value *= _WORTH[scale.removesuffix("s")]
    return match[0] if value.denominator > 1 else f"{value}{match[2]}"


def readings(text: str) -> tuple[str, ...]:
    """What a tidy text can mean: where a bare comma stands before three digits, as in 22,500, one number or a list.

    Inside brackets it is never one number: (100,101) is a pair.
    """
    joined = _BARE.sub(
        lambda match: match[0] if _depth(text[: match.start()]) else match[0].replace(",", ""),
        text,
    )
    return (text,) if joined == text else (joined, text.replace(",", ", "))


def seen(text: str) -> str:
    """A tidy text as a reader sees it: equal for two that differ in spaces and braces only."""
    for pattern, shown in _UNSEEN:
        text = pattern.sub(shown, text)
    return text


def number(text: str) -> Fraction | None:
    """The value of a whole number, decimal or fraction as `seen` gives it; None for anything else."""
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    sign, whole, below, above, below_frac = found.groups()
    value = Fraction(whole or above)
    denominator = int(below or below_frac or 1)
    return (-value if sign == "-" else value) / denominator if denominator else None


def _depth(text: str) -> int:
    """How many brackets of points, intervals and sets are open at the end of `text`; braces of TeX do not count."""
    opened, closed = (sum(text.count(sign) for sign in signs) for signs in (("(", "[", "\\{"), (")", "]", "\\}")))
    return opened - closed


def _unwrapped(text: str) -> str:
    """The inside of a command such as \\text{} or of bare braces where they hold the whole of `text`."""
    command = _WRAPPED.match(text)
    begin = command.end() if command else 0
    return text[begin + 1 : -1] if closing_brace(text, begin) == len(text) - 1 else text


def closing_brace(text: str, begin: int) -> int | None:
    """Where the brace that opens at `begin` closes; None where it does not, or no brace opens there."""
    depth, escaped = 0, False
    for place in range(begin, len(text)):
        letter = text[place]
        if escaped or letter == "\\":
            escaped = not escaped
        elif letter in "{}":
            depth += 1 if letter == "{" else -1
        if not depth:
            return place if letter == "}" else None
    return None
