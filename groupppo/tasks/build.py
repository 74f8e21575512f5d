"""Build a task: its three splits and a card that says what is in them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groupppo.config import Task, recorded
from groupppo.errors import BadInput
from groupppo.records.hashing import sha256_file
from groupppo.tasks.base import Example
from groupppo.tasks.hub_data import FORMATS, draw_published
from groupppo.tasks.rows import check_splits, draw_splits, write_split
from groupppo.tasks.tokenizer import byte_tokenizer, chat_ids


def build_task(task: Task, out: Path) -> None:
    """Write `train.parquet`, `dev.parquet`, `test.parquet` and `card.json` into `out`.

    The same task file gives the same bytes. Lengths are counted with the byte-level tokenizer, chat template and end
    token included: any tokenizer with merges gives fewer tokens. A task with a warm start has to fit a model with that
    tokenizer; another is measured again with the tokenizer of its model (`groupppo.tasks.rows`).

    Raises:
        BadInput: bad parameters, too few distinct prompts, or a text longer than the task file allows.
    """
    out.mkdir(parents=True, exist_ok=True)
    published = draw_published(task) if task.generator in FORMATS else None
    examples = draw_splits(task) if published is None else published.examples
    described = {split: _describe(task, part) for split, part in examples.items()}
    for split, part in examples.items():
        write_split(out / f"{split}.parquet", task.name, split, part)
    check_splits(out)
    card = {
        "task": task.name,
        "title": task.title,
        "version": task.version,
        "spec": {key: value for key, value in recorded(task).items() if key not in ("source", "warmstart")},
        "splits": {
            split: {"file": f"{split}.parquet", "sha256": sha256_file(out / f"{split}.parquet")} | described[split]
            for split in examples
        },
        **({} if published is None else {"left_out": published.left_out}),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _describe(task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """Counts and token lengths of one split.

    Raises:
        BadInput: a prompt or demonstration is longer than the task allows.
    """
    tokenizer = byte_tokenizer(task.max_prompt_tokens + task.max_response_tokens)
    prompts = [len(chat_ids(tokenizer, example.prompt)) for example in examples]
    encoded = tokenizer([example.demonstration for example in examples], add_special_tokens=False)
    responses = [len(ids) + 1 for ids in encoded["input_ids"]]
    if task.warmstart is not None:
        _require_fit(task, "max_prompt_tokens", prompts, [example.prompt for example in examples])
        _require_fit(task, "max_response_tokens", responses, [example.demonstration for example in examples])
    return {
        "prompts": len(examples),
        "prompt_tokens": _lengths(prompts),
        "response_tokens": _lengths(responses),
        "sizes": {str(size): count for size, count in sorted(Counter(example.size for example in examples).items())},
    }


def _require_fit(task: Task, key: str, lengths: Sequence[int], texts: Sequence[str]) -> None:
    longest = int(np.argmax(lengths))
    allowed = getattr(task, key)
    if lengths[longest] > allowed:
        hint = f"write at least {lengths[longest]}, the tokens of {texts[longest]!r}, or narrow params."
        raise BadInput(task.source, key, allowed, hint)


def _lengths(tokens: Sequence[int]) -> dict[str, float]:
    p10, p50, p90 = np.percentile(tokens, [10, 50, 90])
    return {
        "min": min(tokens),
        "mean": round(float(np.mean(tokens)), 3),
        "p10": float(p10),
        "p50": float(p50),
        "p90": float(p90),
        "max": max(tokens),
    }
