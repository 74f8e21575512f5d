"""What raw records say of one another: hashes, cells, settings and scores; nothing can make these files again.

A held-out accuracy is followed from what it rests on: responses are judged again by the task's own reward, their scores
give the means and standard errors of result.json, and these are lm-eval's own.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark, Task
from groupppo.config.benchmark import RATE_KEY as RATE
from groupppo.errors import BadInput
from groupppo.publish.contents import CONFIG, LOCKS, Difference
from groupppo.publish.derive import has_steps
from groupppo.publish.reading import config_values, flat, read_json, same_number
from groupppo.records.folders import START, RunFolder
from groupppo.records.hashing import sha256_file
from groupppo.records.plain_json import read_lines, value_at
from groupppo.records.seal import KEY, OF_A_RUN, STAMP, published_sha256
from groupppo.tables.keys import Keys
from groupppo.tasks.reward import scorer
from groupppo.verdicts.item_scores import ItemScores

_SAMPLES, _REPORTS = "samples_*.jsonl", "results_*.json"
_SEALED = {RunFolder.STATUS: OF_A_RUN, "result.json": (_REPORTS, _SAMPLES), "study.json": ("*.csv",)}
"""Files that a record seals, if they lie beside it."""
_QUESTION = ("doc", "target", "arguments")
"""What all evaluations of a task and model ask alike, by item."""
_Asked = dict[tuple[str, str, str], tuple[str, dict[int, Any]]]
"""By task, model and kind of sampling: where an item was asked first, and what."""
_HINT = "fetch the bundle again."


def record_differences(folder: Path, benchmark: Benchmark) -> Iterator[Difference]:
    """Every raw record of a bundle or a results folder that contradicts another one, or the matrix."""
    for record in [*_statuses(folder), *_results(folder), *sorted(folder.glob("studies/*/*/study.json"))]:
        yield from _seal_differences(folder, record)
    for status in _statuses(folder):
        yield from _run_differences(folder, benchmark, RunFolder(status.parent))
    for result in _results(folder):
        card = folder / "assets" / "tasks" / _keys(folder, result).task / "card.json"
        said = {"data_sha256": None} | read_json(result)
        yield from _other_hash(folder, result, said, "data_sha256", card, "splits", "test", "sha256")
    for start in sorted(folder.glob("assets/starts/*/*/warmstart.json")):
        log = start.with_suffix(".jsonl")
        last = {key: value for key, value in read_json(start).items() if key != "task"}
        lines = [line for _, line in read_lines(log, _HINT)] if log.is_file() else []
        if lines and lines[-1] != last:
            yield _name(folder, start), f"the last line of {log.name}", last


def _seal_differences(folder: Path, record: Path) -> Iterator[Difference]:
    """The files that a record names by their hashes: they are there, they are these, and no other lies beside it."""
    sealed = read_json(record).get(KEY)
    if not isinstance(sealed, dict):
        return
    present = {file.name for pattern in _SEALED[record.name] for file in record.parent.glob(pattern)}
    for name in sorted(present - set(sealed)):
        yield f"{_name(folder, record)}: {KEY}", f"the SHA-256 of {name}", "nothing"
    for name, expected in sealed.items():
        file = folder / STAMP if name == STAMP else record.parent / name
        if Path(name).name != name:
            yield f"{_name(folder, record)}: {KEY}", "names of files beside it", name
        elif file.is_file() or not file.match(_SAMPLES):  # samples may be left out; the notes say so
            found = published_sha256(file) if file.is_file() else None
            if found is None or found != expected:
                yield _name(folder, file), f"SHA-256 {expected}, as {record.name} says", found or "no file"


def _run_differences(folder: Path, benchmark: Benchmark, run: RunFolder) -> Iterator[Difference]:
    """A run's config has the keys of its arm; its data and start are those that other records name."""
    task, model, arm, seed = run.path.relative_to(folder).parts[1:5]
    if run.config.is_file():
        values = config_values(run.config)
        for key, expected in _asked(benchmark, model, arm, seed).items():
            yield from _unlike(f"{_name(folder, run.config)}: {key}", expected, values.get(key))
    if run.provenance.is_file():
        inputs = value_at(read_json(run.provenance), "inputs")
        card = folder / "assets" / "tasks" / task / "card.json"
        start = Keys(task, model, START, None).below(folder / "evals") / "result.json"
        for key, other, *place in (
            ("train_data_sha256", card, "splits", "train", "sha256"),
            ("start_model_sha256", start, "checkpoint_sha256"),
        ):
            yield from _other_hash(folder, run.provenance, inputs, key, other, *place)


def _other_hash(folder: Path, file: Path, record: Any, key: str, other: Path, *place: str) -> Iterator[Difference]:
    """A hash that a record says, where another file says it too."""
    if isinstance(record, dict) and key in record and other.is_file():
        yield from _unlike(f"{_name(folder, file)}: {key}", value_at(read_json(other), *place), record[key])


def _asked(benchmark: Benchmark, model: str, arm: str, seed: str) -> dict[str, Any]:
    """What the matrix says of keys of a run's config; nothing for a run that is not in it."""
    if model not in benchmark.models or arm not in benchmark.arms:
        return {}
    said = {RATE: benchmark.train.actor_lr} if RATE in benchmark.arms[arm].verl else {}
    for verl in (benchmark.models[model].verl, benchmark.train.verl, benchmark.arms[arm].verl):
        said |= flat(verl)
    number = seed.removeprefix("seed")
    return said | {"data.seed": int(number)} if number.isdecimal() else said


def _unlike(place: str, expected: Any, found: Any) -> Iterator[Difference]:
    """YAML takes 1e-06 for a text, and verl a whole number for a real one."""
    try:
        same = str(expected) == str(found) or float(expected) == float(found)
    except (TypeError, ValueError):
        same = False
    if not same:
        yield place, expected, found


def evaluation_differences(folder: Path, benchmark: Benchmark) -> Iterator[Difference]:
    """Every number of an evaluation that does not follow from its samples or scores by item."""
    scores, asked = ItemScores(folder), _Asked()
    for result in _results(folder):
        keys, name, metrics = _keys(folder, result), _name(folder, result), read_json(result).get("metrics")
        if not isinstance(metrics, dict):
            yield f"{name}: metrics", "an object", metrics
            continue
        samples, task = sorted(result.parent.glob(_SAMPLES)), benchmark.tasks.get(keys.task)
        if task is not None:
            for file in samples:
                yield from _judged_again(folder, file, keys, task, asked)
        if samples or scores.has(keys):
            yield from _means(name, keys, metrics, scores)
        for report in sorted(result.parent.glob(_REPORTS)):
            told = read_json(report)
            for metric in metrics:
                kind = f"{keys.task}_greedy" if metric == "accuracy" else f"{keys.task}_sampled"
                for key, column in (("value", f"{metric},responses"), ("stderr", f"{metric}_stderr,responses")):
                    ours, theirs = value_at(metrics, metric, key), value_at(told, "results", kind, column)
                    if not same_number(ours, theirs):
                        yield f"{name}: {metric} {key}", f"{theirs} as in {report.name}", ours


def _judged_again(folder: Path, file: Path, keys: Keys, task: Task, asked: _Asked) -> Iterator[Difference]:
    """The score of every line by the task's reward, and its question and answer by those of other evaluations."""
    judge, name = scorer(task.reward), _name(folder, file)
    kind = file.name.removeprefix("samples_").rpartition("_")[0]
    first, known = asked.setdefault((keys.task, keys.model, kind), (name, {}))
    place = name
    try:
        for line, row in read_lines(file, _HINT):
            place = f"{name}: {line}"
            question, responses = {key: row[key] for key in _QUESTION}, row["resps"][0]
            metric = f"mean@{len(responses)}" if kind.endswith("_sampled") else "accuracy"
            expected = sum(judge(str(text), row["doc"]["answer"]) for text in responses) / len(responses)
            earlier = known.setdefault(row["doc_id"], question)
            if not same_number(expected, row.get(metric)):
                yield f"{place} {metric}", f"{expected}, as the reward of task {task.name} judges", row.get(metric)
            if earlier != question:
                yield f"{place} {', '.join(_QUESTION)}", f"what {first} has", "something else"
            if row.get("filtered_resps") != row["resps"]:
                yield f"{place} filtered_resps", "the responses", "others"
    except (BadInput, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        yield place, "a sample of lm-eval", repr(error)[:200]


def _means(name: str, keys: Keys, metrics: dict[str, Any], scores: ItemScores) -> Iterator[Difference]:
    for metric in metrics:
        try:
            found = scores.scores(keys, metric)
        except BadInput as error:
            yield f"{name}: {metric}", "scores by item", error.value or error.hint
            continue
        # As lm-eval has it: of the mean over items.
        stderr = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0
        for key, value in {"value": float(found.mean()), "stderr": stderr, "n": len(found)}.items():
            stated = value_at(metrics, metric, key)
            # Scores without samples are kept in single precision.
            if not same_number(value, stated, 1e-6):
                yield f"{name}: {metric} {key}", f"{value} by its items", stated


def notes(folder: Path) -> list[str]:
    """What a reader must know that is missing or does not fit; one line for what is true of many files."""
    told: dict[str, list[str]] = {}
    for name, why in _gaps(folder):
        told.setdefault(why, []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {why}" for why, names in told.items()
    ]


def _gaps(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file that is missing, or says less than it could, and why that matters."""
    lock = sha256_file(folder / LOCKS[0]) if (folder / LOCKS[0]).is_file() else ""
    for status in _statuses(folder):
        file = RunFolder(status.parent).provenance
        used = value_at(read_json(file), "software", "lock_sha256") if file.is_file() else None
        if not file.is_file():
            yield _name(folder, file), "missing; the run did not get as far as to write it."
        elif used not in (None, lock):
            yield _name(folder, file), f"the run used another lock (SHA-256 {used}) than {LOCKS[0]} of this bundle."
        if not isinstance(read_json(status).get(KEY), dict):
            yield _name(folder, status), "the run, of an earlier version, recorded no hashes of its files."
    scores = ItemScores(folder)
    for result in _results(folder):
        if not any(result.parent.glob(_SAMPLES)):
            nothing = "neither samples nor scores by item; its metrics cannot be made again."
            known = scores.has(_keys(folder, result))
            yield _name(folder, result), "no samples; its responses cannot be judged again." if known else nothing
        if not any(result.parent.glob(_REPORTS)):
            yield _name(folder, result), "lm-eval's own results are missing; its metrics cannot be compared with them."
    if not (folder / STAMP).is_file():
        yield STAMP, "missing; nothing says what was fixed before the first run."
    if not has_steps(folder):
        why = "no run has its steps.jsonl and stages.jsonl, so single steps cannot be compared with them."
        yield "tables/steps.parquet and tables/stages.parquet are raw", why
    for study in sorted(folder.glob("studies/*/*/study.json")):
        script = folder / CONFIG / "studies" / f"{study.parts[-3]}.py"
        used = value_at(read_json(study), "inputs", "script_sha256")
        if used is not None and script.is_file() and sha256_file(script) != used:
            yield _name(folder, study), f"the study was run by another script (SHA-256 {used})."


def _statuses(folder: Path) -> list[Path]:
    return sorted(
        file for aside in ("", f"{RunFolder.FAILED}/") for file in folder.glob(f"runs/*/*/*/*/{aside}status.json")
    )


def _results(folder: Path) -> list[Path]:
    """Every result.json, that of the starts and that of the runs."""
    return sorted([*folder.glob(f"evals/*/*/{START}/result.json"), *folder.glob("evals/*/*/*/seed*/result.json")])


def _keys(folder: Path, result: Path) -> Keys:
    """The run whose checkpoint a result.json is about."""
    task, model, arm, *rest = result.relative_to(folder).parts[1:-1]
    seed = rest[0].removeprefix("seed") if rest else ""
    return Keys(task, model, arm, int(seed) if seed.isdecimal() else None)


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
