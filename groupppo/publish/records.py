"""What raw records say of one another: hashes, cells and settings; nothing can make these files again.

`record_differences` yields what contradicts, `notes` what is missing and why nobody can check it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.publish.derive import has_steps
from groupppo.publish.evaluations import Difference, evaluations, has_scores, keys_of, reports
from groupppo.publish.files import LOCKS
from groupppo.publish.matrix import CONFIG, flat
from groupppo.publish.reading import read_json
from groupppo.publish.settings import as_written, config_values
from groupppo.rates import KEY as RATE
from groupppo.records.folders import START, ResultsFolder, RunFolder
from groupppo.records.hashing import sha256_file
from groupppo.records.plain_json import parse_json
from groupppo.records.seal import KEY, OF_A_RUN, STAMP, published_sha256
from groupppo.tables.keys import Keys, found_keys
from groupppo.verdicts.item_scores import ItemScores

_MEND = "fetch the bundle again."
_BESIDE = ("results_*.json", "samples_*.jsonl")


def record_differences(
    folder: Path, benchmark: Benchmark, scrubbed: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    """(place, expected, found) of every raw record that contradicts another one, or the matrix.

    Args:
        scrubbed: what the manifest says of each file; `original_sha256` is its hash before its paths were taken out.
    """
    for file in [*_statuses(folder), *evaluations(folder), *sorted(folder.glob("studies/*/*/study.json"))]:
        yield from _seal_differences(folder, file, scrubbed)
    for status in _statuses(folder):
        yield from _run_differences(folder, benchmark, status, scrubbed)
    for file in evaluations(folder):
        keys = keys_of(file.relative_to(folder))
        card = _card(folder, keys.task)
        if card is not None:
            found = read_json(file).get("data_sha256")
            yield from _same(f"{_name(folder, file)}: data_sha256", _split(card, "test"), found)
    for start in sorted(folder.glob("assets/starts/*/*/warmstart.json")):
        lines = start.with_suffix(".jsonl").read_bytes().splitlines() if start.with_suffix(".jsonl").is_file() else []
        last = {key: value for key, value in read_json(start).items() if key != "task"}
        if lines and parse_json(lines[-1], start.with_suffix(".jsonl"), "last line", _MEND) != last:
            yield _name(folder, start), "the last line of warmstart.jsonl", last


def notes(folder: Path) -> list[str]:
    """What a reader must know that is missing or does not fit."""
    told = [*_run_notes(folder), *_evaluation_notes(folder)]
    if not (folder / STAMP).is_file():
        told.append(f"{STAMP}: missing; nothing says what was fixed before the first run.")
    if not has_steps(folder):
        told.append(
            "tables/steps.parquet and tables/stages.parquet are raw: no run has its steps.jsonl and stages.jsonl, so "
            "single steps cannot be compared with them."
        )
    for record in sorted(folder.glob("studies/*/*/study.json")):
        script = folder / CONFIG / "studies" / f"{record.parts[-3]}.py"
        inputs = read_json(record).get("inputs")
        used = inputs.get("script_sha256") if isinstance(inputs, dict) else None
        if used is not None and script.is_file() and sha256_file(script) != used:
            told.append(f"{_name(folder, record)}: the study was run by another script (SHA-256 {used}).")
    return told


def _run_notes(folder: Path) -> list[str]:
    runs = ResultsFolder(folder).runs
    lock, told = sha256_file(folder / LOCKS[0]) if (folder / LOCKS[0]).is_file() else "", dict[str, list[str]]()
    for keys in sorted(found_keys(runs)[0] if runs.is_dir() else ()):
        run = RunFolder(keys.below(runs))
        files = [run.provenance, run.failed.provenance]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            why = "missing; the run did not get as far as to write it."
            told.setdefault(why, []).append(_name(folder, files[0]))
            continue
        used = _part(read_json(file), "software").get("lock_sha256")
        if used not in (None, lock):
            why = f"the run used another lock (SHA-256 {used}) than {LOCKS[0]} of this bundle."
            told.setdefault(why, []).append(_name(folder, file))
    for status in _statuses(folder):
        if not isinstance(read_json(status).get(KEY), dict):
            why = "the run, of an earlier version, recorded no hashes of its files."
            told.setdefault(why, []).append(_name(folder, status))
    return _listed(told)


def _evaluation_notes(folder: Path) -> list[str]:
    scores, told = ItemScores(folder), dict[str, list[str]]()
    for file in evaluations(folder):
        name = _name(folder, file)
        keys = keys_of(file.relative_to(folder))
        if not has_scores(folder, scores, keys):
            told.setdefault("neither samples nor scores by item; its metrics cannot be made again.", []).append(name)
        elif not any(file.parent.glob(_BESIDE[1])):
            told.setdefault("no samples; its responses cannot be judged again.", []).append(name)
        if not reports(file):
            told.setdefault("lm-eval's own results are missing.", []).append(name)
    return _listed(told)


def _listed(told: Mapping[str, list[str]]) -> list[str]:
    """One line for what is true of many files."""
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {why}" for why, names in told.items()
    ]


def _seal_differences(folder: Path, file: Path, scrubbed: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    sealed = read_json(file).get(KEY)
    if not isinstance(sealed, dict):
        return
    name, home = _name(folder, file), file.parent
    patterns = {RunFolder.STATUS: OF_A_RUN, "result.json": _BESIDE, "study.json": ("*.csv",)}[file.name]
    present = {beside.name for pattern in patterns for beside in home.glob(pattern)}
    for beside in sorted(present - set(sealed)):
        yield f"{name}: {KEY}", f"the SHA-256 of {beside}", "nothing"
    for beside, expected in sealed.items():
        place = folder / STAMP if beside == STAMP else home / beside
        if "/" in beside or "\\" in beside:
            yield f"{name}: {KEY}", "names of files beside it", beside
        elif not place.is_file():
            # Samples may be left out; the notes say so.
            if not place.match(_BESIDE[1]):
                yield _name(folder, place), f"SHA-256 {expected}, as {file.name} says", "no file"
        elif (found := published_sha256(place)) != expected:
            before = scrubbed.get(_name(folder, place), {}).get("original_sha256")
            if not place.match(_BESIDE[1]) or before != expected:
                yield _name(folder, place), f"SHA-256 {expected}, as {file.name} says", found


def _run_differences(
    folder: Path, benchmark: Benchmark, status: Path, scrubbed: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    config, provenance = RunFolder(status.parent).config, RunFolder(status.parent).provenance
    task, model, arm, seed = status.relative_to(folder).parts[1:5]
    if config.is_file():
        values = config_values(config)
        for key, expected in as_written(_asked(benchmark, model, arm, seed)).items():
            yield from _same(f"{_name(folder, config)}: {key}", expected, values.get(key))
    if not provenance.is_file():
        return
    inputs = _part(read_json(provenance), "inputs")
    name = _name(folder, config)
    if config.is_file() and inputs.get("config_sha256") is not None and not _sealed(status):
        found = scrubbed.get(name, {}).get("original_sha256") or sha256_file(config)
        if found != inputs["config_sha256"]:
            yield name, f"SHA-256 {inputs['config_sha256']} before scrubbing", found
    card = _card(folder, task)
    if card is not None and "train_data_sha256" in inputs:
        place = f"{_name(folder, provenance)}: train_data_sha256"
        yield from _same(place, _split(card, "train"), inputs["train_data_sha256"])
    start = Keys(task, model, START, None).below(folder / "evals") / "result.json"
    if start.is_file() and "start_model_sha256" in inputs:
        place = f"{_name(folder, provenance)}: start_model_sha256"
        yield from _same(place, read_json(start).get("checkpoint_sha256"), inputs["start_model_sha256"])


def _asked(benchmark: Benchmark, model: str, arm: str, seed: str) -> dict[str, Any]:
    """What the matrix says of keys of a run's config; nothing for a run that is not in it."""
    if model not in benchmark.models or arm not in benchmark.arms:
        return {}
    said = {RATE: benchmark.train.actor_lr} if RATE in benchmark.arms[arm].verl else {}
    for verl in (benchmark.models[model].verl, benchmark.train.verl, benchmark.arms[arm].verl):
        said |= flat(verl)
    return said | {"data.seed": int(seed.removeprefix("seed"))} if seed.removeprefix("seed").isdecimal() else said


def _same(place: str, expected: Any, found: Any) -> Iterator[Difference]:
    if expected != found and str(expected) != str(found) and not _same_text(expected, found):
        yield place, expected, found


def _same_text(a: Any, b: Any) -> bool:
    """YAML takes 1e-06 for a text, and verl a whole number for a real one."""
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return False


def _statuses(folder: Path) -> list[Path]:
    places = (f"runs/*/*/*/*/{aside}{RunFolder.STATUS}" for aside in ("", f"{RunFolder.FAILED}/"))
    return sorted(file for place in places for file in folder.glob(place))


def _sealed(status: Path) -> bool:
    return isinstance(read_json(status).get(KEY), dict)


def _card(folder: Path, task: str) -> dict[str, Any] | None:
    file = folder / "assets" / "tasks" / task / "card.json"
    return read_json(file) if file.is_file() else None


def _split(card: Mapping[str, Any], name: str) -> Any:
    return _part(_part(card, "splits"), name).get("sha256")


def _part(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
