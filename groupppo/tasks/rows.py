"""Prompts as Parquet rows with the columns verl reads, the split that each belongs to, and the checks on them.

A prompt's split is a function of its text alone: neither the order of drawing, nor the seed, nor the size of another
split can move it, so that no change of a task file ever turns a training prompt into a test prompt.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

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
