"""Questions and answers of the user's own: a JSONL or Parquet file, one row a question.

A prompt's hash says its split, as for all tasks; the task's seed says which prompts of a split are taken.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from pydantic import Field

from groupppo.config import REPOSITORY, Task, beside, own_path
from groupppo.config.allowed import require_inside
from groupppo.config.files import Maybe, OwnPath, keyword_faults
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_lines
from groupppo.records.plain_parquet import refuse_bomb
from groupppo.tasks.base import Example
from groupppo.tasks.reward import scorer
from groupppo.tasks.rows import SHARES, split_of

QUESTION, ANSWER = "{question}", "{answer}"
_PLACE = re.compile(r"\{(question|answer)\}")
_Column = Annotated[str, Field(min_length=1, max_length=200)]
_Template = Annotated[str, Field(min_length=1, max_length=20_000)]


def file_rows(
    task: Task,
    *,
    path: OwnPath,
    question: _Column = "question",
    answer: _Column = "answer",
    prompt: _Template = QUESTION,
    demonstration: _Template = ANSWER,
    longest_prompt_bytes: Maybe[Annotated[int, Field(ge=1, le=10**6)]] = None,
) -> Iterator[tuple[str, Example]]:
    """Every row of the file with its place, such as "line 17"; the keywords are the task's `params`.

    Args:
        task: whose file it is.
        path: a .jsonl or .parquet file, from the benchmark's folder; in data/ there or in the repository.
        question, answer: the columns.
        prompt: what the user is told, with {question} in it.
        demonstration: a response that earns 1, with {answer} in it, and {question} if need be.
        longest_prompt_bytes: longer prompts are left out and counted.

    Raises:
        BadInput: a row has not these columns, or not text in them; an answer may be a whole number.
    """
    file = data_file(task)
    for place, row in _rows(file):
        if not isinstance(row, dict):
            raise BadInput(file, place, row, "write an object on each line.")
        texts = {name: _text(file, place, row, column) for name, column in (("question", question), ("answer", answer))}
        said = {name: _filled(template, texts) for name, template in (("p", prompt), ("d", demonstration))}
        yield place, Example(said["p"], said["d"], texts["answer"], len(texts["question"].split()))


def file_faults(task: Task) -> list[BadInput]:
    """What keeps a task of the generator `file` from being built."""
    faults = _param_faults(task)
    if not faults:
        try:
            draw_file(task)
        except BadInput as fault:
            faults.append(fault)
    return faults


def _param_faults(task: Task) -> list[BadInput]:
    faults = keyword_faults(task.source, "params", file_rows, task.params)
    prompt, shown = task.params.get("prompt", QUESTION), task.params.get("demonstration", ANSWER)
    for key, text, place in (("prompt", prompt, QUESTION), ("demonstration", shown, ANSWER)):
        if isinstance(text, str) and place not in text:
            faults.append(BadInput(task.source, f"params.{key}", text, f"write {place} where it belongs."))
    if task.reward == "reasoning_gym":
        hint = "write exact, math or python: it judges tasks of its own."
        faults.append(BadInput(task.source, "reward", task.reward, hint))
    return faults


def draw_file(task: Task) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """The splits of a task of the generator `file`, and how many rows were left out, by reason.

    Raises:
        BadInput: bad parameters, a row cannot be used, two give one question different answers, an answer cannot be
            earned, or there are too few rows.
    """
    for fault in _param_faults(task):
        raise fault
    met: dict[str, tuple[str, Example]] = {}
    again = long = 0
    file, score = data_file(task), scorer(task)
    for place, example in file_rows(task, **task.params):
        if len(example.prompt.encode()) > task.params.get("longest_prompt_bytes", float("inf")):
            long += 1
        elif example.prompt not in met:
            met[example.prompt] = place, example
            if score(example.demonstration, example.answer) != 1.0:
                hint = f"the reward {task.reward} gives nothing for it: change params.demonstration, reward or the row."
                raise BadInput(file, f"{place}, demonstration", example.demonstration, hint)
        else:
            first, known = met[example.prompt]
            if known.answer != example.answer:
                hint = f"remove one of the two: {first} answers the same prompt {known.answer!r}."
                raise BadInput(file, f"{place}, answer", example.answer, hint)
            again += 1
    found: dict[str, list[Example]] = {split: [] for split in SHARES}
    for _, example in sorted(met.values(), key=lambda kept: _turn(task.seed, kept[1].prompt)):
        found[split_of(example.prompt)].append(example)
    for split, share in SHARES.items():
        if len(found[split]) < task.splits[split]:
            hint = f"write at most {len(found[split])}: {share} % of the {len(met):,} prompts, by hash, or add rows."
            raise BadInput(task.source, f"splits.{split}", task.splits[split], hint)
    left_out = {"longer than longest_prompt_bytes": long, "prompt met before": again}
    return (
        {split: found[split][: task.splits[split]] for split in SHARES},
        {reason: number for reason, number in left_out.items() if number},
    )


def _turn(seed: int, prompt: str) -> str:
    return hashlib.sha256(f"{seed}\n{prompt}".encode()).hexdigest()


def data_file(task: Task) -> Path:
    """The task's file.

    Raises:
        BadInput: it is not there, or lies where no file of a task may, and nobody allows that.
    """
    file = own_path(task)
    assert file is not None
    require_inside(file, task.source, "params.path", REPOSITORY, beside(task.source, "data"))
    if file.suffix not in (".jsonl", ".parquet") or not file.is_file():
        hint = f"name a .jsonl or .parquet file that is there; looked for as {file}."
        raise BadInput(task.source, "params.path", task.params["path"], hint)
    return file


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        yield from read_lines(file, "write one JSON object a line, and no empty lines.")
        return
    refuse_bomb(file)
    with pq.ParquetFile(file) as table:
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


def _text(file: Path, place: str, row: dict[str, Any], column: str) -> str:
    if column not in row:
        hint = f"add it, or name another column in params: this one has {', '.join(row) or 'none'}."
        raise BadInput(file, f"{place}, {column}", None, hint)
    value = row[column]
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip():
        raise BadInput(file, f"{place}, {column}", "" if value is None else value, "write text that is not empty.")
    return text.strip()


def _filled(template: str, texts: dict[str, str]) -> str:
    """Braces of anything else, as in \\boxed{}, stay as they are."""
    return _PLACE.sub(lambda place: texts[place[1]], template)
