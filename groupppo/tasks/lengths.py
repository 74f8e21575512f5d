"""Prompts in the tokens of a model that a task was not built for."""

from pathlib import Path

from groupppo.config import Task
from groupppo.errors import BadInput
from groupppo.tasks.rows import read_examples
from groupppo.tasks.tokenizer import chat_ids


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
