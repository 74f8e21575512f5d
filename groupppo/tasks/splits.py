"""Which prompts go to train, dev and test.

A prompt's split is a function of its text alone: neither the order of drawing, nor the seed, nor the size of another
split can move it, so that no change of a task file ever turns a training prompt into a test prompt.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping

from groupppo.config import Task
from groupppo.errors import BadInput
from groupppo.tasks.base import Example, bind

SPLITS = ("train", "dev", "test")
# Percent of all possible prompts that each split may draw from. Fixed: a change would move prompts between splits.
SHARES = {"train": 80, "dev": 10, "test": 10}
# Draws in a row without a new prompt after which a generator counts as exhausted.
PATIENCE = 20_000


def prompt_sha256(prompt: str) -> str:
    """SHA-256 of the prompt's UTF-8 text, in hexadecimal."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def split_of(prompt: str) -> str:
    """The split a prompt belongs to, by its hash."""
    bucket = int(prompt_sha256(prompt)[:15], 16) % 100
    for split, share in SHARES.items():
        if bucket < share:
            return split
        bucket -= share
    raise AssertionError("the shares do not sum to 100")


def draw_splits(task: Task) -> dict[str, list[Example]]:
    """Distinct examples of every split, exactly as many as `task.splits` asks for, in order of drawing.

    Raises:
        BadInput: bad parameters, or the generator cannot give enough distinct prompts.
    """
    draw = bind(task)
    rng = random.Random(task.seed)
    drawn: dict[str, dict[str, Example]] = {split: {} for split in SPLITS}
    dry = 0
    while missing := [split for split in SPLITS if len(drawn[split]) < task.splits[split]]:
        example = draw(rng)
        split = split_of(example.prompt)
        if split in missing and example.prompt not in drawn[split]:
            drawn[split][example.prompt] = example
            dry = 0
        elif (dry := dry + 1) >= PATIENCE:
            split = missing[0]
            raise BadInput(
                task.source,
                f"splits.{split}",
                task.splits[split],
                f"ask for fewer or widen params: {len(drawn[split])} distinct prompts came, "
                f"then none in {PATIENCE} draws.",
            )
    examples = {split: list(drawn[split].values()) for split in SPLITS}
    overlap = find_repeat({split: [example.prompt for example in part] for split, part in examples.items()})
    if overlap:
        raise AssertionError(f"prompt drawn twice: {overlap}")
    return examples


def find_repeat(prompts: Mapping[str, Iterable[str]]) -> tuple[str, str, str] | None:
    """The first prompt met twice as (prompt, split of the first, split of the second), or None if all differ."""
    first: dict[str, str] = {}
    for split, texts in prompts.items():
        for text in texts:
            if text in first:
                return text, first[text], split
            first[text] = split
    return None
