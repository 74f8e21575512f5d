"""Which prompts go to train, dev and test, as Parquet rows with the columns verl reads, and the checks on them.

A prompt's split is a function of its text alone: neither the order of drawing, nor the seed, nor the size of another
split can move it, so that no change of a task file ever turns a training prompt into a test prompt.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.config import Task
from groupppo.errors import BadInput
from groupppo.tasks.base import Example, bind
from groupppo.tasks.tokenizer import chat_ids

SPLITS = ("train", "dev", "test")
# Percent of all possible prompts that each split may draw from. Fixed: a change would move prompts between splits.
SHARES = {"train": 80, "dev": 10, "test": 10}
# Draws in a row without a new prompt after which a generator counts as exhausted.
PATIENCE = 20_000

SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("split", pa.string()),
                    ("prompt_sha256", pa.string()),
                    ("demonstration", pa.string()),
                    ("size", pa.int64()),
                ]
            ),
        ),
    ]
)
REBUILD = "build the task again, or restore the file."


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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one split as plain data.

    Raises:
        BadInput: the file is missing, is not a whole Parquet file, lacks a column or has no rows.
    """
    if not path.is_file():
        raise BadInput(path, "file", None, "build the task first: the file does not exist.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(path, "file", str(error).splitlines()[0], f"not a whole Parquet file; {REBUILD}") from error
    for field in SCHEMA:
        _check_column(path, field, table.schema)
    if not table.num_rows:
        raise BadInput(path, "rows", 0, f"a split needs prompts; {REBUILD}")
    return table.to_pylist()


def read_examples(path: Path) -> list[Example]:
    """The examples of one split, in file order. Raises `BadInput` as `read_rows` does."""
    return [
        Example(
            prompt=row["prompt"][0]["content"],
            demonstration=row["extra_info"]["demonstration"],
            answer=row["reward_model"]["ground_truth"],
            size=row["extra_info"]["size"],
        )
        for row in read_rows(path)
    ]


def check_splits(folder: Path) -> dict[str, int]:
    """Check that a task folder can be trained and tested on, and count its prompts by split.

    Raises:
        BadInput: a split is missing or damaged, or a prompt occurs twice, within a split or across two.
    """
    folder = Path(folder)
    prompts = {split: [example.prompt for example in read_examples(folder / f"{split}.parquet")] for split in SPLITS}
    if repeat := find_repeat(prompts):
        prompt, first, second = repeat
        where = "twice in this split" if first == second else f"in {first}.parquet as well"
        raise BadInput(folder / f"{second}.parquet", "prompt", prompt, f"remove it here: the same prompt is {where}.")
    return {split: len(texts) for split, texts in prompts.items()}


def _check_column(path: Path, field: pa.Field, schema: pa.Schema) -> None:
    found = schema.field(field.name).type if field.name in schema.names else None
    if found is None:
        raise BadInput(path, f"column {field.name}", None, f"add it; columns: {', '.join(SCHEMA.names)}.")
    wanted = field.type
    if pa.types.is_list(wanted):
        found = found.value_type if pa.types.is_list(found) or pa.types.is_large_list(found) else found
        wanted = wanted.value_type
    if pa.types.is_struct(wanted):
        missing = [part.name for part in wanted if not (pa.types.is_struct(found) and part.name in found.names)]
        if missing:
            key = f"column {field.name}.{missing[0]}"
            raise BadInput(path, key, None, f"add it; {field.name} holds: {', '.join(wanted.names)}.")


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
    longest = 0
    for split in ("train", "dev"):
        for example in read_examples(task_folder / f"{split}.parquet"):
            tokens = len(chat_ids(tokenizer, example.prompt))
            if tokens > task.max_prompt_tokens:
                hint = f"write at least {tokens}, the tokens of {example.prompt[:60]!r}..., or narrow params."
                raise BadInput(task.source, "max_prompt_tokens", task.max_prompt_tokens, hint)
            longest = max(longest, tokens)
    return longest
