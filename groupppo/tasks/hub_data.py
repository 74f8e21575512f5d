"""GSM8K and MATH as published on the Hugging Face hub, read through `datasets`, with exact answers.

Train and dev come from the published train split, by the hash of the prompt; test comes from the published test split.
Rows go in the order of their hashes, so that any number of them is a random choice that anyone draws again.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupppo.config import REPOSITORY, Task
from groupppo.config.allowed import is_allowed, require_inside
from groupppo.errors import BadInput, suggest
from groupppo.tasks.base import Example
from groupppo.tasks.math_reward import BOX, MARK, boxed
from groupppo.tasks.rows import SPLITS, prompt_sha256, split_of

Row = dict[str, Any]
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_folder(value: object) -> bool:
    return isinstance(value, str) and len(value) < 1000 and "\0" not in value and Path(value).is_dir()


PARAMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "repo": (
        "the name of a data set on the hub, such as openai/gsm8k, or a folder that holds one",
        lambda value: _is_name(value) or _is_folder(value),
    ),
    "revision": ("a commit, or a branch such as main", _is_name),
    "configs": (
        "a list of the data set's configs, such as [main]",
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_name, value)),
    ),
    "longest_prompt_bytes": ("a whole number from 1 to 10^6", lambda value: type(value) is int and 0 < value <= 10**6),
}
ASK_MARK = f'Let\'s think step by step and output the final answer after "{MARK}".'
ASK_BOX = "Let's think step by step and put the final answer within \\boxed{}."
_CALCULATION = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Drawn:
    """Examples by split, and how many published rows were left out, by reason; a row that was not asked for is none."""

    examples: dict[str, list[Example]]
    left_out: dict[str, int]


def gsm8k(row: Row) -> Example | None:
    """A row of openai/gsm8k: `answer` is a solution with calculations in << >> and the number after ####."""
    solution, mark, answer = row["answer"].rpartition(MARK)
    if not mark or not answer.strip():
        return None
    steps = len(_CALCULATION.findall(solution))
    demonstration = f"{_CALCULATION.sub('', solution).strip()}\n{MARK} {answer.strip()}"
    return Example(f"{row['question'].strip()} {ASK_MARK}", demonstration, answer.strip().replace(",", ""), steps)


def competition_math(row: Row) -> Example | None:
    """A row of EleutherAI/hendrycks_math: the answer is the last box of `solution`; levels go from "Level 1" to 5."""
    boxes = list(BOX.finditer(row["solution"]))
    answer = boxed(row["solution"][boxes[-1].start() :]) if boxes else None
    if answer is None or not answer.strip():
        return None
    level = re.search(r"\d", row["level"])
    size = int(level[0]) if level else 0
    return Example(f"{row['problem'].strip()} {ASK_BOX}", row["solution"], answer.strip(), size)


FORMATS: dict[str, Callable[[Row], Example | None]] = {"gsm8k": gsm8k, "math": competition_math}


def draw_published(task: Task) -> Drawn:
    """The splits of a task whose generator is one of FORMATS; the first time from the hub, then from its cache.

    Raises:
        BadInput: a parameter is unknown, missing or of the wrong type, the data set cannot be read or has other
            columns, or there are too few rows for a split.
    """
    for fault in params_faults(task):
        raise fault
    left_out: Counter[str] = Counter()
    tested = _distinct(task, "test", left_out, seen=set())
    trained = _distinct(task, "train", left_out, seen={example.prompt for example in tested})
    pools = {
        "train": [example for example in trained if split_of(example.prompt) != "dev"],
        "dev": [example for example in trained if split_of(example.prompt) == "dev"],
        "test": tested,
    }
    for split in SPLITS:
        if len(pools[split]) < task.splits[split]:
            hint = f"ask for at most {len(pools[split])}; left out: {dict(left_out)}."
            raise BadInput(task.source, f"splits.{split}", task.splits[split], hint)
    return Drawn({split: pools[split][: task.splits[split]] for split in SPLITS}, dict(sorted(left_out.items())))


def _distinct(task: Task, published: str, left_out: Counter[str], seen: set[str]) -> list[Example]:
    kept = []
    for row in _rows(task, published):
        try:
            example = FORMATS[task.generator](row)
        except KeyError as error:
            hint = f"name a data set with the column {error.args[0]}; this one has {', '.join(row)}."
            raise BadInput(task.source, "params.repo", task.params["repo"], hint) from error
        if example is None:
            left_out[f"{published}: no answer"] += 1
        elif len(example.prompt.encode()) > task.params["longest_prompt_bytes"]:
            left_out[f"{published}: longer than longest_prompt_bytes"] += 1
        elif example.prompt in seen:
            left_out[f"{published}: prompt met before"] += 1
        else:
            seen.add(example.prompt)
            kept.append(example)
    return sorted(kept, key=lambda example: prompt_sha256(example.prompt))


def _rows(task: Task, published: str) -> Iterator[Row]:
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    repo, revision = task.params["repo"], task.params["revision"]
    for config in task.params["configs"]:
        try:
            builder = load_dataset_builder(repo, config, revision=revision)
            _require_own_files(task, builder.config.data_files or {})
            builder.download_and_prepare()
            rows = builder.as_dataset(split=published)
        except (DatasetsError, ValueError, OSError) as error:
            hint = f"check name, revision, configs and network: {str(error).splitlines()[0]}"
            raise BadInput(task.source, "params.repo", f"{repo}/{config}@{revision}", hint) from error
        yield from rows


def _require_own_files(task: Task, files: Mapping[str, Iterable[str]]) -> None:
    """A data set says in its README.md which files it has, and may say any file of the user or of a network."""
    repo = task.params["repo"]
    for file in (str(file) for each in files.values() for file in each):
        if _is_folder(repo) and "://" not in file:
            require_inside(Path(file), task.source, "params.repo", Path(repo))
        elif not file.startswith(f"hf://datasets/{repo}@") and not is_allowed("params.repo"):
            hint = f"name another data set: this one takes its rows from {file}."
            raise BadInput(task.source, "params.repo", repo, hint)


def params_faults(task: Task) -> Iterator[BadInput]:
    """What is wrong in the parameters of a published task, as far as it can be seen without the hub."""
    for key in sorted(set(task.params) - set(PARAMS)):
        hint = f"unknown parameter; {suggest(key, PARAMS)}Known: {', '.join(PARAMS)}."
        yield BadInput(task.source, f"params.{key}", task.params[key], hint)
    if task.reward != "math":
        yield BadInput(task.source, "reward", task.reward, f"write math: it judges the answers of {task.generator}.")
    for key, (text, accepts) in PARAMS.items():
        value = task.params.get(key)
        if not accepts(value):
            yield BadInput(task.source, f"params.{key}", value, f"write {text}.")
    if _is_folder(task.params.get("repo")):  # whose rows would be in samples that are published
        try:
            require_inside(Path(task.params["repo"]), task.source, "params.repo", REPOSITORY)
        except BadInput as fault:
            yield fault
