"""Data and rewards of the user's own: what is taken, what is refused, by which line, and code that nobody allowed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.cli.check import check
from groupppo.config import Task, load_task, recorded
from groupppo.config.allowed import VARIABLE
from groupppo.errors import BadInput, RunFailed
from groupppo.tasks import lm_eval
from groupppo.tasks.build import build_task
from groupppo.tasks.file_data import draw_file
from groupppo.tasks.own_reward import _function, compute_score, of_card
from groupppo.tasks.reward import scorer, scorer_of_card
from groupppo.tasks.rows import read_examples, split_of

SPEC = {
    "name": "own",
    "title": "Own",
    "version": "1.0",
    "generator": "file",
    "params": {"path": "data/q.jsonl", "prompt": "{question} {x}?", "demonstration": "#{answer}"},
    "splits": {"train": 40, "dev": 3, "test": 3},
    "seed": 3,
    "max_prompt_tokens": 40,
    "max_response_tokens": 20,
}
ROWS = [{"question": f"{number} and 1", "answer": number + 1} for number in range(100)]
REWARD = "def score(response: str, answer: str) -> float:\n    return float(answer in response)\n"

Make = Callable[..., Task]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The task of rows, and of a reward where one is given, in a benchmark's folder."""

    def made(rows: list[Any] = ROWS, reward: str | None = None, **changes: Any) -> Task:
        for name in ("tasks", "data", "rewards"):
            (tmp_path / name).mkdir(exist_ok=True)
        text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
        (tmp_path / "data" / "q.jsonl").write_text(text)
        spec = SPEC | changes | {"params": SPEC["params"] | changes.get("params", {})}
        if reward is not None:
            (tmp_path / "rewards" / "mine.py").write_text(reward)
            spec = {"reward": "python", "reward_file": "mine.py"} | spec
        file = tmp_path / "tasks" / "own.yaml"
        file.write_text(yaml.safe_dump(spec))
        return load_task(file)

    return made


def test_rows_go_to_the_split_of_their_prompt_and_the_seed_chooses_among_them(make: Make, tmp_path: Path) -> None:
    task = make([*ROWS, ROWS[5], {"question": "long " * 30, "answer": "1"}], params={"longest_prompt_bytes": 60})
    build_task(task, tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["left_out"] == {"longer than longest_prompt_bytes": 1, "prompt met before": 1}
    assert len(card["data_sha256"]) == 64
    drawn = {split: read_examples(tmp_path / "out" / f"{split}.parquet") for split in SPEC["splits"]}
    for split, examples in drawn.items():
        assert len(examples) == SPEC["splits"][split]
        for example in examples:
            assert split_of(example.prompt) == split
            assert example.prompt.endswith(" and 1 {x}?")
            assert example.demonstration == f"#{example.answer}"
    other = draw_file(make(seed=4))[0]["train"]
    assert {each.prompt for each in other} != {each.prompt for each in drawn["train"]}
    assert draw_file(make(ROWS[::-1]))[0] == draw_file(make())[0]  # the order of the file says nothing
    table = tmp_path / "data" / "q.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    assert draw_file(make(params={"path": "data/q.parquet"}))[0] == drawn


@pytest.mark.parametrize(
    ("rows", "key", "hint"),
    [
        (["{", *ROWS], "line 1", "JSON"),
        ([ROWS[0], "", *ROWS], "line 2", "empty lines"),
        ([*ROWS, [1]], "line 101", "an object"),
        ([*ROWS, {"question": "x"}], "line 101, answer", "this one has question"),
        ([{"question": " ", "answer": "x"}, *ROWS], "line 1, question", "not empty"),
        ([{"question": "x", "answer": None}, *ROWS], "line 1, answer", "not empty"),
        ([{"question": "x", "answer": 0.5}, *ROWS], "line 1, answer", "text"),
        ([{"question": "x", "answer": True}, *ROWS], "line 1, answer", "text"),
        ([*ROWS, ROWS[7] | {"answer": "9"}], "line 101, answer", "line 8 answers the same prompt '8'"),
        ([{"question": "x", "answer": "two words"}, *ROWS], "line 1, demonstration", "reward exact"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(make: Make, tmp_path: Path, rows: list, key: str, hint: str) -> None:
    with pytest.raises(BadInput) as error:
        draw_file(make(rows))
    assert (error.value.file, error.value.key) == (str(tmp_path / "data" / "q.jsonl"), key)
    assert hint in error.value.hint
    assert check(tmp_path / "tasks" / "own.yaml")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"params": {"path": "data/none.jsonl"}}, "params.path"),
        ({"params": {"path": "data"}}, "params.path"),
        ({"params": {"path": "data/../tasks/own.yaml"}}, "params.path"),
        ({"params": {"path": "/etc/hostname"}}, "params.path"),
        ({"params": {"path": "data/link.jsonl"}}, "params.path"),
        ({"params": {"path": "data/q\n.jsonl"}}, "params.path"),
        ({"params": {"prompt": "no place"}}, "params.prompt"),
        ({"params": {"demonstration": "#7"}}, "params.demonstration"),
        ({"params": {"questions": "q"}}, "params.questions"),
        ({"reward": "reasoning_gym"}, "reward"),
        ({"reward": "python"}, "reward_file"),
        ({"reward_file": "mine.py"}, "reward_file"),
        ({"reward": "python", "reward_file": "../mine.py"}, "reward_file"),
        ({"reward": "python", "reward_file": "none.py"}, "reward_file"),
        ({"reward_text": "x"}, "reward_text"),
        ({"splits": {"train": 40, "dev": 3, "test": 50}}, "splits.test"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_a_remedy(make: Make, tmp_path: Path, changes: dict, key: str) -> None:
    task, elsewhere = make(), tmp_path / "q.jsonl"
    assert not check(task.source)
    elsewhere.write_text((tmp_path / "data" / "q.jsonl").read_text())
    (tmp_path / "data" / "link.jsonl").symlink_to(elsewhere)
    spec = SPEC | changes | {"params": SPEC["params"] | changes.get("params", {})}
    task.source.write_text(yaml.safe_dump(spec))
    found = check(task.source)
    assert [fault.key for fault in found] == [key]
    assert found[0].hint


def test_data_elsewhere_is_read_where_that_is_allowed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "params.path")
    make()
    (tmp_path / "data" / "q.jsonl").rename(tmp_path / "q.jsonl")
    spec = SPEC | {"params": SPEC["params"] | {"path": str(tmp_path / "q.jsonl")}}
    (tmp_path / "tasks" / "own.yaml").write_text(yaml.safe_dump(spec))
    assert not check(tmp_path / "tasks" / "own.yaml")


def test_one_function_judges_in_training_in_evaluation_and_in_a_warm_start(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "reward_file")
    task, out = make(reward=REWARD), tmp_path / "out"
    assert not check(task.source)
    build_task(task, out)
    card = json.loads((out / "card.json").read_text())
    assert card["spec"]["reward_text"] == REWARD
    assert recorded(task)["reward_text"] == REWARD  # which makes the task stale when it changes
    (tmp_path / "rewards" / "mine.py").write_text("broken")  # what was built goes on
    doc = {**lm_eval.load_test(out / "test.parquet", reward="python")["test"][0], "answer": "7"}
    verl = {"card": str(out / "card.json"), "sha256": card["reward_sha256"]}
    for text, earned in (("it is 7", 1.0), ("it is 8", 0.0)):
        assert compute_score("own", text, "7", {}, **verl) == {"score": earned, "acc": earned}
        assert lm_eval.process_greedy(doc, [[text]]) == {"accuracy": earned}
        assert scorer(task)(text, "7") == scorer_of_card(out / "card.json")(text, "7") == earned
    assert doc["reward"] == f"python {card['reward_sha256']}"
    with pytest.raises(BadInput, match=r"mine\.py has changed"):
        of_card(out / "card.json", "0" * 64)


def test_code_that_nobody_allows_is_not_run(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"open({'ran'!r}, 'w')\n{REWARD}"
    monkeypatch.chdir(tmp_path)
    task, out = make(reward=code), tmp_path / "out"
    monkeypatch.setenv(VARIABLE, "reward_file")
    build_task(task, out)
    assert (tmp_path / "ran").is_file()  # where it is allowed, it runs
    sha256 = json.loads((out / "card.json").read_text())["reward_sha256"]
    (tmp_path / "ran").unlink()
    _function.cache_clear()
    monkeypatch.setenv(VARIABLE, "params.path")
    assert [fault.key for fault in check(task.source)] == ["reward_file"]
    assert "--config allow=reward_file" in check(task.source)[0].hint
    for judged in (
        lambda: build_task(task, out),
        lambda: scorer(task),
        lambda: scorer_of_card(out / "card.json"),
        lambda: compute_score("own", "x", "x", card=str(out / "card.json"), sha256=sha256),
        lambda: lm_eval.load_test(str(out / "test.parquet"), reward="python"),
    ):
        with pytest.raises(BadInput, match="reward_file"):
            judged()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("def score(", "file"),
        ("import no_such_package", "file"),
        ("raise SystemExit", "file"),
        ("score = 1", "score"),
        ("def reward(response, answer):\n    return 1.0\n", "score"),
        ("def score(response, answer):\n    return open('/a/b/c')\n", "reward_file"),
        ("  \n", "file"),
        ("# \x0c\n", "file"),
        (f"# {'x' * 20_000}\n", "size"),
    ],
)
def test_a_reward_that_cannot_judge_is_named(make: Make, text: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reward_file")
    source = make(reward=REWARD).source
    assert not check(source)
    (source.parents[1] / "rewards" / "mine.py").write_text(text)
    found = check(source)
    assert [fault.key for fault in found] == [key]
    assert found[0].hint


@pytest.mark.parametrize("returned", ["0.5", "None", "float('nan')", "'1'", "2"])
def test_no_response_earns_another_reward_than_0_or_1(returned: str) -> None:
    with pytest.raises(BadInput, match="return 0 or 1"):
        _function(f"def score(response, answer):\n    return {returned}\n", "mine.py")("x", "y")


def test_an_exception_of_a_reward_ends_the_run_with_what_it_was_asked() -> None:
    with pytest.raises(RunFailed, match=r"mine\.py: score ended with ZeroDivisionError.*'y'.*'x'"):
        _function("def score(response, answer):\n    return 1 / 0\n", "mine.py")("x", "y")


def test_a_reward_is_no_link_out_of_its_folder(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text is published."""
    task = make(reward=REWARD)
    file = tmp_path / "rewards" / "mine.py"
    file.rename(tmp_path / "secret")
    file.symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="reward_file"):
        load_task(task.source)
