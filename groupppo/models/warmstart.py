"""Supervised warm start: teach the form of an answer, then stop while reinforcement learning still has room.

All arms and seeds of a task begin from the one folder written here. Only demonstrations of the train split are seen;
the dev split decides when to stop; the test split is never read.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own abbreviation
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from groupppo.config import Task, WarmStart
from groupppo.errors import BadInput, RunFailed
from groupppo.models.hub import check_model_folder
from groupppo.models.sampling import Request, decode, end_tokens
from groupppo.records.hashing import LOGS
from groupppo.tasks.base import Example
from groupppo.tasks.reward import scorer
from groupppo.tasks.rows import check_prompt_lengths, measure_lengths, read_examples
from groupppo.tasks.tokenizer import chat_ids, save_tokenizer

WARMUP_STEPS = 50
# Batches sorted by length together: rows of one batch are then nearly as long as each other.
BUCKET = 8
# Sampling begins when the mean probability of a demonstration reaches this share of the target accuracy.
WORTH_SAMPLING = 0.5
IGNORED = -100


Row = dict[str, Any]
"""One dev evaluation after `step` updates. `loss`, nats per response token, and `demonstration_probability`, of a whole
response, are means over the batches since the row before; `sampled_accuracy` and `greedy_accuracy` are shares of dev
prompts answered right by one response, at temperature 1 and 0, None where nothing was sampled."""


def start_as_published(task: Task, model_folder: Path, task_folder: Path, out: Path) -> dict[str, Any]:
    """The start of a task without a warm start: the model as downloaded, for a trained one can do the task already.

    Returns:
        What `measure_lengths` says of the task with this model's tokenizer, and `lengths.json` beside the model.

    Raises:
        BadInput: the model folder or a split is missing, damaged or incomplete, or a training prompt is too long.
    """
    check_model_folder(model_folder, padded=True)
    check_prompt_lengths(task, task_folder, model_folder)
    shutil.copytree(model_folder, out, dirs_exist_ok=True)
    lengths = measure_lengths(task, task_folder, model_folder)
    (out / LOGS[2]).write_text(json.dumps(lengths, indent=2) + "\n", encoding="utf-8")
    return lengths


def warm_start(task: Task, model_folder: Path, task_folder: Path, out: Path, *, padded: bool = False) -> Row:
    """Train on demonstrations until sampled dev accuracy reaches the task's target; write the model into `out`.

    Every `eval_every` steps a row goes to `warmstart.jsonl`. A model answers right at least as often as it reproduces
    the demonstration, and in practice up to twice as often. So sampling, which is dear, waits until the mean
    probability of a demonstration has reached half the target, or for the last step. The same inputs and thread count
    give the same weights. `padded` is `check_model_folder`'s.

    Returns:
        The last row, the only one with greedy accuracy.

    Raises:
        BadInput: the model folder or a split is missing, damaged or incomplete, or the dev split is too small.
        RunFailed: `max_steps` came before the target, or accuracy is above `max_accuracy` when first sampled.
    """
    assert task.warmstart is not None
    check_model_folder(model_folder, padded=padded)
    train, dev = (read_examples(task_folder / f"{split}.parquet") for split in ("train", "dev"))
    wanted = task.warmstart.eval_prompts
    if wanted > len(dev):
        hint = f"write at most {len(dev)}, the prompts of the dev split, or raise splits.dev."
        raise BadInput(task.source, "warmstart.eval_prompts", wanted, hint)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    out.mkdir(parents=True, exist_ok=True)
    log = out / LOGS[0]
    with log.open("w", encoding="utf-8") as file:
        for row in _train(task, task.warmstart, model, tokenizer, train, dev[:wanted]):
            file.write(json.dumps(row) + "\n")
            file.flush()
            if fault := _fault(task.warmstart, row):
                raise RunFailed(f"{task.source}: warm start {fault}\n  log: {log}")
    model.save_pretrained(out)
    save_tokenizer(tokenizer, out)
    (out / LOGS[1]).write_text(json.dumps({"task": task.name} | row, indent=2) + "\n", encoding="utf-8")
    return row


def _fault(settings: WarmStart, row: Row) -> str:
    """What is wrong when a row shows too good a model, or when it is the last and not good enough; else nothing."""
    sampled = row["sampled_accuracy"]
    if sampled is not None and sampled > settings.max_accuracy:
        return (
            f"went past warmstart.max_accuracy {settings.max_accuracy}: sampled dev accuracy {sampled:.3f} at step "
            f"{row['step']}\n  hint: lower warmstart.learning_rate or eval_every."
        )
    if row["step"] == settings.max_steps and row["greedy_accuracy"] is None:
        return (
            f"did not reach warmstart.target_accuracy {settings.target_accuracy} within warmstart.max_steps "
            f"{settings.max_steps}: sampled dev accuracy {sampled:.3f}\n  hint: raise max_steps or lower the target."
        )
    return ""


def _accuracy(
    task: Task,
    seed: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    temperature: float,
) -> float:
    """Share of `examples` answered right by one response each; temperature 0 is greedy."""
    score = scorer(task)
    model.eval()
    prompts = [chat_ids(tokenizer, example.prompt) for example in examples]
    seeds = range(seed * len(prompts), (seed + 1) * len(prompts))
    requests = [
        Request(prompt, task.max_response_tokens, temperature, one) for prompt, one in zip(prompts, seeds, strict=True)
    ]
    responses = decode(model, requests, eos=end_tokens(model, tokenizer), pad=tokenizer.pad_token_id)
    texts = tokenizer.batch_decode([response.token_ids for response in responses], skip_special_tokens=True)
    return sum(score(text, example.answer) for text, example in zip(texts, examples, strict=True)) / len(examples)


def _train(
    task: Task,
    settings: WarmStart,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: list[Example],
    dev: list[Example],
) -> Iterator[Row]:
    """Take steps and yield a row at each evaluation, the last one when the target is reached or steps run out."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    batches = _batches(tokenizer, train, settings.batch_size, settings.seed)
    updates: list[tuple[float, float]] = []
    started, cpu_started = time.perf_counter(), time.process_time()
    for step in range(1, settings.max_steps + 1):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, step / WARMUP_STEPS)
        updates.append(_update(model, optimizer, next(batches)))
        if step % settings.eval_every and step != settings.max_steps:
            continue
        loss, probability = (sum(each) / len(updates) for each in zip(*updates, strict=True))
        sampled = greedy = None
        if probability >= WORTH_SAMPLING * settings.target_accuracy or step == settings.max_steps:
            sampled = _accuracy(task, settings.seed, model, tokenizer, dev, temperature=1.0)
        reached = sampled is not None and sampled >= settings.target_accuracy
        if reached:
            greedy = _accuracy(task, settings.seed, model, tokenizer, dev, temperature=0.0)
        yield {
            "step": step,
            "loss": loss,
            "demonstration_probability": probability,
            "sampled_accuracy": sampled,
            "greedy_accuracy": greedy,
            "seconds": round(time.perf_counter() - started, 3),
            "cpu_seconds": round(time.process_time() - cpu_started, 3),
        }
        if reached:
            return
        updates.clear()


def _update(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]
) -> tuple[float, float]:
    """One optimiser step.

    Returns:
        Loss in nats per response token, and the mean probability of sampling exactly a row's demonstration.
    """
    tokens, labels = batch[0][:, :-1], batch[1][:, 1:]
    model.train()
    # Padding is on the right, where causal attention never looks back at it: no attention mask is needed.
    logits = model(input_ids=tokens, use_cache=False).logits
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    loss = losses.sum() / (labels != IGNORED).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), losses.detach().view_as(labels).sum(1).neg().exp().mean().item()


def _batches(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of (tokens, labels), both (batch, length): reshuffled each pass, bucketed by length."""
    prompts = [chat_ids(tokenizer, example.prompt) for example in examples]
    encoded = tokenizer([example.demonstration for example in examples], add_special_tokens=False)["input_ids"]
    rows = [(prompt, [*ids, tokenizer.eos_token_id]) for prompt, ids in zip(prompts, encoded, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(order), BUCKET * batch_size):
            bucket = sorted(order[start : start + BUCKET * batch_size], key=lambda index: len(rows[index][1]))
            chunks = [bucket[first : first + batch_size] for first in range(0, len(bucket), batch_size)]
            for chunk in torch.randperm(len(chunks), generator=generator).tolist():
                yield _pad([rows[index] for index in chunks[chunk]], tokenizer.pad_token_id)


def _pad(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels (batch, length) of (prompt, response) rows, padded on the right."""
    width = max(len(prompt) + len(response) for prompt, response in rows)
    tokens = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    for line, (prompt, response) in enumerate(rows):
        begin, end = len(prompt), len(prompt) + len(response)
        tokens[line, :end] = torch.tensor(prompt + response)
        labels[line, begin:end] = torch.tensor(response)
    return tokens, labels
