"""Build a task: its three splits and a card that says what is in them."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groupppo.config import FILE, Task, recorded
from groupppo.errors import BadInput
from groupppo.records.hashing import sha256_file
from groupppo.tasks.base import Example, bind
from groupppo.tasks.file_data import data_file, draw_file
from groupppo.tasks.hub_data import FORMATS, draw_published
from groupppo.tasks.rows import SHARES, check_splits, lengths_of, split_of, write_split
from groupppo.tasks.tokenizer import byte_tokenizer, chat_ids

# Draws in a row without a new prompt after which a generator counts as exhausted.
PATIENCE = 20_000


def build_task(task: Task, out: Path) -> None:
    """Write `train.parquet`, `dev.parquet`, `test.parquet` and `card.json` into `out`.

    The same task file gives the same bytes. Lengths are counted with the byte-level tokenizer, chat template and end
    token included: any tokenizer with merges gives fewer tokens. A task with a warm start has to fit a model with that
    tokenizer; another is measured again with the tokenizer of its model (`groupppo.tasks.rows`).

    Raises:
        BadInput: bad parameters, too few distinct prompts, or a text longer than the task file allows.
    """
    out.mkdir(parents=True, exist_ok=True)
    more: dict[str, Any] = {}
    if task.generator in FORMATS:
        examples, more["left_out"] = draw_published(task)
    elif task.generator == FILE:
        examples, more["left_out"] = draw_file(task)
        more["data_sha256"] = sha256_file(data_file(task))
    else:
        examples = draw_splits(task)
    described = {split: _describe(task, part) for split, part in examples.items()}
    splits = {}
    for split, part in examples.items():
        file = out / f"{split}.parquet"
        write_split(file, task.name, split, part)
        splits[split] = {"file": file.name, "sha256": sha256_file(file)} | described[split]
    check_splits(out)
    spec = {key: value for key, value in recorded(task).items() if key not in ("source", "warmstart")}
    named = {"task": task.name, "title": task.title, "version": task.version}
    card = named | {"spec": spec, "splits": splits} | task.reward_params | more
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def draw_splits(task: Task) -> dict[str, list[Example]]:
    """Distinct examples of every split, exactly as many as `task.splits` asks for, in order of drawing.

    Raises:
        BadInput: bad parameters, or the generator cannot give enough distinct prompts.
    """
    draw = bind(task)
    rng = random.Random(task.seed)
    drawn: dict[str, dict[str, Example]] = {split: {} for split in SHARES}
    dry = 0
    while missing := [split for split in SHARES if len(drawn[split]) < task.splits[split]]:
        example = draw(rng)
        split = split_of(example.prompt)
        if split in missing and example.prompt not in drawn[split]:
            drawn[split][example.prompt] = example
            dry = 0
        elif (dry := dry + 1) >= PATIENCE:
            split = missing[0]
            found = f"{len(drawn[split])} distinct prompts came, then none in {PATIENCE} draws"
            hint = f"ask for fewer or widen params: {found}."
            raise BadInput(task.source, f"splits.{split}", task.splits[split], hint)
    return {split: list(part.values()) for split, part in drawn.items()}


def _describe(task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """Counts and token lengths of one split; BadInput where a text is longer than a warm start's task allows."""
    tokenizer = byte_tokenizer(task.max_prompt_tokens + task.max_response_tokens)
    prompts = [len(chat_ids(tokenizer, example.prompt)) for example in examples]
    encoded = tokenizer([example.demonstration for example in examples], add_special_tokens=False)
    responses = [len(ids) + 1 for ids in encoded["input_ids"]]
    for key, lengths in (("max_prompt_tokens", prompts), ("max_response_tokens", responses)):
        longest = int(np.argmax(lengths))
        if task.warmstart is not None and lengths[longest] > getattr(task, key):
            text = examples[longest].prompt if lengths is prompts else examples[longest].demonstration
            hint = f"write at least {lengths[longest]}, the tokens of {text!r}, or narrow params."
            raise BadInput(task.source, key, getattr(task, key), hint)
    return {
        "prompts": len(examples),
        "prompt_tokens": lengths_of(prompts),
        "response_tokens": lengths_of(responses),
        "sizes": {str(size): count for size, count in sorted(Counter(example.size for example in examples).items())},
    }
