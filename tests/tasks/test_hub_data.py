"""GSM8K and MATH, on hand-written rows in the format of the published data sets, read by `datasets` from a folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY, Task, load_task
from groupppo.config.allowed import VARIABLE
from groupppo.errors import BadInput
from groupppo.tasks import hub_data
from groupppo.tasks.build import build_task
from groupppo.tasks.hub_data import competition_math, draw_published, gsm8k
from groupppo.tasks.math_reward import score
from groupppo.tasks.rows import read_examples

TASKS = REPOSITORY / "benchmarks" / "tasks"
GSM8K = {
    "question": "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes. How much did she earn?",
    "answer": "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\nFor 50 minutes: 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10",
}
MATH = {
    "problem": r"What is the value of $\frac{3}{4} - \frac{1}{4}$?",
    "level": "Level 2",
    "type": "Prealgebra",
    "solution": r"We get $\boxed{x}$ at first, and then $\frac{2}{4} = \boxed{\frac{1}{2}}$.",
}


def test_a_gsm8k_row_gives_the_number_after_the_mark_and_a_solution_without_calculations() -> None:
    example = gsm8k(GSM8K)
    assert example is not None
    assert example.prompt.startswith(GSM8K["question"])
    assert example.prompt.endswith('output the final answer after "####".')
    assert (example.answer, example.size) == ("10", 2)
    assert "<<" not in example.demonstration
    assert score(example.demonstration, example.answer) == 1.0
    assert score(example.demonstration, "11") == 0.0
    thousands = gsm8k(GSM8K | {"answer": "So it is\n#### 2,125"})
    assert thousands is not None
    assert thousands.answer == "2125"
    assert gsm8k(GSM8K | {"answer": "no mark"}) is None
    assert gsm8k(GSM8K | {"answer": "nothing after it ####"}) is None


def test_a_math_row_gives_the_last_box_of_its_solution() -> None:
    example = competition_math(MATH)
    assert example is not None
    assert (example.answer, example.size) == (r"\frac{1}{2}", 2)
    assert score(example.demonstration, example.answer) == 1.0
    assert score(r"\boxed{0.5}", example.answer) == 1.0
    assert score(r"\boxed{x}", example.answer) == 0.0
    without_braces = competition_math(MATH | {"solution": r"so $x + 1 = \boxed 9$."})
    assert without_braces is not None
    assert without_braces.answer == "9"
    unknown = competition_math(MATH | {"level": "Level ?"})
    assert unknown is not None
    assert unknown.size == 0
    assert competition_math(MATH | {"solution": "It is 1/2."}) is None


Publish = Callable[..., Task]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Write a data set as a folder with two configs and give the task that reads it, without a network."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "params.repo")  # outside of the repository

    def make(train: list[dict], test: list[dict], **splits: int) -> Task:
        home = tmp_path / "published"
        for config, part in (("one", slice(None, None, 2)), ("two", slice(1, None, 2))):
            (home / config).mkdir(parents=True)
            for name, rows in (("train", train), ("test", test)):
                lines = [json.dumps(row) + "\n" for row in rows[part]]
                (home / config / f"{name}.jsonl").write_text("".join(lines))
        files = "".join(
            f"- config_name: {config}\n  data_files:\n"
            f"  - {{ split: train, path: {config}/train.jsonl }}\n  - {{ split: test, path: {config}/test.jsonl }}\n"
            for config in ("one", "two")
        )
        (home / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
        params = {"repo": str(home), "revision": "main", "configs": ["one", "two"], "longest_prompt_bytes": 300}
        asked = {"train": 40, "dev": 3, "test": 8} | splits
        return replace(load_task(TASKS / "gsm8k.yaml"), params=params, splits=asked)

    return make


def rows(first: int, last: int) -> list[dict]:
    return [
        {"question": f"What is {n} and {n}?", "answer": f"It is <<{n}+{n}={2 * n}>>.\n#### {2 * n}"}
        for n in range(first, last)
    ]


def test_splits_keep_to_the_published_ones_and_count_what_is_left_out(publish: Publish, tmp_path: Path) -> None:
    train, test = rows(0, 80), rows(500, 512)
    bad = [{"question": "No answer?", "answer": "none"}, {"question": "Long? " * 60, "answer": "#### 1"}]
    task = publish([*train, test[0], train[5], *bad], test)
    drawn, left_out = draw_published(task)
    questions = {row["question"] for row in test}
    for split, examples in drawn.items():
        assert len(examples) == task.splits[split]
        assert all((example.prompt.split("?")[0] + "?" in questions) == (split == "test") for example in examples)
    assert left_out == {
        "train: longer than longest_prompt_bytes": 1,
        "train: no answer": 1,
        "train: prompt met before": 2,
    }
    build_task(task, tmp_path / "task")
    card = json.loads((tmp_path / "task" / "card.json").read_text())
    assert card["left_out"] == left_out
    assert card["spec"]["params"]["revision"] == "main"
    for example in read_examples(tmp_path / "task" / "test.parquet"):
        assert score(example.demonstration, example.answer) == 1.0


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"splits": {"train": 40, "dev": 3, "test": 100}}, "splits.test"),
        ({"params": {"configs": ["three"]}}, "params.repo"),
        ({"params": {"repo": "no/such/folder"}}, "params.repo"),
        ({"generator": "math"}, "params.repo"),
        ({"params": {"longest_prompt_bytes": None}}, "params.longest_prompt_bytes"),
        ({"params": {"config": ["one"]}}, "params.config"),
    ],
)
def test_a_data_set_that_does_not_fit_is_an_error_that_names_the_key(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, changes: dict, key: str
) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    task = publish(rows(0, 80), rows(500, 512))
    draw_published(task)
    params = task.params | changes.get("params", {})
    wrong = replace(task, **(changes | {"params": params}))
    with pytest.raises(BadInput) as error:
        draw_published(wrong)
    assert error.value.key == key
    assert error.value.file == str(task.source)
    assert error.value.hint


@pytest.mark.parametrize("way", ["its own", "by name", "by a link"])
def test_a_data_set_of_the_repository_takes_rows_from_no_file_elsewhere(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Its README.md says which files it has."""
    task = publish(rows(0, 80), rows(500, 512))
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(hub_data, "REPOSITORY", tmp_path)
    home, secret = Path(task.params["repo"]), tmp_path / "secret.jsonl"
    named, readme = home / "one" / "train.jsonl", home / "README.md"
    secret.write_text(named.read_text())
    if way == "by name":
        readme.write_text(readme.read_text().replace("one/train.jsonl", str(secret)))
    if way == "by a link":
        named.unlink()
        named.symlink_to(secret)
    if way == "its own":
        assert draw_published(task)[0]["train"]
        return
    with pytest.raises(BadInput, match=r"params\.repo = .*(secret|train)\.jsonl"):
        draw_published(task)
