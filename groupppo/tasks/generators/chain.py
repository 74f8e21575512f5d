"""A chain of sums and differences with its running total written out."""

import random
from typing import Annotated

from pydantic import Field

from groupppo.tasks.base import Example, require_at_most

LARGEST_TERM = 9
Terms = Annotated[int, Field(ge=2, le=64)]
# Below it a total could have no next term: too large to add to and too small to subtract from.
SMALLEST_LIMIT = 2 * LARGEST_TERM - 1
Limit = Annotated[int, Field(ge=SMALLEST_LIMIT, le=999)]


def chain(rng: random.Random, *, min_terms: Terms, max_terms: Terms, limit: Limit) -> Example:
    """Add and subtract `min_terms` to `max_terms` numbers from 1 to 9, the total always within 0 to `limit`.

    ``7+5-9`` is answered ``7+5=12;12-9=3#3``. A sign is drawn evenly where both keep the total in bounds.
    """
    require_at_most("min_terms", min_terms, max_terms)
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
