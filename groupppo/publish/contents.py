"""What of a results folder goes into a bundle, and how the paths of a machine are taken out of it."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from groupppo.config import REPOSITORY, Benchmark
from groupppo.errors import BadInput
from groupppo.profile.tables import FOUND, read_tables
from groupppo.publish.archive import CHUNK
from groupppo.publish.derive import has_steps
from groupppo.publish.files import ITEMS, LOCKS, RECORD, RIGHTS, STEP_TABLES, Kind, Rule, Scrub, is_picture, rule_of
from groupppo.publish.matrix import CONFIG, config_files, read_record, written_files
from groupppo.publish.reading import read_json
from groupppo.publish.scrub import Places, scrub_samples
from groupppo.records.hashing import sha256_file
from groupppo.records.seal import scrub_record
from groupppo.records.superseded import FOLDER
from groupppo.report.sections import PROFILE
from groupppo.tables import Only, load_tables
from groupppo.tables.keys import plans_begun
from groupppo.verdicts.item_scores import items_table

_WITH_WEIGHTS = re.compile(r"runs/[^/]+/[^/]+/[^/]+/[^/]+/(?:checkpoint|critic)/.+")
_BOOKKEEPING = ".snakemake_timestamp"
"""Snakemake leaves it in every folder that a rule makes as a whole."""
_END = "run the benchmark to its end first: `snakemake`."


@dataclass(frozen=True)
class InFile:
    """Bytes of a file, piece by piece."""

    file: Path

    def chunks(self) -> Iterator[bytes]:
        with self.file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk


@dataclass
class Staged:
    """A bundle's raw files, sources and pictures.

    Args:
        folder: where they are, without paths of a machine.
        weights: files that stay where they are, by name.
        scrubbed: by name, how many paths were taken out of a file, and its SHA-256 before.
    """

    folder: Path
    weights: dict[str, Path] = field(default_factory=dict)
    scrubbed: dict[str, dict[str, Any]] = field(default_factory=dict)


def stage(results: Path, folder: Path, *, checkpoints: bool, samples: bool) -> Staged:
    """Copy what a bundle of `results` holds and nothing can make again into the empty `folder`, paths taken out.

    Left out: logs, Snakemake's timings, task splits (config/tasks makes them again, their cards have the hashes),
    weights unless `checkpoints`, and lm-eval's samples, which are most of the bytes, unless `samples`: their scores
    alone are then in evals/items.parquet. A bundle that was unpacked has its config, its locks and its scores by item
    already; they stay as they are.

    Raises:
        BadInput: a file is a link, or no kind of file that is published.
    """
    staged = Staged(folder)
    names = {name: rule for name, rule in _found(results) if checkpoints or not rule.weights}
    if not samples:
        names = {name: rule for name, rule in names.items() if rule.scrub is not Scrub.SAMPLES}
        if ITEMS not in names:
            evals = load_tables(results / "tables", {"evals": Only()}).evals
            _write(folder / ITEMS, items_table(results, evals))
    elif any(rule.scrub is Scrub.SAMPLES for rule in names.values()):
        names.pop(ITEMS, None)  # the samples say more
    texts = (_text(results / name) for name, rule in names.items() if rule.scrub is Scrub.RECORD)
    places = Places.of_records(texts)
    for name, rule in names.items():
        file = _existing(results, name)
        if rule.weights and rule.scrub is Scrub.NONE:
            staged.weights[name] = file
            continue
        new, count = _scrubbed(file, rule.scrub, places)
        if new is None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
        else:
            _write(folder / name, new)
            staged.scrubbed[name] = {"paths": count, "original_sha256": sha256_file(file)}
    _describe(results, folder)
    say_where_found(results, folder)
    return staged


def _found(results: Path) -> Iterator[tuple[str, Rule]]:
    """Raw files, sources and pictures of a results folder, each with its rule."""
    raw_tables = () if has_steps(results) else STEP_TABLES
    for top in sorted(results.iterdir()):
        files = (top, *top.rglob("*")) if top.is_dir() and not top.is_symlink() else (top,)
        for file in sorted(files):
            place = file.relative_to(results)
            name, rule = place.as_posix(), rule_of(place.as_posix())
            if (file.is_dir() and not file.is_symlink()) or FOLDER in place.parts or file.name == _BOOKKEEPING:
                continue
            if rule is None and _WITH_WEIGHTS.fullmatch(name):
                rule = Rule(name, Kind.RAW, weights=True)
            if rule and (rule.kind in (Kind.RAW, Kind.SOURCE) or is_picture(name) or name in raw_tables):
                yield name, rule


def raw_files(results: Path) -> list[str]:
    """What `derive` begins with: raw files but weights, sources, and pictures, which it need not draw again."""
    return [name for name, rule in _found(results) if not rule.weights]


def _describe(results: Path, folder: Path) -> None:
    """Locks, rights and config; an unpacked bundle has its own."""
    if (results / CONFIG).is_dir():
        return
    for name in (*LOCKS, *RIGHTS):
        _write(folder / name, (REPOSITORY / name).read_bytes())
    claims_sha256 = str(read_json(results / "verdicts.json").get("claims_sha256"))
    # The record that is published has lost its paths, and so do the files that are made of it.
    files = config_files(results, claims_sha256) | written_files(read_record(folder / RECORD))
    for name, content in files.items():
        _write(folder / CONFIG / name, content)


def say_where_found(results: Path, folder: Path) -> None:
    """Write where the profile's measurements were found, which results of before say in their tables alone; into
    `folder`, if it is not there."""
    tables = results / PROFILE / "tables"
    if (folder / PROFILE / FOUND).is_file() or not tables.is_dir():
        return
    rows = read_tables(tables).variants
    told = {"measured_in": "", "published": False}
    if "measured_in" in rows and len(rows):
        told = {"measured_in": str(rows["measured_in"].iloc[0]), "published": bool(rows["published"].iloc[0])}
    _write(folder / PROFILE / FOUND, (scrub_record(json.dumps(told))[0] + "\n").encode())


def _scrubbed(file: Path, how: Scrub, places: Places) -> tuple[bytes | None, int]:
    """The content without paths, and how many there were; None where it stays as it is."""
    if how is Scrub.NONE:
        return None, 0
    if how is Scrub.TABLE:
        return _scrubbed_table(file)
    new, count = scrub_record(_text(file)) if how is Scrub.RECORD else scrub_samples(_text(file), places)
    return (new.encode("utf-8", "surrogateescape"), count) if count else (None, 0)


def _scrubbed_table(file: Path) -> tuple[bytes | None, int]:
    try:
        rows = pd.read_parquet(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(file, "file", str(error).splitlines()[0], "write the table again.") from error
    texts = rows.select_dtypes(["object", "string"])
    found = texts.map(lambda text: scrub_record(text) if isinstance(text, str) else (text, 0))
    count = int(found.map(lambda pair: pair[1]).to_numpy().sum()) if len(texts.columns) else 0
    clean = rows.assign(**{column: found[column].map(lambda pair: pair[0]) for column in texts})
    return (clean.to_parquet(index=False), count) if count else (None, 0)


def _text(file: Path) -> str:
    """The whole content. A broken run may have left bytes that are no text; they come out again as they were."""
    return file.read_bytes().decode("utf-8", "surrogateescape")


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _existing(results: Path, name: str) -> Path:
    file = results / name
    if rule_of(name) is None:
        hint = "move it out of the checkpoint: only weights, JSON and text are published, no code and no pickles."
        raise BadInput(file, "file", file.suffix, hint)
    above = [results.joinpath(*Path(name).parts[: i + 1]) for i in range(len(Path(name).parts))]
    if any(place.is_symlink() for place in above):
        raise BadInput(
            file, "file", "a link", "put the file itself there: what a link points to is not part of results."
        )
    return file


def require_complete(results: Path, benchmark: Benchmark) -> None:
    """The results are whole, and whatever the benchmark asks for beside its runs is there, of the tasks and models
    begun: without it nobody can decide the verdicts again.

    Raises:
        BadInput: a product, its profile's measurements or one of its studies are missing.
    """
    for name in ("report.html", "verdicts.json", RECORD, *STEP_TABLES):
        if not (results / name).is_file():
            raise BadInput(results / name, "file", None, _END)
    for folder, least in (("figures", "figures.json"), ("evals", "**/result.json"), ("runs", "**/provenance.json")):
        if not any((results / folder).glob(least)):
            raise BadInput(results / folder, "folder", None, _END)
    cells = [f"{plan.task}.{plan.model}" for plan in plans_begun(results, benchmark)]
    asked = [f"studies/{study}/{cell}/*.csv" for study in benchmark.studies for cell in cells]
    for pattern in [*asked, *([f"{PROFILE}/tables/*.parquet"] if benchmark.profile else [])]:
        if not any(results.glob(pattern)):
            hint = f"run the benchmark to its end first, `snakemake`: {RECORD} asks for it."
            raise BadInput(results / pattern, "files", None, hint)
