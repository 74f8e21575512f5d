"""Contents that a stranger may send: each is refused, or read, in bounded time and memory, and none is a traceback.

A file of each format is read as it is (the control), then with more than a hundred contents made to cost time or
memory, or to be taken for something else. More of YAML is in tests/records/test_plain_yaml.py, archives are in
tests/publish/test_publish_archive.py.
"""

import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from groupppo.config import KINDS, REPOSITORY, load_benchmark
from groupppo.config.benchmark import MOST_CELLS, MOST_RUNS
from groupppo.config.files import MOST_FAULTS, form_faults
from groupppo.errors import BadInput
from groupppo.records import decode, plain_parquet
from groupppo.records.plain_json import DEEPEST, LARGEST, MOST_VALUES, read_json
from groupppo.records.plain_parquet import refuse_bomb
from groupppo.records.plain_yaml import LARGEST as LARGEST_YAML
from groupppo.records.plain_yaml import MOST_NODES, read_yaml
from groupppo.records.seal import scrub_record
from groupppo.studies.shared.study import find_study
from groupppo.tables.keys import Keys
from groupppo.tasks import gym_reward
from groupppo.tasks.math_reward import extract_answer
from groupppo.verdicts.item_scores import ItemScores

SECONDS, MEMORY = 10, 1 << 30


def bounded(read: Callable[[], Any]) -> Any:
    """What is read, or the error; of CPU it may take SECONDS, and MEMORY more than was ever used before."""
    began, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: Any = None
    try:
        found = read()
    except BadInput as error:
        found = error
    assert time.process_time() - began < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) * 1024 < MEMORY
    if isinstance(found, BadInput):
        assert found.hint
        assert len(str(found).encode()) < 2000  # which can be printed, and read
    return found


JSON: dict[str, str | bytes] = {
    "nothing": "",
    "blanks": " " * 1_000_000,
    "an integer of 400 digits": f'{{"a": {"9" * 400}}}',
    "an integer of 5,000 digits": f'{{"a": {"9" * 5000}}}',
    "a negative one": f'{{"a": -{"9" * 400}}}',
    "a float beyond all floats": '{"a": 1e400}',
    "a float of 400 digits": f'{{"a": {"9" * 400}.5}}',
    "NaN": '{"a": NaN}',
    "minus infinity": '[-Infinity]',
    "a key written twice": '{"a": 1, "a": 2}',
    "twice by an escape": '{"a": 1, "\\u0061": 2}',
    "twice and deep": '[[{"a": {"b": 1, "b": 1}}]]',
    "the first half of a pair": '{"a": "\\ud83d"}',
    "half a pair in a key": '{"\\ud800": 1}',
    "one level too many": "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
    "900 levels": "[" * 900 + "]" * 900,
    "100,000 levels": "[" * 100_000,
    "100,000 levels of objects": '{"a":' * 100_000,
    "mixed levels": '[{"a":' * 40 + "1" + "}]" * 40,
    "too many values": "[" + "1," * MOST_VALUES + "1]",
    "too many lists": "[" + "[]," * MOST_VALUES + "1]",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "Latin-1": b'{"a": "\xe9"}',
    "a surrogate in UTF-8": b'["\xed\xa0\x80"]',
    "NUL": b'{"a": "\0"}',
    "two values": "{} {}",
    "an open text": '["' + "x" * 100_000,
    "too large": b"[" + b" " * LARGEST + b"]",
}  # fmt: skip
JSON_READ = [
    "{}",
    "[1.5, null, true]",
    '{"a": "\\ud83d\\ude00"}',
    '{"a:b": {"c": "::", "a:b": [{"c": 1}, {"c": 2}]}}',
    f"[{'9' * 300}]",
    "[" * DEEPEST + "]" * DEEPEST,
    '"é"',
]


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_json_is_refused(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "any.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = bounded(lambda: read_json(file, "hint"))
    assert isinstance(found, BadInput)
    assert found.file == str(file)


def test_json_that_means_what_it_says_is_read(tmp_path: Path) -> None:
    file = tmp_path / "any.json"
    for content in JSON_READ:
        file.write_text(content, encoding="utf-8")
        assert read_json(file, "hint") == json.loads(content)
    # The most expensive that is read: every value an object of its own, every key another.
    many = MOST_VALUES // 6
    file.write_text("[" + ",".join(f'{{"{i:x}":{{}}}}' for i in range(many // 2)) + "]")
    assert len(bounded(lambda: read_json(file, "hint"))) == many // 2


YAML = {
    "a character beyond Unicode": 'a: "\\UFFFFFFFF"\n',
    "half a pair by an escape": 'a: "\\ud800"\n',
    "a version of 5,000 digits": f"%YAML {'1' * 5000}.1\n---\na: 1\n",
    "a directive": "%TAG ! tag:x,2000:\n---\na: 1\n",
    "an unknown directive": "%X y\n---\na: 1\n",
    "a tag that is no UTF-8": "a: !<%ff%fe> 1\n",
    "null that is text": f"a: !!null {'x' * 30_000}\n",
    "a long key": f"{'x' * 200_000}: 1\n",
    "a long key with a mark": f"? {'x' * 200_000}\n: 1\n",
    "many keys": "".join(f"k{i}: 1\n" for i in range(MOST_NODES)),
    "keys in keys": "? " * 50_000,
    "lists in lists": "- " * 50_000,
    "mappings in lists": "[{" * 3000,
    "indented": "".join(" " * i + "a:\n" for i in range(1000)),
    "commas": f"[{',' * 200_000}\n",
    "colons": f"a{':' * 200_000}\n",
    "tabs": "a:\n" + "\t" * 200_000 + "b",
    "an open quote": "a: '" + "\n" * 200_000,
    "escapes": 'a: "' + "\\x41" * 50_000 + '"\n',
    "a block of lines": "a: |\n" + "  x\n" * 50_000,
    "documents": "a: 1\n" + "---\n" * 200_000,
    "too large by blanks": "a: 1\n" + " " * LARGEST_YAML,
}


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_yaml_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(content)
    assert isinstance(bounded(lambda: read_yaml(file)), BadInput)


def test_comments_and_blank_lines_are_read_in_time(tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    for line in ("\n", f"#{'x' * 70}\n"):
        file.write_text("a: 1\n" + line * ((LARGEST_YAML // 4) // len(line)))
        assert bounded(lambda: read_yaml(file)) == {"a": 1}


WRONG: dict[str, Any] = {
    "items that cannot be sorted": [item for i in range(3000) for item in (i, f"s{i}")],
    "objects": [{"a": i} for i in range(3000)],
    "many unknown keys": {f"k{i}": 1 for i in range(7000)},
    "one number many times": [1] * 7000,
    "long texts": ["x" * 20_000] * 50,
    "hyphens": "a-" * 9000 + "!",
    "letters": "a" * 19_000 + "!",
    "blanks": " " * 20_000,
}


def test_a_page_of_names_asks_for_no_more_runs_than_can_be_listed(tmp_path: Path) -> None:
    """Every reader of a bundle lists the runs of its matrix."""
    home = tmp_path / "benchmarks"
    shutil.copytree(REPOSITORY / "benchmarks", home)
    task, tasks = (home / "tasks" / "sorting.yaml").read_text(), [f"sorting{i}" for i in range(20)]
    for name in tasks:
        (home / "tasks" / f"{name}.yaml").write_text(task.replace("name: sorting", f"name: {name}"))
    matrix = yaml.safe_load((home / "quick.yaml").read_text()) | {"tasks": tasks}
    one = len(tasks) * len(matrix["models"]) * len(matrix["arms"])
    for seeds, taken in ((MOST_RUNS // one, True), (MOST_RUNS // one + 1, False)):
        (home / "quick.yaml").write_text(yaml.safe_dump(matrix | {"seeds": list(range(seeds))}))
        found = bounded(lambda: load_benchmark(home / "quick.yaml"))
        assert taken != (isinstance(found, BadInput) and found.key == "seeds"), found
    model, models = (home / "models" / "tiny.yaml").read_text(), [f"tiny{i}" for i in range(MOST_CELLS // 20 + 1)]
    for name in models:
        (home / "models" / f"{name}.yaml").write_text(model.replace("name: tiny", f"name: {name}"))
    for several in (models[1:], models):
        (home / "quick.yaml").write_text(yaml.safe_dump(matrix | {"models": several}))
        found = bounded(lambda: load_benchmark(home / "quick.yaml"))
        assert (several == models) == (isinstance(found, BadInput) and found.key == "tasks"), found


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_form_finds_no_more_faults_than_somebody_reads_and_in_time(wrong: Any) -> None:
    keys = ["seeds", "studies", "arms", "models", "name", "title", "description", "verl", "params", "claims", "stock"]
    for form in KINDS.values():
        for data in (wrong, dict.fromkeys(keys, wrong)):
            found = bounded(lambda form=form, data=data: form_faults(Path("any.yaml"), form, data))
            assert 0 < len(found) <= MOST_FAULTS * (MOST_FAULTS + 1)


@pytest.mark.parametrize(
    ("seeds", "faults"), [([1, 2], 0), ([1, 1], 1), ([1, 1.0], 1), ([1, True], 1), ([True, True], 2), (["1", 1], 1)]
)
def test_items_are_the_same_where_json_says_so(seeds: list[Any], faults: int) -> None:
    data = read_yaml(REPOSITORY / "benchmarks" / "quick.yaml") | {"seeds": seeds}
    assert len(form_faults(REPOSITORY / "benchmarks" / "quick.yaml", KINDS["benchmark"], data)) == faults


def one(values: Any, rows: int = 1) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([values]))


PLAIN = {"use_dictionary": False}
TABLES: dict[str, tuple[Callable[[], pa.Table], dict[str, Any]]] = {
    "zeros packed by zstd": (lambda: pa.table({"a": np.zeros(4_000_000)}), PLAIN | {"compression": "zstd"}),
    "zeros packed by gzip": (lambda: pa.table({"a": np.zeros(2_000_000)}), PLAIN | {"compression": "gzip"}),
    "one number": (lambda: pa.table({"a": np.zeros(4_000_000, dtype=np.int64)}), {}),
    "one long text": (lambda: pa.table({"a": one("x" * 900_000, 10_000)}), {"compression": "zstd"}),
    "one long text as it is": (lambda: pa.table({"a": one("x" * 900_000, 10_000)}), {"compression": "none"}),
    "texts that repeat the last": (
        lambda: pa.table({"a": pa.array(["x" * 100_000] * 1500)}),
        PLAIN | {"column_encoding": {"a": "DELTA_BYTE_ARRAY"}},
    ),
    "one long list": (lambda: pa.table({"a": pa.array([[0.0] * 20_000_000], pa.list_(pa.float32()))}), {}),
    "many empty rows": (lambda: pa.table({"a": pa.nulls(4_000_000)}), {}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "options"), TABLES.values(), ids=TABLES)
def test_a_table_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, make: Any, options: Any) -> None:
    pq.write_table(make(), tmp_path / "any.parquet", **options)
    assert isinstance(bounded(lambda: refuse_bomb(tmp_path / "any.parquet")), BadInput)


def test_a_table_is_read_though_somebody_ended_the_process_that_reads_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "any.parquet")
    for _ in range(2):
        assert refuse_bomb(tmp_path / "any.parquet").names == ["a"]
        process = plain_parquet._READER._process
        assert process is not None
        process.kill()
        process.wait()


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    chance = random.Random(17)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(chance.choice([1, 1, 2, 5])):
            place, kind = chance.randrange(len(data)), chance.randrange(3)
            if kind == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[place : place + chance.randrange(1, 20)]
            else:
                data[place:place] = chance.randbytes(chance.randrange(1, 8))
        yield bytes(data)


def test_a_damaged_table_ends_another_process_and_never_this_one(tmp_path: Path) -> None:
    """Some damage ends a process in Arrow's own code, where no Python can catch it."""
    file, refused = tmp_path / "any.parquet", []
    lists = pa.array([[0.5], [1.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"], "c": [None, "é"], "d": lists}), file)
    assert refuse_bomb(file).names == ["a", "b", "c", "d"]
    for content in damaged(file.read_bytes(), 300):
        file.write_bytes(content)
        found = bounded(lambda: refuse_bomb(file))
        refused += [str(found.value)] if isinstance(found, BadInput) else []
    assert len(refused) > 150
    assert any("Abort" in said or "Segmentation" in said for said in refused), set(refused)


def test_a_table_that_takes_more_memory_or_time_than_it_may_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "any.parquet"
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(3_000_000)}), file)
    assert refuse_bomb(file).names == ["a"]
    monkeypatch.setattr(plain_parquet, "MEMORY_PER_BYTE", 0)
    monkeypatch.setattr(plain_parquet, "MEMORY", 1 << 20)
    with pytest.raises(BadInput, match="of memory"):
        refuse_bomb(file)
    monkeypatch.undo()
    assert refuse_bomb(file).names == ["a"]


def test_the_other_process_imports_nothing_from_where_this_one_runs(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('ran')")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "any.parquet")
    program = "import sys; sys.path.pop(0); from groupppo.records.plain_parquet import refuse_bomb as r; "
    program += "from pathlib import Path; print(r(Path('any.parquet')).names)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['a']", done.stderr
    assert "groupppo" not in Path(decode.__file__).read_text().split('"""')[2]


FAULTS = find_study("faults")
FAULT_COLUMNS = FAULTS.columns["faults"]
HEAD = ",".join(FAULT_COLUMNS)
CSV: dict[str, bytes] = {
    "nothing": b"",
    "a million commas": b"," * 1_000_000,
    "the head and a million commas": HEAD.encode() + b"," * 1_000_000,
    "a row of a million commas": f"{HEAD}\n{',' * 1_000_000}\n".encode(),
    "an open quote": f'{HEAD}\n"'.encode() + b"x" * 1_000_000,
    "NULs": HEAD.encode() + b"\n" + b"\0" * 1_000_000,
    "no UTF-8": HEAD.encode() + b"\n" + b"\xff," * (len(FAULT_COLUMNS) - 1) + b"\n",
    "a column more in each row": f"{HEAD}\n{'1,' * len(FAULT_COLUMNS)}1\n".encode() * 1,
    "a column twice": f"{HEAD},{HEAD}\n".encode(),
    "UTF-16": HEAD.encode("utf-16"),
    "too large": HEAD.encode() + b"\n" * (20 << 20),
}


@pytest.mark.parametrize("content", CSV.values(), ids=CSV)
def test_csv_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "faults.csv").write_bytes(content)
    found = bounded(lambda: FAULTS.read_table(tmp_path, "faults"))
    assert isinstance(found, BadInput) or len(found.columns) == len(FAULT_COLUMNS)
    (tmp_path / "faults.csv").write_text(f"{HEAD}\n{','.join(['1'] * len(FAULT_COLUMNS))}\n")
    assert len(FAULTS.read_table(tmp_path, "faults")) == 1


SAMPLES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"x\n",
    "a list": b"[1]\n",
    "a number": b"7\n",
    "100,000 levels": b"[" * 100_000,
    "a score of 400 digits": b'{"doc_id": 0, "accuracy": ' + b"9" * 400 + b"}\n",
    "a score that is text": b'{"doc_id": 0, "accuracy": "1"}\n',
    "a score that is a list": b'{"doc_id": 0, "accuracy": [1]}\n',
    "a number of 5,000 digits": b'{"doc_id": ' + b"9" * 5000 + b', "accuracy": 1.0}\n',
    "an item that is a list": b'{"doc_id": [0], "accuracy": 1.0}\n',
    "an item twice": b'{"doc_id": 0, "accuracy": 1.0}\n' * 2,
    "a line of 20 MB": b'{"doc_id": 0, "x": "' + b"x" * 20_000_000 + b'", "accuracy": 1.0}\n',
    "no UTF-8": b'{"doc_id": 0, "x": "\xff", "accuracy": [1.0]}\n',
    "NaN": b'{"doc_id": 0, "accuracy": NaN}\n',
    "beyond all floats": b'{"doc_id": 0, "accuracy": 1e999}\n',
    "empty lines": b"\n" * 2_000_000,
}


@pytest.mark.parametrize("content", SAMPLES.values(), ids=SAMPLES)
def test_samples_are_refused(tmp_path: Path, content: bytes) -> None:
    run = Keys("sorting", "tiny", "ppo", 1)
    folder = run.below(tmp_path / "evals")
    folder.mkdir(parents=True)
    file = folder / "samples_any.jsonl"
    file.write_bytes(content)
    assert isinstance(bounded(lambda: ItemScores(tmp_path).of(run, "accuracy", 1.0)), BadInput)
    file.write_bytes(b'{"doc_id": 0, "accuracy": 1.0}\n')
    assert ItemScores(tmp_path).of(run, "accuracy", 1.0).tolist() == [1.0]


@pytest.mark.parametrize(
    "pump", ["/", "/a", "/a/", "a/", "\\n/a", "file:///", "@/", "data:", "data:a;base64,", "</a>", " /"]
)
def test_paths_are_taken_out_in_time_that_grows_with_the_text(pump: str) -> None:
    for end in ("", "!", "\0", '"'):
        bounded(lambda end=end: scrub_record(pump * (300_000 // len(pump)) + end))
    assert scrub_record("at /a/b") == "at path-removed/b"


def test_an_answer_is_found_in_time_that_grows_with_the_text() -> None:
    for pump in ("####\n", "#### ", "\\boxed{", "\\boxed{1}", "<answer>", "<answer>a", "1=", "$", " ", "for the ", "{"):
        text = pump * (40_000 // len(pump))
        for form in (text, f"#### {text}", f"\\boxed{{{text}}}"):
            bounded(lambda form=form: extract_answer(form))
            bounded(lambda form=form: gym_reward.ANSWER.findall(form))
    assert extract_answer(f"#### 7\n{'####' * 50_000}") == "7"
