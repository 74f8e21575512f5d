"""Prompts as Parquet rows with the columns verl reads, the split that each belongs to, and the checks on them.

A prompt's split is a function of its text alone: neither the order of drawing, nor the seed, nor the size of another
split can move it, so that no change of a task file ever turns a training prompt into a test prompt.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.config import Task
from groupppo.errors import BadInput
from groupppo.tasks.base import Example
from groupppo.tasks.tokenizer import chat_ids

# Percent of all possible prompts that each split may draw from. Fixed: a change would move prompts between splits.
SHARES = {"train": 80, "dev": 10, "test": 10}
SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {
                "index": pa.int64(),
                "split": pa.string(),
                "prompt_sha256": pa.string(),
                "demonstration": pa.string(),
                "size": pa.int64(),
            }
        ),
    }
)
REBUILD = "build the task again, or restore the file."


def prompt_sha256(prompt: str) -> str:
    """SHA-256 of the prompt's UTF-8 text, in hexadecimal."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def split_of(prompt: str) -> str:
    """The split a prompt belongs to, by its hash."""
    bucket = int(prompt_sha256(prompt)[:15], 16) % 100
    if bucket < SHARES["train"]:
        return "train"
    return "dev" if bucket < SHARES["train"] + SHARES["dev"] else "test"


def write_split(path: Path, task: str, split: str, examples: Sequence[Example]) -> None:
    """Write one split; the same examples always give the same bytes."""
    rows = [
        {
            "data_source": task,
            "prompt": [{"role": "user", "content": example.prompt}],
            "ability": task,
            "reward_model": {"style": "rule", "ground_truth": example.answer},
            "extra_info": {
                "index": index,
                "split": split,
                "prompt_sha256": prompt_sha256(example.prompt),
                "demonstration": example.demonstration,
                "size": example.size,
            },
        }
        for index, example in enumerate(examples)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def read_examples(path: Path) -> list[Example]:
    """The examples of one split, in file order.

    Raises:
        BadInput: the file is missing, is not a whole Parquet file, has other columns or no rows.
    """
    if not path.is_file():
        raise BadInput(path, "file", None, "build the task first: the file does not exist.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(path, "file", str(error).splitlines()[0], f"not a whole Parquet file; {REBUILD}") from error
    for field in SCHEMA:
        found = table.schema.field(field.name).type if field.name in table.schema.names else None
        if found != field.type:
            raise BadInput(path, f"column {field.name}", found and str(found), f"it has to be {field.type}; {REBUILD}")
    if not table.num_rows:
        raise BadInput(path, "rows", 0, f"a split needs prompts; {REBUILD}")
    return [
        Example(
            prompt=row["prompt"][0]["content"],
            demonstration=row["extra_info"]["demonstration"],
            answer=row["reward_model"]["ground_truth"],
            size=row["extra_info"]["size"],
        )
        for row in table.to_pylist()
    ]


def check_splits(folder: Path) -> None:
    """Check that a task folder can be trained and tested on.

    Raises:
        BadInput: a split is missing or damaged, or a prompt occurs twice, within a split or across two.
    """
    home: dict[str, str] = {}
    for split in SHARES:
        path = folder / f"{split}.parquet"
        for prompt in (example.prompt for example in read_examples(path)):
            if prompt in home:
                where = "twice in this split" if home[prompt] == split else f"in {home[prompt]}.parquet as well"
                raise BadInput(path, "prompt", prompt, f"remove it here: the same prompt is {where}.")
            home[prompt] = split


def check_prompt_lengths(task: Task, task_folder: Path, model_folder: Path) -> int:
    """Check that every training prompt, chat template included, fits `max_prompt_tokens` of this model.

    A task is built without a model and can only count bytes. verl would stop at the first longer prompt, hours later.

    Returns:
        Tokens of the longest prompt.

    Raises:
        BadInput: a prompt of the train or dev split has more tokens.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    examples = [example for split in ("train", "dev") for example in read_examples(task_folder / f"{split}.parquet")]
    tokens = {example.prompt: len(chat_ids(tokenizer, example.prompt)) for example in examples}
    longest = max(tokens, key=tokens.__getitem__)
    if tokens[longest] > task.max_prompt_tokens:
        hint = f"write at least {tokens[longest]}, the tokens of {longest[:60]!r}..., or narrow params."
        raise BadInput(task.source, "max_prompt_tokens", task.max_prompt_tokens, hint)
    return tokens[longest]


def measure_lengths(task: Task, task_folder: Path, model_folder: Path) -> dict[str, Any]:
    """What the task's limits cut off for a model: tokens of prompts and of the solutions that come with them.

    Returns:
        The limits, and for each split `lengths_of` its prompts, chat template included, and of its solutions, end
        token included, with the share of each that is `above` its limit. A response above its limit is cut off there
        and as a rule earns nothing; a model's own responses may be longer or shorter than a published solution.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    limits = {"prompt_tokens": task.max_prompt_tokens, "solution_tokens": task.max_response_tokens}
    measured: dict[str, Any] = {"task": task.name, "limits": limits}
    for split in SHARES:
        examples = read_examples(task_folder / f"{split}.parquet")
        solutions = tokenizer([example.demonstration for example in examples], add_special_tokens=False)["input_ids"]
        tokens = {
            "prompt_tokens": [len(chat_ids(tokenizer, example.prompt)) for example in examples],
            "solution_tokens": [len(ids) + 1 for ids in solutions],
        }
        measured[split] = {"prompts": len(examples)} | {
            key: lengths_of(found) | {"above": round(float(np.mean(np.array(found) > limits[key])), 5)}
            for key, found in tokens.items()
        }
    return measured


def lengths_of(tokens: Sequence[int]) -> dict[str, float]:
    """Least, mean, tenth, fiftieth and ninetieth percentile, and most."""
    p10, p50, p90 = map(float, np.percentile(tokens, [10, 50, 90]))
    mean = round(float(np.mean(tokens)), 3)
    return {"min": min(tokens), "mean": mean, "p10": p10, "p50": p50, "p90": p90, "max": max(tokens)}
