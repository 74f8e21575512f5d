"""Scores by item are those that lm-eval left, in the order of the items, or the reason why there are none."""

import json
from pathlib import Path

import numpy as np
import pytest

from groupppo.errors import BadInput
from groupppo.tables.schema import Keys
from groupppo.verdicts.item_scores import ItemScores

RUN = Keys("sorting", "tiny", "ppo", 1)
SCORES = [1.0, 0.0, 0.0, 1.0]


def write(
    results: Path, scores: dict[int, float], metric: str = "accuracy", name: str = "greedy", prompt: str = "sort 21"
) -> Path:
    file = results / "evals/sorting/tiny/ppo/seed1" / f"samples_sorting_{name}_2026.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"doc_id": place, "doc": {"prompt": prompt}, metric: score} for place, score in scores.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_scores_come_in_the_order_of_the_items_and_each_metric_has_a_file_of_its_own(tmp_path):
    write(tmp_path, {3: 1.0, 1: 0.0, 0: 1.0, 2: 0.0}, prompt='"accuracy": 0.25}')
    write(tmp_path, {0: 0.125, 1: 0.875}, "mean@8", "sampled")
    assert list(ItemScores(tmp_path).of(RUN, "accuracy", 0.5)) == SCORES
    assert list(ItemScores(tmp_path).of(RUN, "mean@8", 0.5)) == [0.125, 0.875]


def test_a_file_is_read_once_and_other_runs_are_told_apart(tmp_path):
    file = write(tmp_path, dict(enumerate(SCORES)))
    scores = ItemScores(tmp_path)
    before = scores.of(RUN, "accuracy", 0.5)
    file.unlink()
    assert np.array_equal(scores.of(RUN, "accuracy", 0.5), before)
    with pytest.raises(BadInput, match="no scores by item"):
        scores.of(RUN._replace(seed=2), "accuracy", 0.5)


def test_samples_of_another_evaluation_than_the_table_s_are_refused(tmp_path):
    write(tmp_path, dict(enumerate(SCORES)))
    with pytest.raises(BadInput, match=r"accuracy = 0\.5\n.*the table has 0\.51"):
        ItemScores(tmp_path).of(RUN, "accuracy", 0.51)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no scores by item"),
        ('{"doc_id": 0, "accuracy": 1.0}\n{"doc_id"', "not valid JSON"),
        ("[1, 2]\n", "write a JSON object"),
        ('{"doc_id": 0, "accuracy": 1.0}\n7\n', "write a JSON object"),
        ('{"doc_id": 0, "accuracy": 1.0}\n{"doc_id": 0, "accuracy": 0.0}\n', "twice"),
        ('{"doc_id": 0, "accuracy": 1.0}\n{"doc_id": 2, "accuracy": 0.0}\n', "items are missing"),
        ('{"doc_id": 0, "accuracy": "right"}\n', "a number"),
        ('{"doc_id": 0, "accuracy": 1.0}\n{"doc_id": 1}\n', "a number"),
        ('{"doc_id": 0, "accuracy": null}\n', "a number"),
    ],
)
def test_what_is_wrong_with_the_samples_is_named_with_a_file_below_the_results(tmp_path, text, reason):
    file = write(tmp_path, dict(enumerate(SCORES)))
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=reason) as caught:
        ItemScores(tmp_path).of(RUN, "accuracy", 1.0)
    assert caught.value.file.startswith("evals/sorting/tiny/ppo/seed1")
