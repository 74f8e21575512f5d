"""Selection sort of a string of digits, step by step."""

import random
from typing import Annotated

from pydantic import Field

from groupppo.tasks.base import Example, require_at_most

Length = Annotated[int, Field(ge=1, le=64)]


def sorting(rng: random.Random, *, min_length: Length, max_length: Length) -> Example:
    """Sort `min_length` to `max_length` digits, drawn uniformly with repeats.

    ``sort 5313`` is answered ``1|533;3|53;3|5;5|#1335``: the smallest digit, what is left, and so on.
    A response of n digits has (n^2 + 7n) / 2 characters.
    """
    require_at_most("min_length", min_length, max_length)
    size = rng.randint(min_length, max_length)
    digits = [rng.choice("0123456789") for _ in range(size)]
    rest, steps, ordered = list(digits), [], ""
    while rest:
        smallest = min(rest)
        rest.remove(smallest)
        ordered += smallest
        steps.append(f"{smallest}|{''.join(rest)}")
    return Example(f"sort {''.join(digits)}", f"{';'.join(steps)}#{ordered}", ordered, size)
