"""A task for lm-evaluation-harness: its YAML files and the functions they name.

The files hold no path, so that their hash is the same everywhere. The prompts are named when the harness is called:

    # with a generation_config.json in FOLDER that holds nothing but ids, as `groupppo.evaluate` reads it
    lm_eval run --model hf --model_args pretrained=FOLDER,dtype=float32 --include_path OUT/lm_eval \\
        --tasks sorting_greedy --apply_chat_template --metadata '{"test_file": "TASK/test.parquet"}'
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from groupppo.config import Task
from groupppo.tasks.reward import MODULES

TEMPLATE = """\
task: {name}
custom_dataset: !function groupppo.tasks.lm_eval.load_test
test_split: test
output_type: generate_until
num_fewshot: 0
doc_to_text: prompt
doc_to_target: answer
generation_kwargs:
  until: []
  do_sample: {do_sample}
  temperature: {temperature}
{sampling}  max_gen_toks: {max_gen_toks}
repeats: {repeats}
filter_list:
  - name: responses
    filter:
      - function: take_first_k
        k: {repeats}
process_results: !function groupppo.tasks.lm_eval.{process}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata:
  version: "{version}"
{reward}{first}"""
# Greedy decoding refuses these; without them sampling would be cut to the model's own default of 50 tokens.
FULL_DISTRIBUTION = "  top_k: 0\n  top_p: 1.0\n"
_OWN: dict[str, Callable[[str, str], float]] = {}
"""Rewards of the user's that `load_test` has found, by what their rows have in the column `reward`."""


def write_yaml(task: Task, folder: Path, repeats: int, sampled_prompts: int, temperature: float) -> dict[str, str]:
    """Write `<task>_greedy.yaml` and `<task>_sampled.yaml` into `folder`.

    Args:
        task: generation stops at the model's end token, or at the task's longest response.
        folder: made if missing.
        repeats: k, sampled responses per prompt.
        sampled_prompts: test prompts that are sampled, the first ones; greedy accuracy takes all.
        temperature: of the sampled responses.

    Returns:
        The metric of each lm-eval task by the task's name: ``accuracy`` (greedy) and ``mean@k`` (sampled).
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {f"{task.name}_greedy": "accuracy", f"{task.name}_sampled": f"mean@{repeats}"}
    for name, metric in metrics.items():
        sampled = metric != "accuracy"
        text = TEMPLATE.format(
            name=name,
            do_sample=str(sampled).lower(),
            temperature=float(temperature) if sampled else 0.0,
            sampling=FULL_DISTRIBUTION if sampled else "",
            max_gen_toks=task.max_response_tokens,
            repeats=repeats if sampled else 1,
            process="process_sampled" if sampled else "process_greedy",
            metric=metric,
            version=task.version,
            reward="" if task.reward == "exact" else f"  reward: {task.reward}\n",
            first=f"  first: {sampled_prompts}\n" if sampled else "",
        )
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return metrics


def load_test(test_file: str, first: int | None = None, reward: str = "exact", **metadata: object) -> dict[str, Any]:
    """The test split, or its `first` prompts, as lm-eval wants it: in memory, not in the cache of `datasets`.

    `reward`, by which responses are judged, is a column unless it is exact; a reward of the user's is that of the card
    beside the file. `metadata` is what else lm-eval knows.
    """
    from datasets import Dataset  # only the harness needs it, and it takes a second to import

    from groupppo.tasks.rows import read_examples

    if reward == "python":
        from groupppo.tasks.own_reward import of_card

        sha256, function = of_card(Path(test_file).with_name("card.json"))
        reward = f"python {sha256}"
        _OWN[reward] = function
    judged = {} if reward == "exact" else {"reward": reward}
    examples = read_examples(Path(test_file))[:first]
    rows = [{"prompt": each.prompt, "answer": each.answer, "size": each.size} | judged for each in examples]
    return {"test": Dataset.from_list(rows)}


def process_greedy(doc: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Training's reward of the one greedy response to `doc`."""
    return {"accuracy": _mean(doc, results[0][:1])}


def process_sampled(doc: dict[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean of training's reward over the k sampled responses to `doc`."""
    return {f"mean@{len(results[0])}": _mean(doc, results[0])}


def _mean(doc: dict[str, Any], responses: Sequence[str]) -> float:
    reward = doc.get("reward", "exact")
    score = _OWN[reward] if reward in _OWN else import_module(MODULES[reward]).score
    return sum(score(text, doc["answer"]) for text in responses) / len(responses)
