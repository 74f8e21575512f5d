"""One archive with everything a stranger needs to read, check and rerun a benchmark: results/<name>/bundle.zip.

    make_bundle(Path("results/quick"), Path("results/quick/bundle.zip"), checkpoints=False)

Its bytes depend on the results and on this repository's sources alone: not on the clock, nor on where anything lies.
Records that a program wrote about its own run (configs, provenance, lm-eval's results) lose every absolute path.
lm-eval's samples, which are evidence, lose only paths below places that the records name; a prompt about file systems
stays as it is. Whatever is derived is derived again from what is left.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from groupppo.config import REPOSITORY, Benchmark
from groupppo.errors import BadInput
from groupppo.measure.provenance import source
from groupppo.publish import contents
from groupppo.publish.archive import write_archive
from groupppo.publish.contents import CONFIG, ITEMS, RECORD, VERDICTS, Kind, Rule, Scrub, files_in, is_picture, rule_of
from groupppo.publish.derive import derive, has_steps, made_by
from groupppo.publish.reading import read_json
from groupppo.publish.records import notes
from groupppo.publish.source import config_files, loaded_config, read_record, written_files
from groupppo.records.hashing import SNAKEMAKES_OWN, sha256_file
from groupppo.records.plain_json import value_at
from groupppo.records.seal import ABSOLUTE, scrub_record, without_place
from groupppo.records.superseded import FOLDER
from groupppo.report.sections import PROFILE
from groupppo.tables import Only, load_tables
from groupppo.tables.keys import plans_begun
from groupppo.verdicts.item_scores import items_table

_WEIGHTS = re.compile(rf"{contents.RUN}/(?:checkpoint|critic)/.+")
_END = "run the benchmark to its end first: `snakemake`."


def make_bundle(results: Path, out: Path, *, checkpoints: bool, samples: bool = True) -> Path:
    """Pack a finished results folder.

    Args:
        results: a results folder with its report, or an unpacked bundle, some of it made anew (`groupppo report`).
        out: the archive, replaced as a whole or not at all.
        checkpoints: also pack the weights of starts and trained policies (safetensors; never pickles).
        samples: pack lm-eval's samples, or their scores by item alone.

    Returns:
        `out`.

    Raises:
        BadInput: a product, a study or the profile is missing, claims or matrix have changed since the verdicts, a file
            is a link, of a kind that is not published, or has a name that some file system cannot keep.
    """
    if not results.is_dir():
        raise BadInput(results, "folder", None, "name a results folder, such as results/quick.")
    with loaded_config(results) as (benchmark, _):
        _require_complete(results, benchmark)
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        folder = Path(place)
        staged = stage(results, folder, checkpoints=checkpoints, samples=samples)
        with loaded_config(folder) as (benchmark, claims):
            derive(folder, benchmark, claims)
        before, origin = _unpacked_from(results, folder)
        said = {"made_by": made_by(), "source": origin, "checkpoints": checkpoints, "samples": samples}
        files = {**files_in(folder), **staged.weights}
        contents.write_lists(folder, benchmark, files, said | {"notes": notes(folder)}, before | staged.scrubbed)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_archive(out, {**files_in(folder), **staged.weights})
    return out


def _require_complete(results: Path, benchmark: Benchmark) -> None:
    """The results are whole, and whatever the benchmark asks for beside its runs is there, of the tasks and models
    begun: without it nobody can decide the verdicts again.
    """
    cells = [f"{plan.task}.{plan.model}" for plan in plans_begun(results, benchmark)]
    asked = [f"studies/{study}/{cell}/*.csv" for study in benchmark.studies for cell in cells]
    asked += [f"{PROFILE}/tables/*.parquet"] if benchmark.profile else []
    least = ("report.html", VERDICTS, RECORD, *contents.STEP_TABLES)
    for pattern in (*least, "figures/figures.json", "evals/**/result.json", "runs/**/provenance.json", *asked):
        if not any(results.glob(pattern)):
            hint = f"{_END[:-1]}; {RECORD} asks for it." if pattern in asked else _END
            raise BadInput(results / pattern, "files", None, hint)


@dataclass
class Staged:
    """A bundle's raw files, sources and pictures.

    Args:
        weights: files that stay where they are, by name.
        scrubbed: by name, how many paths were taken out of a file, and its SHA-256 before.
    """

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
    staged = Staged()
    names = {name: rule for name, rule in _underived(results) if checkpoints or not rule.weights}
    with_samples = {name for name, rule in names.items() if rule.scrub is Scrub.SAMPLES}
    if not samples:
        names = {name: rule for name, rule in names.items() if name not in with_samples}
        if ITEMS not in names:
            _write(folder / ITEMS, items_table(results, load_tables(results / "tables", {"evals": Only()}).evals))
    elif with_samples:
        names.pop(ITEMS, None)  # the samples say more
    machine = places(_text(results / name) for name, rule in names.items() if rule.scrub is Scrub.RECORD)
    for name, rule in names.items():
        file = _publishable(results, name)
        if rule.weights and rule.scrub is Scrub.NONE:
            staged.weights[name] = file
            continue
        content, count = _scrubbed(file, rule.scrub, machine)
        if count:
            _write(folder / name, content)
            staged.scrubbed[name] = {"paths": count, "original_sha256": sha256_file(file)}
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
    if not (results / CONFIG).is_dir():
        for name in (*contents.LOCKS, *contents.RIGHTS):
            _write(folder / name, (REPOSITORY / name).read_bytes())
        # The record that is published has lost its paths, and so do the files that are made of it.
        config = config_files(results, str(read_json(results / VERDICTS).get("claims_sha256")))
        for name, content in (config | written_files(read_record(folder / RECORD))).items():
            _write(folder / CONFIG / name, content)
    return staged


def _underived(results: Path) -> Iterator[tuple[str, Rule]]:
    """Raw files, sources and pictures of a results folder, each with its rule."""
    raw_tables = () if has_steps(results) else contents.STEP_TABLES
    for top in sorted(results.iterdir()):
        for file in sorted((top, *top.rglob("*")) if top.is_dir() and not top.is_symlink() else (top,)):
            place = file.relative_to(results)
            name, rule = place.as_posix(), rule_of(place.as_posix())
            if (file.is_dir() and not file.is_symlink()) or FOLDER in place.parts or file.name == SNAKEMAKES_OWN:
                continue
            if rule is None and _WEIGHTS.fullmatch(name):
                rule = Rule(name, Kind.RAW, weights=True)
            if rule and (rule.kind in (Kind.RAW, Kind.SOURCE) or is_picture(name) or name in raw_tables):
                yield name, rule


def underived(results: Path) -> list[str]:
    """What `derive` begins with: raw files but weights, sources, and pictures, which it need not draw again."""
    return [name for name, rule in _underived(results) if not rule.weights]


def _publishable(results: Path, name: str) -> Path:
    file = results / name
    if rule_of(name) is None:
        hint = "move it out of the checkpoint: only weights, JSON and text are published, no code and no pickles."
        raise BadInput(file, "file", file.suffix, hint)
    if any((results / place).is_symlink() for place in (Path(name), *Path(name).parents)[:-1]):
        hint = "put the file itself there: what a link points to is not part of results."
        raise BadInput(file, "file", "a link", hint)
    return file


def places(records: Iterable[str]) -> tuple[str, ...]:
    """The first two folders of every absolute path in texts of records, such as "/place/project/"."""
    paths = {match.group() for text in records for match in ABSOLUTE.finditer(text)}
    return tuple(sorted({"/".join(path.split("/")[:3]) + "/" for path in paths if path.count("/") > 2}))


def scrub_samples(text: str, machine: tuple[str, ...]) -> tuple[str, int]:
    """The text of samples without paths below the places of a machine, and how many there were."""
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        if not match.group().startswith(machine):
            return match.group()
        count += 1
        return without_place(match.group())

    found = any(start in text for start in machine)
    return (ABSOLUTE.sub(replace, text), count) if found else (text, 0)


def _scrubbed(file: Path, how: Scrub, machine: tuple[str, ...]) -> tuple[bytes, int]:
    """The content without paths, and how many there were; it is to be copied where there were none."""
    if how is Scrub.NONE:
        return b"", 0
    if how is Scrub.TABLE:
        return _scrubbed_table(file)
    text = _text(file)
    new, count = scrub_record(text) if how is Scrub.RECORD else scrub_samples(text, machine)
    return new.encode("utf-8", "surrogateescape"), count


def _scrubbed_table(file: Path) -> tuple[bytes, int]:
    try:
        rows = pd.read_parquet(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(file, "file", str(error).splitlines()[0], "write the table again.") from error
    count = 0
    for column in rows.select_dtypes(["object", "string"]):
        scrubbed = [scrub_record(text) if isinstance(text, str) else (text, 0) for text in rows[column]]
        count += sum(found for _, found in scrubbed)
        rows[column] = [text for text, _ in scrubbed]
    return rows.to_parquet(index=False), count


def _text(file: Path) -> str:
    """The whole content. A broken run may have left bytes that are no text; they come out again as they were."""
    return file.read_bytes().decode("utf-8", "surrogateescape")


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _unpacked_from(results: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of an unpacked bundle, what its manifest says of files that are as their paths were taken out, and the commit of
    its sources; of results, this repository's commit."""
    if not (results / CONFIG).is_dir():
        return {}, source()
    manifest, hashes = read_json(results / contents.MANIFEST), contents.read_sums(results)
    listed, told = value_at(manifest, "files"), value_at(manifest, "source")
    before = {
        name: entry
        for name, entry in (listed.items() if isinstance(listed, dict) else ())
        if name in hashes and (folder / name).is_file() and sha256_file(folder / name) == hashes[name]
    }
    return before, told if isinstance(told, dict) else {"commit": None, "uncommitted_sha256": None}
