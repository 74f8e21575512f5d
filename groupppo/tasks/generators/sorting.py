"""Selection sort of a string of digits, step by step."""

import random

from groupppo.tasks.base import Example, register, require_range

LONGEST = 64


@register("sorting")
def sorting(rng: random.Random, *, min_length: int, max_length: int) -> Example:
    """Sort `min_length` to `max_length` digits, drawn uniformly with repeats.

    ``sort 5313`` is answered ``1|533;3|53;3|5;5|#1335``: the smallest digit, what is left, and so on.
    A response of n digits has (n^2 + 7n) / 2 characters.

    Raises:
        ParamError: a length is not a whole number, is below 1, or the two are in the wrong order.
    """
    require_range("max_length", max_length, 1, LONGEST)
    require_range("min_length", min_length, 1, max_length)
    size = rng.randint(min_length, max_length)
    digits = [rng.choice("0123456789") for _ in range(size)]
    rest, steps, ordered = list(digits), [], ""
    while rest:
        smallest = min(rest)
        rest.remove(smallest)
        ordered += smallest
        steps.append(f"{smallest}|{''.join(rest)}")
    return Example(f"sort {''.join(digits)}", f"{';'.join(steps)}#{ordered}", ordered, size)
