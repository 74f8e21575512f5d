"""A chain of sums and differences with its running total written out."""

import random

from groupppo.tasks.base import Example, register, require_range

LARGEST_TERM = 9
MOST_TERMS = 64
# Below this limit a total could have no next term: too large to add to and too small to subtract from.
SMALLEST_LIMIT = 2 * LARGEST_TERM - 1
LARGEST_LIMIT = 999


@register("chain")
def chain(rng: random.Random, *, min_terms: int, max_terms: int, limit: int) -> Example:
    """Add and subtract `min_terms` to `max_terms` numbers from 1 to 9, the total always within 0 to `limit`.

    ``7+5-9`` is answered ``7+5=12;12-9=3#3``. A sign is drawn evenly where both keep the total in bounds.

    Raises:
        ParamError: a count of terms or the limit is not a whole number or is out of range.
    """
    require_range("max_terms", max_terms, 2, MOST_TERMS)
    require_range("min_terms", min_terms, 2, max_terms)
    require_range("limit", limit, SMALLEST_LIMIT, LARGEST_LIMIT)
    size = rng.randint(min_terms, max_terms)
    total = rng.randint(1, LARGEST_TERM)
    prompt, steps = str(total), []
    for _ in range(size - 1):
        term = rng.randint(1, LARGEST_TERM)
        bounded = {"+": total + term, "-": total - term}
        sign = rng.choice([sign for sign, after in bounded.items() if 0 <= after <= limit])
        steps.append(f"{total}{sign}{term}={bounded[sign]}")
        prompt += f"{sign}{term}"
        total = bounded[sign]
    return Example(prompt, f"{';'.join(steps)}#{total}", str(total), size)
