"""Examples as Parquet rows with the columns verl reads, and the checks on a folder of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.errors import BadInput
from groupppo.tasks.base import Example
from groupppo.tasks.splits import SPLITS, find_repeat, prompt_sha256

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
