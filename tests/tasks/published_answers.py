"""The maths reward on all published GSM8K and MATH rows, on other spellings of their answers and on near misses.

    python -m tests.tasks.published_answers gsm8k --sample 60
    python -m tests.tasks.published_answers math --sample 400

print the rates of docs/gpu.md; a sample of 0 takes every distinct answer. The rows are in ../shared/data.
"""

import argparse
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator

from groupppo.config import REPOSITORY
from groupppo.tasks.hub_data import FORMATS
from groupppo.tasks.math_reward import judge
from tests.tasks import spellings

DATA = REPOSITORY.parent / "shared" / "data"

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


def rows(name: str) -> Iterator[tuple[str, str]]:
    """The published solution and the answer of each row of `gsm8k` or `math` that has an answer."""
    for split in ("train", "test"):
        with gzip.open(DATA / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                example = FORMATS[name](row)
                if example is not None:
                    yield row["answer" if name == "gsm8k" else "solution"], example.answer


def answers(name: str, sample: int, seed: int) -> list[str]:
    """Distinct answers, `sample` of them drawn by `seed`; all for 0."""
    distinct = sorted({answer for _, answer in rows(name)})
    return random.Random(seed).sample(distinct, sample) if sample else distinct


def lines(answer: str, templates: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each template with the answer in it, after the template."""
    for template in templates:
        yield template, template.replace("N", answer)


def right(name: str, answer: str) -> Iterator[tuple[str, str]]:
    """Responses with a right answer, each after its kind."""
    if name == "gsm8k":
        yield from lines(answer, RIGHT_LINES)
        yield from ((kind, f"#### {text}") for kind, text in spellings.thousands(answer))
    else:
        yield from spellings.boxes(answer).items()
        yield from ((kind, rf"so it is $\boxed{{{text}}}$.") for kind, text in spellings.same(answer))


def wrong(name: str, answer: str) -> Iterator[tuple[str, str]]:
    """Responses with an answer that is nearly right, each after its kind."""
    if name == "gsm8k":
        yield from lines(answer, WRONG_LINES) if float(answer) else ()
    else:
        yield from ((kind, rf"so it is $\boxed{{{text}}}$.") for kind, text in spellings.others(answer))


Responses = Callable[[str, str], Iterator[tuple[str, str]]]


def misjudged(
    name: str, drawn: list[str], responses: Responses, due: float
) -> tuple[int, dict[str, list[tuple[str, str, str]]]]:
    """How many responses there are, and those whose reward is not `due`: truth, response and reason, by kind."""
    count, failed = 0, defaultdict(list)
    for answer in drawn:
        for kind, response in responses(name, answer):
            count += 1
            found = judge(response, answer)
            if found.score != due:
                failed[kind].append((answer, response, found.reason))
    return count, dict(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(FORMATS))
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    own = [judge(solution, answer).score for solution, answer in rows(asked.name)]
    print(f"own solutions: {sum(own):.0f} of {len(own)}", flush=True)
    drawn = answers(asked.name, asked.sample, asked.seed)
    for word, responses, due in (("other spellings", right, 1.0), ("near misses", wrong, 0.0)):
        count, failed = misjudged(asked.name, drawn, responses, due)
        wrongly = sum(map(len, failed.values()))
        print(f"{word} of {len(drawn)} answers: {count - wrongly} of {count} judged right", flush=True)
        for kind, cases in failed.items():
            print(f"  {kind}: {len(cases)}, such as {cases[0]}")


if __name__ == "__main__":
    main()
