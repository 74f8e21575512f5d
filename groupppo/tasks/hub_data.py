"""GSM8K and MATH as published on the Hugging Face hub, read through `datasets`, with exact answers.

Train and dev come from the published train split, by the hash of the prompt; test comes from the published test split.
Rows go in the order of their hashes, so that any number of them is a random choice that anyone draws again.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from groupppo.config import REPOSITORY, Task
from groupppo.config.allowed import is_allowed, require_inside
from groupppo.config.files import HubName, keyword_faults
from groupppo.errors import BadInput, ParamError
from groupppo.records.hub import download
from groupppo.tasks.base import Example
from groupppo.tasks.math_reward import BOX, MARK, boxed
from groupppo.tasks.rows import SHARES, prompt_sha256, split_of

Row = dict[str, Any]
ASK_MARK = f'Let\'s think step by step and output the final answer after "{MARK}".'
ASK_BOX = "Let's think step by step and put the final answer within \\boxed{}."
DATA_FILES = ["README.md", ".huggingface.yaml", "*.parquet", "*.json", "*.jsonl", "*.csv", "*.arrow"]
_CALCULATION = re.compile(r"<<[^<>]*>>")


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


def published_rows(
    task: Task,
    split: str,
    *,
    repo: str,
    revision: HubName,
    configs: Annotated[list[HubName], Field(min_length=1)],
    longest_prompt_bytes: Annotated[int, Field(ge=1, le=10**6)],
) -> Iterator[Row]:
    """Rows of a published split, "train" or "test"; the first time from the hub, then from its cache.

    The keywords are the task's `params`: the name of a data set on the hub or a folder that holds one, a commit or
    branch, the data set's configs, and the longest prompt that is taken from the rows.

    Raises:
        BadInput: the data set cannot be read.
    """
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    folder = Path(repo)
    if not _is_folder(repo):
        try:
            folder = download(repo, revision, kind="dataset", files=DATA_FILES)
        except ParamError as error:
            raise BadInput(task.source, "params.repo", error.value, error.hint) from error
    for config in configs:
        try:
            builder = load_dataset_builder(str(folder), config)
            _require_own_files(task, repo, folder, builder.config.data_files or {})
            builder.download_and_prepare()
            rows = builder.as_dataset(split=split)
        except (DatasetsError, ValueError, OSError) as error:
            hint = f"check the data set, its configs and splits: {str(error).splitlines()[0]}"
            raise BadInput(task.source, "params.repo", f"{repo}/{config}@{revision}", hint) from error
        yield from rows


def draw_published(task: Task) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """The splits of a task whose generator is one of FORMATS, and how many published rows were left out, by reason.

    Raises:
        BadInput: the first of `published_faults`, the data set cannot be read or has other columns or too few rows.
    """
    for fault in published_faults(task):
        raise fault
    left_out: Counter[str] = Counter()
    tested = _distinct(task, "test", left_out, seen=set())
    trained = _distinct(task, "train", left_out, seen={example.prompt for example in tested})
    pools: dict[str, list[Example]] = {"train": [], "dev": [], "test": tested}
    for example in trained:
        pools["dev" if split_of(example.prompt) == "dev" else "train"].append(example)
    for split in SHARES:
        if len(pools[split]) < task.splits[split]:
            hint = f"ask for at most {len(pools[split])}; left out: {dict(left_out)}."
            raise BadInput(task.source, f"splits.{split}", task.splits[split], hint)
    return {split: pools[split][: task.splits[split]] for split in SHARES}, dict(sorted(left_out.items()))


def published_faults(task: Task) -> Iterator[BadInput]:
    """What is wrong in the parameters of a published task, as far as it can be seen without the hub."""
    if task.reward != "math":
        yield BadInput(task.source, "reward", task.reward, f"write math: it judges the answers of {task.generator}.")
    faults = keyword_faults(task.source, "params", published_rows, task.params)
    yield from faults
    if faults:
        return
    repo = task.params["repo"]
    if _is_folder(repo):  # whose rows would be in samples that are published
        try:
            require_inside(Path(repo), task.source, "params.repo", REPOSITORY)
        except BadInput as fault:
            yield fault
    elif not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", repo, re.ASCII):
        hint = "write the name of a data set on the hub, such as openai/gsm8k, or a folder that holds one."
        yield BadInput(task.source, "params.repo", repo, hint)


def _distinct(task: Task, published: str, left_out: Counter[str], seen: set[str]) -> list[Example]:
    kept = []
    for row in published_rows(task, published, **task.params):
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


def _is_folder(repo: str) -> bool:
    return len(repo) < 1000 and "\0" not in repo and Path(repo).is_dir()


def _require_own_files(task: Task, repo: str, folder: Path, files: Mapping[str, Iterable[str]]) -> None:
    """A data set says in its README.md which files it has, and may say any file of the user or of a network."""
    # Files of the hub's cache are links to others of the same data set there.
    home = folder if _is_folder(repo) else folder.parents[1]
    for file in (str(file) for each in files.values() for file in each):
        if "://" not in file:
            require_inside(Path(file), task.source, "params.repo", home)
        elif not is_allowed("params.repo"):
            hint = f"name another data set: this one takes its rows from {file}."
            raise BadInput(task.source, "params.repo", repo, hint)
