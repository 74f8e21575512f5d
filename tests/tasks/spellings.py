"""Responses made from published answers: other spellings of the same value, and values that are nearly it."""

import re
from collections.abc import Iterator

# Last lines of a right answer N to a question of GSM8K.
RIGHT_LINES = (
    "#### N", "####N", "####  N ", "#### N.", "#### $N", "#### \\$N", "#### N$", "#### $N$", "#### $N.00", "#### N.0",
    "**#### N**", "#### **N**", "#### **N** apples", "#### *N*", "#### `N`", "#### _N_", "### #### N", '#### "N"',
    "#### \\boxed{N}", "#### $\\boxed{N}$", "#### \\(N\\)", "#### \\text{N}", "#### N\\%", "#### N%", "#### €N",
    "#### N€",
    "#### N apples", "#### N apples.", "#### N (apples)", "#### N (apples) in all", "#### N miles/hour", "#### N km/h",
    "#### N miles per hour", "#### N $/hour", "#### N-mile walk", "#### N sq. ft.", "#### N cm^2", "#### N cm^{2}",
    "#### N cm²", "#### N m2", "#### N \\text{ miles}", "#### N\\ \\text{cm}^2", "#### N°", "#### N^\\circ",
    "#### N degrees", "#### N\u00a0apples", "#### N\u2009kg", "#### N (3 boxes of 6)", "#### N ($2 each)",
    "#### N apples, as we wanted to know", "#### N!", "#### N ✓", "#### The answer is N.", "#### Answer: N",
    "#### Final answer: **N**", "#### x = N", "#### N\n####", "#### N\n\nThat is all.", "#### 7\n#### N",
    "#### N in 2 days", "#### N for the 3 kids", "#### N per 100", "#### N years old in 5 years",
    "#### N left at 2:30", "#### N for two kids", "#### N<|im_end|>", "#### N</answer>", "#### N = N<|im_end|>",
    "#### <answer>N</answer>", "#### N <- final answer",
    "#### N = N", "#### N apples = N x 1", "#### N = the answer", "#### N m^2", "#### N m³", "#### N quarters",
    "#### N third graders",
    "so $\\boxed{N}$.", "so $\\boxed{N \\text{ apples}}$.", "so $\\fbox{N}$.", "so $\\boxed N$.", "so \\boxed{\\$N}.",
)  # fmt: skip
# Last lines in which a sign or word behind N makes it another value.
CHANGED_LINES = (
    "#### N½", "#### N¾ cups", "#### N ⅓", "#### Nπ", "#### N⁴ + 1", "#### N₂", "#### N × two",  # noqa: RUF001
    "#### N ÷ two", "#### N dozens",
    "#### N√2", "#### N - twenty", "#### N − x", "#### Nk", "#### NM", "#### NB", "#### N hundred",  # noqa: RUF001
    "#### N thousand",
    "#### N Thousand", "#### N million", "#### N dozen", "#### N \\text{ thousand}", "#### N half", "#### N quarter",
    "#### N thirds", "#### N and a half", "#### N \\text{ and a half}", "#### N times two", "#### N plus one",
    "#### N or twenty", "#### N feet by 20 feet", "#### N in 2 or 3", "#### N in 2½", "#### N<0.5", "#### N + 2 in 3",
    "#### N_two", "#### Nⁿ", "#### N = half", "#### N = \\pi", "#### N = π", "#### N = zero", "#### N = N x 3",
)  # fmt: skip
# Last lines that do not say N and nothing else, whatever number N is but 0.
WRONG_LINES = (
    "N", "The answer is N.", "####", "#### -N", "#### N0", "#### N.5", "#### 1N", "#### N or 3", "#### N and 3",
    "#### N to 999", "#### N (or 3)", "#### N (3)", "#### N 3", "#### N + 3", "#### N + 3 = 8", "#### N*3",
    "#### N x 3",
    "#### N/7", "#### N^2 + 1", "#### N:30", "#### N hours 30 minutes", "#### N 2/3", "#### Ne3", "#### N = 0.5",
    "#### 0.5 (N)", "#### N-7", "#### (N,N)", "#### N\n#### 0.5", "\\boxed{N} #### 0.5", "#### N then \\boxed{0.5}",
    "#### \\frac{N}{7}", "#### N\\cdot 7", "#### N,000", "#### N,5", "#### N.000.000",
    *CHANGED_LINES,
)  # fmt: skip


INTEGER = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d*\.\d+")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
# A value of which the negative is another one: no list, no set, no word, nothing with a sign of its own.
SIGNED = re.compile(r"(?:\d|\\[dt]?frac|\\sqrt|\\pi|[{}+./ ]|(?<=\d)-)+")
PAIR = re.compile(
    r"(?P<open>(?:\\left)?\s*[(\[])(?P<first>[^,()\[\]]+),(?P<second>[^,()\[\]]+)(?P<close>(?:\\right)?\s*[)\]])"
)
NUMBER_PAIR = re.compile(r"\((-?\d+),\s*(\d+)\)")
UNION = r"\cup"
ENTRY = re.compile(r"(-?\d+)( *\\end\{pmatrix\})")
POLYNOMIAL = re.compile(r"[\dxyztn^{}+\-]*[xyztn][\dxyztn^{}+\-]*[+-]\d+")
WITH_UNIT = re.compile(r"(\d+)\s*\\(?:text|mbox)\s*\{[^{}]*\}(?:\^\d)?")
CHOICE = re.compile(r"\\text\{\(?([A-H])\)?\}")
WORD = re.compile(r"\\(?:text|mbox)\{([A-Za-z]{3,})\}")
LIST = re.compile(r"-?\d+(?:,\s*-?\d+)+")
FORMATTED = re.compile(r"^\\?\$?|[{},\\!]|\.0+$|\\%$|\^\\circ$")


# N is the answer, or what the pattern's group holds of it.
BOXES = (
    r"so it is $\boxed{N}$.", r"\boxed{ N }", r"\boxed {N}", r"\fbox{N}", r"\boxed{$N$}", r"\boxed{\(N\)}",
    r"\boxed{N.}", r"\boxed{{N}}", r"\boxed{\,N\,}", r"\boxed{N\ }", r"\boxed{\displaystyle N}",
    r"**Answer:** **$\boxed{N}$**", r"\boxed{**N**}", r"\boxed{\boxed{N}}", r"$\boxed{N}$, which we had to find.",
    "\\[\\boxed{N}\\]",
)  # fmt: skip
FORMS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"(-?\d+)"), ("N.0", "N.00", r"\text{N}", r"\mathbf{N}", r"\textbf{N}", r"\mathrm{N}", "x = N",
                              "N units", r"N\text{ units}", r"N\ \text{cm}^2", r"N \cdot 1", r"\frac{N}{1}")),
    (re.compile(r"(\d+)"), ("+N",)),
    (re.compile(r"(\d+)\s*\\(?:text|mbox)\s*\{[^{}]*\}(?:\^\d)?"), ("N", "N miles per hour", r"N\,\mathrm{units}")),
    (re.compile(r"\\text\{\(?([A-H])\)?\}"), ("N", "(N)", r"\text{N}", r"\textbf{(N)}", r"\mathrm{N}")),
    (re.compile(r"\\(?:text|mbox)\{([A-Za-z]{3,})\}"), ("N", r"\textbf{N}", r"\mathrm{N}", r"\text{ N }")),
)  # fmt: skip


def same(truth: str) -> Iterator[tuple[str, str]]:
    """Other spellings of a published answer, each with its kind."""
    for pattern, templates in FORMS:
        if found := pattern.fullmatch(truth):
            yield from lines(found[1], templates)
    if INTEGER.fullmatch(truth):
        yield from thousands(truth)
    if found := WORD.fullmatch(truth):
        yield "title", found[1].title()
    number = FORMATTED.sub("", truth)
    if truth.startswith("\\$") and number.isdigit():
        yield "dollars in words", f"{number} dollars"
        yield "no dollar", number
        yield "bare dollar", f"${number}"
    if truth.endswith("\\%"):
        yield "bare percent", truth.replace("\\%", "%")
        yield "percent left out", truth.removesuffix("\\%").strip()
    if truth.endswith("^\\circ"):
        yield "degree sign", truth.replace("^\\circ", "°")
        yield "degree in braces", truth.replace("^\\circ", r"^{\circ}")
        if truth.count("circ") == 1:
            yield "degrees left out", truth.removesuffix("^\\circ")
            yield "degrees in words", truth.replace("^\\circ", r" \text{ degrees}")
            yield "degree command", truth.replace("^\\circ", r"\degree")
    if found := FRACTION.fullmatch(truth):
        sign, above, below = found.groups()
        yield "slash", f"{sign}{above}/{below}"
        yield "\\dfrac", rf"{sign}\dfrac{{{above}}}{{{below}}}"
        yield "sign inside", rf"\frac{{{sign}{above}}}{{{below}}}"
        yield "equation", f"x = {truth}"
        if len(above + below) == 2:
            yield "no braces of \\frac", rf"{sign}\frac{above}{below}"
    if "frac" in truth:
        yield "\\tfrac", truth.replace("\\frac", "\\tfrac").replace("\\dfrac", "\\tfrac")
    if DECIMAL.fullmatch(truth):
        yield "zero behind", f"{truth}0"
    for sign, command in (("−", "-"), ("π", r"\pi"), ("∞", r"\infty"), ("∪", r"\cup")):  # noqa: RUF001
        if command in truth and "begin" not in truth and not (command == "-" and "text" in truth):
            yield f"sign {sign}", truth.replace(command, sign)
    if "," in truth and "text" not in truth and not re.search(r"\d,\d{3}", truth) and "!" not in truth:
        yield "spaces behind commas", re.sub(r",\s*", ", ", truth)
        yield "no spaces behind commas", re.sub(r",\s+(?!\d{3})", ",", truth)
    if re.search(r"[(\[]", truth) and "\\left" not in truth and "text" not in truth:
        yield "\\left and \\right", re.sub(r"[)\]]", r"\\right\g<0>", re.sub(r"[(\[]", r"\\left\g<0>", truth))
    if "\\left" in truth:
        yield "no \\left", re.sub(r"\\(?:left|right)", "", truth)
    if LIST.fullmatch(truth) and not re.search(r"\d,\s*\d{3}", truth):
        yield "other order", ", ".join(reversed(re.split(r",\s*", truth)))
    if found := re.fullmatch(r"(\d+)_\{?(\d)\}?", truth):
        yield "base in braces", f"{found[1]}_{{{found[2]}}}"
        yield "base left out", found[1]
    if re.fullmatch(r"\(-?\d+,\s*-?\d+\)", truth):
        yield "decimals in a pair", re.sub(r"\d+", r"\g<0>.0", truth)


def thousands(truth: str) -> Iterator[tuple[str, str]]:
    """The spellings of a whole number of four and more digits."""
    if len(truth.lstrip("-")) > 3:
        for joiner in (",", "{,}", r",\!", r"\,", r"\ ", "~", " ", "\u2009", "\u202f", "\u00a0"):
            yield f"thousands {joiner!r}", f"{int(truth):,}".replace(",", joiner)


def others(truth: str) -> Iterator[tuple[str, str]]:
    """Values that are nearly a published answer and are not it, each with its kind."""
    if INTEGER.fullmatch(truth):
        yield "one more", str(int(truth) + 1)
        yield "one less", str(int(truth) - 1)
        yield "digit more", f"{truth}0" if int(truth) else "10"
        yield "half more", f"{truth}.5"
        yield "last digit behind a comma", f"{truth[:-1]},{truth[-1]}" if len(truth) > 2 else f"{truth},1"
        yield "power", f"({truth})^3+1"
        yield "variable", f"{truth}x"
        yield "pair", f"({truth},{truth})"
    if SIGNED.fullmatch(truth) and truth.strip("0."):
        yield "sign", f"-{truth}"
    if truth.startswith("-") and SIGNED.fullmatch(truth[1:]):
        yield "sign", truth[1:]
    if found := FRACTION.fullmatch(truth):
        sign, above, below = found.groups()
        if above != below:
            yield "turned over", rf"{sign}\frac{{{below}}}{{{above}}}"
        yield "one more above", rf"{sign}\frac{{{int(above) + 1}}}{{{below}}}"
        yield "only above", f"{sign}{above}" if below != "1" else f"{sign}{above}1"
        yield "digits of both", f"{sign}{above}{below}"
    if DECIMAL.fullmatch(truth):
        yield "one more behind", f"{truth}1"
        yield "no point", truth.replace(".", "")
    if "begin" not in truth and "text" not in truth:
        yield from _other_pairs(truth)
    if found := ENTRY.search(truth):
        yield "entry", truth[: found.start()] + str(int(found[1]) + 1) + truth[found.end(1) :]
    if POLYNOMIAL.fullmatch(truth):
        place = max(truth.rfind("+"), truth.rfind("-"))
        if place > 0:
            yield "last sign", truth[:place] + ("-" if truth[place] == "+" else "+") + truth[place + 1 :]
    if (found := WITH_UNIT.fullmatch(truth)) or (found := re.fullmatch(r"\\\$ ?(\d+)|(?P<n>\d+)\\%", truth)):
        number = next(group for group in found.groups() if group)
        yield "one more of a unit", truth.replace(number, str(int(number) + 1))
    if re.fullmatch(r"-?\d*[a-z]", truth) and re.search(r"\d", truth):
        yield "variable left out", truth[:-1]
        yield "other variable", truth[:-1] + ("q" if truth[-1] != "q" else "w")
    if found := CHOICE.fullmatch(truth):
        yield "next letter", rf"\text{{{chr(ord(found[1]) + 1)}}}"
    elif found := WORD.fullmatch(truth):
        yield "other word", r"\text{Wednesday}" if found[1] != "Wednesday" else r"\text{Friday}"
    if found := re.fullmatch(r"(\d+)_\{?(\d)\}?", truth):
        yield "other base", f"{found[1]}_{int(found[2]) + 1}"
        yield "other digits", f"{int(found[1]) + 1}_{found[2]}"
    if LIST.fullmatch(truth) and not re.search(r"\d,\s*\d{3}", truth):
        numbers = re.split(r",\s*", truth)
        if numbers[-1] not in numbers[:-1]:  # a list is a set: who gives a double root once is right
            yield "one left out", ", ".join(numbers[:-1])
        yield "one changed", ", ".join([*numbers[:-1], str(int(numbers[-1]) + 1000)])
        yield "digits joined", truth.replace(",", "").replace(" ", "")


def _other_pairs(truth: str) -> Iterator[tuple[str, str]]:
    turned = {"(": "[", "[": "(", ")": "]", "]": ")"}
    for found in PAIR.finditer(truth):
        for side in ("open", "close"):
            bracket = found[side][-1]
            place = found.end(side) - 1
            nearest = found["first"] if side == "open" else found["second"]
            if "infty" not in nearest:
                yield f"other bracket {bracket}", truth[:place] + turned[bracket] + truth[place + 1 :]
        if found["first"].strip() != found["second"].strip():
            swapped = f"{found['open']}{found['second']},{found['first']}{found['close']}"
            yield "pair turned", truth[: found.start()] + swapped + truth[found.end() :]
    if found := NUMBER_PAIR.fullmatch(truth):
        yield "digits joined", found[1] + found[2]
        yield "second one more", f"({found[1]},{int(found[2]) + 1})"
        yield "first left out", found[2]
    if UNION in truth:
        yield "last part left out", truth[: truth.rfind(UNION)].strip()


def lines(answer: str, templates: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each template with the answer in it, after the template."""
    for template in templates:
        yield template, template.replace("N", answer)


def right(name: str, answer: str) -> Iterator[tuple[str, str]]:
    """Responses to a row of `gsm8k` or `math` with a right answer, each after its kind."""
    if name == "gsm8k":
        yield from lines(answer, RIGHT_LINES)
        yield from ((kind, f"#### {text}") for kind, text in thousands(answer))
    else:
        if "$" not in answer:
            yield "no braces", rf"so it is $\boxed {answer}$."
        yield from lines(answer, BOXES)
        yield from ((kind, rf"so it is $\boxed{{{text}}}$.") for kind, text in same(answer))


def wrong(name: str, answer: str) -> Iterator[tuple[str, str]]:
    """Responses with an answer that is nearly right, each after its kind."""
    if name == "gsm8k":
        yield from lines(answer, WRONG_LINES) if float(answer) else ()
    else:
        yield from ((kind, rf"so it is $\boxed{{{text}}}$.") for kind, text in others(answer))
